//! Asking an authorization server about one token: RFC 7662.
//!
//! Promises: a token is active only where the server says `"active": true` and nothing else that it says speaks against
//! it: another issuer, another audience, an end that has passed, a type that is no access token's, a DPoP token without
//! its key. Never: the token in a URL.

use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded::byte_serialize;

use super::{Active, RemoteValidator, Validation, ValidationError};
use crate::gate::identity::{
    claims::{Claims, check_required_claims, check_subject},
    jwt::{Rules, TokenError},
};
use crate::{
    clock::Timestamp,
    secret::{Secret, SecretSource, authorization},
};

/// The `introspection` table of an `[[issuer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The endpoint; from discovery where it is `None`.
    pub url: Option<String>,
    /// The gate's own client id there.
    pub client_id: String,
    /// The gate's own secret there.
    pub client_secret: SecretSource,
    /// Whether an answer without `aud` will do, where it has a `token_type`.
    pub audience_optional: bool,
    /// The member that names the caller: `sub` unless the server has none for programs.
    pub subject_claim: String,
}

pub(in crate::gate::identity) async fn ask(
    validator: &RemoteValidator,
    settings: &Settings,
    found: Option<&String>,
    rules: &Rules,
    token: &Secret,
    now: Timestamp,
) -> Result<Validation, ValidationError> {
    let url = settings.url.as_ref().or(found).ok_or(ValidationError::Nowhere)?;
    // RFC 6749 section 2.3.1: both are form-encoded before they are put together
    let secret = validator.secret(&settings.client_secret).await?;
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Secret::new(format!("{}:{}", encode(&settings.client_id), encode(secret.expose())));
    let basic = authorization(&format!("Basic {}", STANDARD.encode(pair.expose())))?;
    // RFC 7662 section 2.1
    let form = format!("token={}&token_type_hint=access_token", encode(token.expose()));
    let answer = validator.post(url, basic, "application/x-www-form-urlencoded", form).await?;
    let answer =
        std::str::from_utf8(&answer).map_err(|_| ValidationError::Malformed(url.clone(), "it is not UTF-8"))?;
    judge(answer, settings, rules, now).map_err(|why| ValidationError::Malformed(url.clone(), why))
}

/// What an answer (RFC 7662 section 2.2) says of its token.
fn judge(answer: &str, settings: &Settings, rules: &Rules, now: Timestamp) -> Result<Validation, &'static str> {
    let claims = Claims::read(answer).map_err(|_| "it is not one JSON object with each member once and of its type")?;
    if !claims.active.ok_or("it has no `active`")? {
        return Ok(Validation::Refused(TokenError::Inactive));
    }
    Ok(accept(answer, claims, settings, rules, now).map_or_else(Validation::Refused, Validation::Active))
}

