//! Kubernetes `TokenReview` (`authentication.k8s.io/v1`).
//!
//! Promises: a token is accepted only if the review reports it as authenticated for one of the requested audiences. A
//! review without an audience comes from an authenticator that ignores audiences, and is refused: such a token is for the
//! API server itself. The principal's claims are the review's `user` and nothing else.

use serde_json::{Map, Value, json};

use super::endpoint::{ActiveToken, Endpoint, Validation, ValidationError};
use crate::gate::identity::{
    claims::{check_required_claims, check_subject},
    jwt::Unverified,
    rules::{Rules, TokenError},
};
use crate::{
    clock::{self, Timestamp},
    secret::{Secret, SecretSource, authorization},
};

/// The `token_review` table of an `[[issuer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The API server.
    pub url: String,
    /// The gate's service account token; the account must be allowed to `create` `tokenreviews`.
    pub credential: SecretSource,
}

#[derive(serde::Deserialize)]
struct Review {
    status: Status,
}

#[derive(serde::Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: Map<String, Value>,
}

/// Requests a review of `token`.
pub(super) async fn request(
    endpoint: &Endpoint,
    settings: &Settings,
    rules: &Rules,
    token: &Secret,
    now: Timestamp,
) -> Result<Validation, ValidationError> {
    let url = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", settings.url.trim_end_matches('/'));
    let credential = endpoint.secret(&settings.credential).await?;
    let bearer = authorization(&format!("Bearer {}", credential.expose()))?;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.expose(), "audiences": rules.audiences},
    });
    let response = endpoint.post(&url, bearer, "application/json", review.to_string()).await?;
    let response: Review = serde_json::from_slice(&response)
        .map_err(|_| ValidationError::Malformed(url, "not a TokenReview with a status"))?;
    // the review covers the whole token, `exp` included, but does not repeat it
    let expires_at = Unverified::parse(token.expose()).ok().and_then(|token| token.expires_at());
    Ok(validate(response.status, expires_at, rules, now).map_or_else(Validation::Refused, Validation::Active))
}

fn validate(
    status: Status,
    expires_at: Option<Timestamp>,
    rules: &Rules,
    now: Timestamp,
) -> Result<ActiveToken, TokenError> {
    if !status.authenticated {
        return Err(TokenError::Inactive);
    }
    if !status.audiences.iter().any(|aud| rules.audiences.contains(aud)) {
        return Err(TokenError::Audience);
    }
    if expires_at.is_some_and(|at| clock::after(at, rules.leeway) <= now) {
        return Err(TokenError::Expired);
    }
    let known = |name: &String| matches!(name.as_str(), "username" | "uid" | "groups" | "extra");
    let user: Map<String, Value> = status.user.into_iter().filter(|(name, _)| known(name)).collect();
    let subject = check_subject(user.get("username").and_then(Value::as_str).map(str::to_owned))?;
    let claims = Value::Object(user).to_string();
    check_required_claims(&claims, rules)?;
    Ok(ActiveToken { subject, claims, expires_at, confirmation: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_active_only_for_a_requested_audience() {
        let rules = Rules { audiences: vec!["wicketgate".into()], ..Rules::default() };
        let user = json!({"username": "system:serviceaccount:ns:sa", "groups": ["g"], "uid": "u", "more": 1});
        let check = |status: Value, expires_at: Option<i64>, expected: Result<&str, TokenError>| {
            let expires_at = expires_at.map(|at| Timestamp::from_second(at).unwrap());
            let parsed = serde_json::from_value(status.clone()).unwrap();
            let found = validate(parsed, expires_at, &rules, Timestamp::from_second(1000).unwrap());
            let found = found.map(|active| {
                let claims: Value = serde_json::from_str(&active.claims).unwrap();
                assert_eq!(claims, json!({"username": active.subject, "groups": ["g"], "uid": "u"}));
                active.subject
            });
            assert_eq!(found, expected.map(str::to_owned), "{status}");
        };
        let account = "system:serviceaccount:ns:sa";
        let good = json!({"authenticated": true, "audiences": ["wicketgate"], "user": user});
        check(good.clone(), None, Ok(account));
        check(good.clone(), Some(2000), Ok(account));
        check(good, Some(1000), Err(TokenError::Expired));
        check(
            json!({"authenticated": false, "audiences": ["wicketgate"], "user": user}),
            None,
            Err(TokenError::Inactive),
        );
        check(json!({}), None, Err(TokenError::Inactive));
        check(json!({"authenticated": true, "user": user}), None, Err(TokenError::Audience));
        check(json!({"authenticated": true, "audiences": ["api"], "user": user}), None, Err(TokenError::Audience));
        check(json!({"authenticated": true, "audiences": ["wicketgate"]}), None, Err(TokenError::Claims));
    }
}
