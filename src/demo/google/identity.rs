//! STS and IAM Credentials: a subject token becomes a federated token, which becomes a service account's access token.

use std::{str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Response, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    errors::{denied, invalid, not_found, unauthenticated},
    state::{AUDIENCE, DiscoveredIssuer, IssuedToken, Shared},
};
use crate::{
    clock,
    demo::{
        issuer::oauth_error,
        random::random_text,
        server::{ReceivedRequest, json},
    },
    http::Body,
};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const SUBJECT_TYPES: [&str; 2] = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
/// Google: the subject token's `iat` is in the past and at most this old.
const MAX_AGE: i64 = 24 * 60 * 60;
/// How long an issuer's documents may take, and how many bytes they may have.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 64 * 1024;
/// generateAccessToken without the organisation policy that extends it.
const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// `POST /v1/token`: RFC 8693, as a form or as JSON in camel case.
pub(super) async fn exchange(google: &Shared, call: &ReceivedRequest) -> Response<Body> {
    let fields = fields(call);
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let refused = |error: &str, description: &str| oauth_error(StatusCode::BAD_REQUEST, error, description);
    if field("grant_type") != TOKEN_EXCHANGE {
        return refused("unsupported_grant_type", "Invalid grant type.");
    }
    if field("requested_token_type") != ACCESS_TOKEN {
        return refused("invalid_request", "Invalid value for \"requestedTokenType\".");
    }
    if field("audience") != AUDIENCE {
        return refused("invalid_target", "The target service indicated by the \"audience\" parameters is invalid.");
    }
    if !SUBJECT_TYPES.contains(&field("subject_token_type")) {
        return refused("invalid_request", "Invalid value for \"subjectTokenType\".");
    }
    let subject = match verified_subject(google, field("subject_token")).await {
        Ok(subject) => subject,
        Err(error) => return refused("invalid_grant", &error),
    };
    let lifetime = google.lock().federated_lifetime;
    let Some(token) = issue(google, subject.clone(), subject, lifetime, IssuedTokenKind::Federated) else {
        return oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "no randomness");
    };
    json(
        StatusCode::OK,
        &json!({
            "access_token": token,
            "issued_token_type": ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": lifetime.as_secs(),
        }),
    )
}

/// The parameters under their form names: JSON callers spell them in camel case.
fn fields(call: &ReceivedRequest) -> Vec<(String, String)> {
    if !call.header("content-type").starts_with("application/json") {
        return call.form();
    }
    let snake = |name: &str| {
        let parts = name.chars().flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain(c.to_lowercase()));
        parts.collect::<String>()
    };
    let body: serde_json::Map<String, Value> = serde_json::from_slice(&call.body).unwrap_or_default();
    body.iter().filter_map(|(name, value)| Some((snake(name), value.as_str()?.to_owned()))).collect()
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: i64,
}

/// The principal of a subject token. The error has Google's text.
async fn verified_subject(google: &Shared, token: &str) -> Result<String, String> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| "Error parsing the ID Token.".to_owned())?;
    if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
        return Err("The ID Token must be signed with RS256 or ES256.".to_owned());
    }
    let kid = header.kid.unwrap_or_default();
    let other =
        google.discovered_issuer.as_ref().filter(|other| claimed_issuer(token).as_deref() == Some(&other.issuer));
    let (issuer, found) = match other {
        Some(other) => (&other.issuer, other.key(&kid).await.map(|key| (Algorithm::ES256, key))),
        None => (&google.issuer, google.keys.verification_key(&kid)),
    };
    let (algorithm, key) =
        found.ok_or("Error connecting to the given credential's issuer: no key for the token's kid.")?;
    let mut rules = Validation::new(algorithm);
    rules.leeway = 0;
    rules.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    rules.set_issuer(&[issuer]);
    // Google's default allowed audiences: the provider's name, with and without https:
    rules.set_audience(&[AUDIENCE.to_owned(), format!("https:{AUDIENCE}")]);
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &rules)
        .map_err(|error| format!("The given credential is rejected: {error}."))?
        .claims;
    let age = clock::now().as_second() - claims.iat;
    if !(0..=MAX_AGE).contains(&age) {
        return Err(format!("ID Token issued at {} is stale to sign-in.", claims.iat));
    }
    Ok(claims.sub)
}