fn accept(
    answer: &str,
    claims: Claims,
    settings: &Settings,
    rules: &Rules,
    now: Timestamp,
) -> Result<Active, TokenError> {
    if claims.iss.as_ref().is_some_and(|iss| *iss != rules.issuer) {
        return Err(TokenError::Issuer);
    }
    // RFC 6749 section 7.1: a type that is not understood must not be used
    let known = |kind: &String| kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("dpop");
    if claims.token_type.as_ref().is_some_and(|kind| !known(kind)) {
        return Err(TokenError::Type);
    }
    let is_dpop = claims.token_type.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"));
    // RFC 9700 section 2.3: a token for everybody is for nobody, unless the configuration says otherwise. It then has
    // to say what it is: oidc-provider says of an active refresh token neither an audience nor a type
    let for_all = claims.aud.is_none() && claims.token_type.is_some() && settings.audience_optional;
    if !for_all && !claims.is_for(&rules.audiences) {
        return Err(TokenError::Audience);
    }
    let expires_at = claims.check_times(rules.leeway, now)?;
    let named = match settings.subject_claim.as_str() {
        "sub" => claims.sub,
        other => {
            let object: serde_json::Value = serde_json::from_str(answer).map_err(|_| TokenError::Claims)?;
            object.get(other).and_then(|name| name.as_str()).map(str::to_owned)
        }
    };
    let subject = check_subject(named)?;
    // RFC 8705 section 3.2: the binding stands in the answer as it would in the token
    let confirmation = claims.cnf.confirmation()?;
    // RFC 9449 section 6.2: the answer about a DPoP-bound token names its key; without it a thief's word would do
    let bound = confirmation.is_some_and(|confirmation| confirmation.key.is_some());
    if is_dpop && !bound {
        return Err(TokenError::Binding);
    }
    check_required_claims(answer, rules)?;
    Ok(Active { subject, claims: answer.to_owned(), expires_at, confirmation })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(settings: &Settings, answer: &str, expected: Result<Result<&str, TokenError>, ()>) {
        let rules = Rules {
            issuer: "https://as.test".into(),
            audiences: vec!["wicketgate".into()],
            leeway: Duration::from_secs(60),
            required: vec![("client_id".into(), None)],
            ..Rules::default()
        };
        let found = judge(answer, settings, &rules, Timestamp::from_second(1000).unwrap());
        let found = found.map_err(drop).map(|judgement| match judgement {
            Validation::Active(active) => {
                assert_eq!(active.claims, answer);
                Ok(active.subject)
            }
            Validation::Refused(error) => Err(error),
        });
        assert_eq!(found, expected.map(|told| told.map(str::to_owned)), "{answer}");
    }

    #[test]
    fn an_answer_is_yes_only_where_nothing_speaks_against_it() {
        let closed = Settings {
            url: None,
            client_id: "gate".into(),
            client_secret: SecretSource::Env("X".into()),
            audience_optional: false,
            subject_claim: "sub".into(),
        };
        let good = r#""active":true,"sub":"s","client_id":"c","aud":["x","wicketgate"]"#;
        let with = |more: &str| format!("{{{good}{more}}}");
        check(&closed, &with(""), Ok(Ok("s")));
        check(&closed, &with(r#","iss":"https://as.test","exp":2000,"nbf":900,"token_type":"bearer""#), Ok(Ok("s")));
        check(&closed, r#"{"active":false}"#, Ok(Err(TokenError::Inactive)));
        check(&closed, r#"{"active":false,"sub":"s","aud":"wicketgate"}"#, Ok(Err(TokenError::Inactive)));
        check(&closed, &with(r#","iss":"https://as.test/""#), Ok(Err(TokenError::Issuer)));
        check(&closed, &with(r#","exp":940"#), Ok(Err(TokenError::Expired)));
        check(&closed, &with(r#","nbf":1061"#), Ok(Err(TokenError::NotYetValid)));
        check(&closed, &with(r#","token_type":"refresh_token""#), Ok(Err(TokenError::Type)));
        check(&closed, r#"{"active":true,"sub":"s","client_id":"c"}"#, Ok(Err(TokenError::Audience)));
        check(&closed, r#"{"active":true,"sub":"s","client_id":"c","aud":"x"}"#, Ok(Err(TokenError::Audience)));
        check(&closed, r#"{"active":true,"client_id":"c","aud":"wicketgate"}"#, Ok(Err(TokenError::Claims)));
        check(&closed, r#"{"active":true,"sub":"s","aud":"wicketgate"}"#, Ok(Err(TokenError::RequiredClaim)));
        check(&closed, &with(r#","cnf":{"kid":"k"}"#), Ok(Err(TokenError::Binding)));
        // a DPoP token that names no key would be anybody's
        let (jkt, x5t) =
            [r#""jkt""#, r#""x5t#S256""#].map(|name| format!(r#","cnf":{{{name}:"{}"}}"#, "A".repeat(43))).into();
        for kind in ["DPoP", "dpop"] {
            let dpop = format!(r#","token_type":"{kind}""#);
            check(&closed, &with(&dpop), Ok(Err(TokenError::Binding)));
            check(&closed, &with(&format!("{dpop}{x5t}")), Ok(Err(TokenError::Binding)));
            check(&closed, &with(&format!("{dpop}{jkt}")), Ok(Ok("s")));
        }
        // what cannot be understood is nobody's fault but the server's: 503, not 401
        for broken in
            ["", "[]", "true", "{}", r#"{"active":"true"}"#, r#"{"active":1}"#, r#"{"active":false,"active":true}"#]
        {
            check(&closed, broken, Err(()));
        }
        check(&closed, &with(r#","exp":"2000""#), Err(()));

        let open = Settings { audience_optional: true, subject_claim: "client_id".into(), ..closed };
        check(&open, r#"{"active":true,"client_id":"c","token_type":"Bearer"}"#, Ok(Ok("c")));
        check(&open, r#"{"active":true,"client_id":"c"}"#, Ok(Err(TokenError::Audience)));
        check(&open, r#"{"active":true,"client_id":"c","aud":"x"}"#, Ok(Err(TokenError::Audience)));
        check(&open, r#"{"active":true,"sub":"s","client_id":7,"token_type":"Bearer"}"#, Ok(Err(TokenError::Claims)));
    }
}
