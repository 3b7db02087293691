//! OAuth 2.0 token introspection (RFC 7662).
//!
//! Promises: a token is active only if the response has `"active": true` and no other member contradicts it: another
//! issuer, another audience, an `exp` in the past, a `token_type` that is not an access token's, a DPoP token without
//! `jkt`. Never: the token in a URL.

use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded::byte_serialize;

use super::endpoint::{ActiveToken, Endpoint, Validation, ValidationError};
use crate::gate::identity::{
    claims::{Claims, check_required_claims, check_subject},
    rules::{Rules, TokenError},
};
use crate::{
    clock::Timestamp,
    secret::{Secret, SecretSource, authorization},
};

/// The `introspection` table of an `[[issuer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The endpoint; `None` for the one in the discovery document.
    pub url: Option<String>,
    /// The gate's client id.
    pub client_id: String,
    /// The gate's client secret.
    pub client_secret: SecretSource,
    /// Whether a response without `aud` is accepted, if it has a `token_type`.
    pub audience_optional: bool,
    /// The member with the subject: `sub`, unless the server omits it for programs.
    pub subject_claim: String,
}

/// Introspects `token`. `discovered` is the endpoint in the discovery document.
pub(super) async fn request(
    endpoint: &Endpoint,
    settings: &Settings,
    discovered: Option<&String>,
    rules: &Rules,
    token: &Secret,
    now: Timestamp,
) -> Result<Validation, ValidationError> {
    let url = settings.url.as_ref().or(discovered).ok_or(ValidationError::NoEndpoint)?;
    // RFC 6749 section 2.3.1: both are form-encoded before they are joined
    let secret = endpoint.secret(&settings.client_secret).await?;
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Secret::new(format!("{}:{}", encode(&settings.client_id), encode(secret.expose())));
    let basic = authorization(&format!("Basic {}", STANDARD.encode(pair.expose())))?;
    // RFC 7662 section 2.1
    let form = format!("token={}&token_type_hint=access_token", encode(token.expose()));
    let response = endpoint.post(url, basic, "application/x-www-form-urlencoded", form).await?;
    let response = std::str::from_utf8(&response).map_err(|_| ValidationError::Malformed(url.clone(), "not UTF-8"))?;
    validate(response, settings, rules, now).map_err(|why| ValidationError::Malformed(url.clone(), why))
}

/// Validates an introspection response (RFC 7662 section 2.2).
fn validate(response: &str, settings: &Settings, rules: &Rules, now: Timestamp) -> Result<Validation, &'static str> {
    let claims = Claims::read(response).map_err(|_| "not one JSON object with each member once and of its type")?;
    if !claims.active.ok_or("`active` is missing")? {
        return Ok(Validation::Refused(TokenError::Inactive));
    }
    Ok(accept(response, claims, settings, rules, now).map_or_else(Validation::Refused, Validation::Active))
}

fn accept(
    response: &str,
    claims: Claims,
    settings: &Settings,
    rules: &Rules,
    now: Timestamp,
) -> Result<ActiveToken, TokenError> {
    if claims.iss.as_ref().is_some_and(|iss| *iss != rules.issuer) {
        return Err(TokenError::Issuer);
    }
    // RFC 6749 section 7.1: a token of an unknown type must not be used
    let known = |kind: &String| kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("dpop");
    if claims.token_type.as_ref().is_some_and(|kind| !known(kind)) {
        return Err(TokenError::Type);
    }
    let is_dpop = claims.token_type.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"));
    // RFC 9700 section 2.3: a token without audience is refused, unless the configuration accepts it. It must then have
    // a type: oidc-provider reports an active refresh token with neither an audience nor a type
    let without_audience = claims.aud.is_none() && claims.token_type.is_some() && settings.audience_optional;
    if !without_audience && !claims.is_for(&rules.audiences) {
        return Err(TokenError::Audience);
    }
    let expires_at = claims.check_times(rules.leeway, now)?;
    let subject = match settings.subject_claim.as_str() {
        "sub" => claims.sub,
        other => {
            let object: serde_json::Value = serde_json::from_str(response).map_err(|_| TokenError::Claims)?;
            object.get(other).and_then(|name| name.as_str()).map(str::to_owned)
        }
    };
    let subject = check_subject(subject)?;
    // RFC 8705 section 3.2: the response has the same `cnf` as the token
    let confirmation = claims.cnf.confirmation()?;
    // RFC 9449 section 6.2: the response for a DPoP-bound token has its `jkt`; without it a stolen token would be accepted
    let bound = confirmation.is_some_and(|confirmation| confirmation.key.is_some());
    if is_dpop && !bound {
        return Err(TokenError::Binding);
    }
    check_required_claims(response, rules)?;
    Ok(ActiveToken { subject, claims: response.to_owned(), expires_at, confirmation })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(settings: &Settings, response: &str, expected: Result<Result<&str, TokenError>, ()>) {
        let rules = Rules {
            issuer: "https://as.test".into(),
            audiences: vec!["wicketgate".into()],
            leeway: Duration::from_secs(60),
            required: vec![("client_id".into(), None)],
            ..Rules::default()
        };
        let found = validate(response, settings, &rules, Timestamp::from_second(1000).unwrap());
        let found = found.map_err(drop).map(|validation| match validation {
            Validation::Active(active) => {
                assert_eq!(active.claims, response);
                Ok(active.subject)
            }
            Validation::Refused(error) => Err(error),
        });
        assert_eq!(found, expected.map(|result| result.map(str::to_owned)), "{response}");
    }

    #[test]
    fn a_token_is_active_only_if_no_member_contradicts_it() {
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
        // a DPoP token without `jkt` could be used by any sender
        let (jkt, x5t) =
            [r#""jkt""#, r#""x5t#S256""#].map(|name| format!(r#","cnf":{{{name}:"{}"}}"#, "A".repeat(43))).into();
        for kind in ["DPoP", "dpop"] {
            let dpop = format!(r#","token_type":"{kind}""#);
            check(&closed, &with(&dpop), Ok(Err(TokenError::Binding)));
            check(&closed, &with(&format!("{dpop}{x5t}")), Ok(Err(TokenError::Binding)));
            check(&closed, &with(&format!("{dpop}{jkt}")), Ok(Ok("s")));
        }
        // an invalid response is a fault of the server: 503, not 401
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