/// The unverified `iss` of a token; it selects the keys.
fn claimed_issuer(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Value>(&payload).ok()?.get("iss")?.as_str()?.to_owned())
}

impl DiscoveredIssuer {
    /// The key with this id, from the key set that the issuer publishes now.
    async fn key(&self, kid: &str) -> Option<DecodingKey> {
        let document = self.get(&format!("{}/.well-known/openid-configuration", self.issuer)).await?;
        let issuer_matches = document.get("issuer")?.as_str()? == self.issuer;
        let keys = self.get(document.get("jwks_uri")?.as_str().filter(|_| issuer_matches)?).await?;
        let keys: JwkSet = serde_json::from_value(keys).ok()?;
        DecodingKey::from_jwk(keys.find(kid)?).ok()
    }

    async fn get(&self, url: &str) -> Option<Value> {
        let request = http::Request::get(url).body(Body::Empty).ok()?;
        let response = self.client.fetch(request, MAX_DOCUMENT, DISCOVERY_TIMEOUT).await.ok()?;
        serde_json::from_slice(response.body()).ok().filter(|_| response.status() == StatusCode::OK)
    }
}

#[derive(Deserialize)]
struct AccessTokenRequest {
    #[serde(default)]
    scope: Vec<String>,
    lifetime: Option<String>,
}

/// `POST /v1/projects/-/serviceAccounts/{account}:generateAccessToken`.
pub(super) fn impersonate(google: &Shared, segment: &str, call: &ReceivedRequest) -> Response<Body> {
    let segment = segment.replace("%40", "@").replace("%3A", ":");
    let Some(account) = segment.strip_suffix(":generateAccessToken") else { return not_found(&call.path) };
    let Some(IssuedToken { subject, .. }) =
        call.bearer().and_then(|token| find_token(google, token, IssuedTokenKind::Federated))
    else {
        return unauthenticated();
    };
    if !google.accounts.contains_key(account) {
        return denied("Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).");
    }
    let Ok(request) = serde_json::from_slice::<AccessTokenRequest>(&call.body) else {
        return invalid("Invalid JSON payload received.");
    };
    if request.scope.is_empty() {
        return invalid("Scope required.");
    }
    let requested = match request.lifetime.as_deref().map(seconds) {
        None => MAX_LIFETIME,
        Some(Some(lifetime)) if lifetime <= MAX_LIFETIME && !lifetime.is_zero() => lifetime,
        Some(_) => return invalid("The access token lifetime must be between 1 and 3600 seconds."),
    };
    let lifetime = google.lock().access_lifetime.unwrap_or(requested);
    let expires_at = clock::after(clock::now(), lifetime);
    let Some(token) = issue(google, account.to_owned(), subject, lifetime, IssuedTokenKind::Access) else {
        return invalid("no randomness");
    };
    json(
        StatusCode::OK,
        &json!({ "accessToken": token, "expireTime": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() }),
    )
}

/// A protobuf duration in JSON: `3600s`.
fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(f64::from_str(text.strip_suffix('s')?).ok()?).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IssuedTokenKind {
    Federated,
    Access,
}

fn issue(google: &Shared, name: String, subject: String, lifetime: Duration, kind: IssuedTokenKind) -> Option<String> {
    let prefix = if kind == IssuedTokenKind::Federated { "ya29.d." } else { "ya29.c." };
    let token = format!("{prefix}{}", random_text(96).ok()?);
    let now = clock::now();
    let mut state = google.lock();
    let tokens = if kind == IssuedTokenKind::Federated { &mut state.federated } else { &mut state.access };
    tokens.retain(|_, token| now < token.expires_at);
    tokens.insert(token.clone(), IssuedToken { name, subject, expires_at: clock::after(now, lifetime) });
    Some(token)
}

/// The record of an unexpired token of this kind.
pub(super) fn find_token(google: &Shared, token: &str, kind: IssuedTokenKind) -> Option<IssuedToken> {
    let state = google.lock();
    let tokens = if kind == IssuedTokenKind::Federated { &state.federated } else { &state.access };
    tokens.get(token).filter(|token| clock::now() < token.expires_at).cloned()
}
