//! Token exchange (RFC 8693): a token that the gate accepts is exchanged for a short-lived one that the gate signs.
//!
//! Promises: the subject token is verified as on any request; policy decides `Token.Exchange` on the audience; the audit
//! log holds the decision before the token leaves, and the token's `jti` is the record's id. An issued token never has
//! more rights than its subject token: the same principal, the roles that policy assigns, no later `exp`, and the same
//! `cnf`. A parameter that cannot be honoured is refused, never ignored.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Map, Value, json};

use crate::{
    clock,
    gate::{
        audit::{Decision, Record},
        identity::AuthContext,
        policy::{AccessRequest, Denial, HELD_ROLES_CLAIM, RequestContext},
        proxy::{
            authorize::{decide_and_record, denial_refusal},
            gate::Gate,
            headers::active_role,
            token_issuer::TokenIssuer,
        },
    },
    http::{Body, content_type, is_media_type, read_bounded},
    principal::{Confirmation, Principal},
    refusal::Refusal,
};

/// RFC 8693 section 2.1.
pub(super) const TOKEN_EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// The `typ` of a JWT access token (RFC 9068 section 2.1).
const TYP: &str = "at+jwt";
/// Largest form in bytes; a token has at most 16 KiB.
const MAX_FORM: usize = 64 * 1024;
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// Answers `POST /oauth2/token`. Every response, errors included, has OAuth's format.
pub(super) async fn exchange(
    gate: &Gate,
    issuer: &TokenIssuer,
    context: AuthContext<'_>,
    body: Body,
    record: &mut Record,
) -> Response<Body> {
    let mut reply = HeaderMap::new();
    let answer = match try_exchange(gate, issuer, context, body, record, &mut reply).await {
        Ok(token) => TokenResponse { status: StatusCode::OK, body: token, retry_after: None },
        Err(failure) => failure.into_response(record),
    };
    let mut response = Response::new(Body::from(answer.body.to_string()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.extend(reply);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // RFC 6749 section 5.1
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = answer.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

async fn try_exchange(
    gate: &Gate,
    issuer: &TokenIssuer,
    context: AuthContext<'_>,
    body: Body,
    record: &mut Record,
    reply: &mut HeaderMap,
) -> Result<Value, OAuthError> {
    let form = read_form(context.headers, body).await?;
    let request = TokenRequest::read(&form)?;
    let resource = issuer.audience(request.audience).ok_or_else(|| {
        let text = "the gate issues no tokens for this audience";
        // the parameter may hold anything, even the token, so the text does not repeat it
        OAuthError::target(Refusal::malformed("unknown_audience", text))
    })?;
    record.action = Some(issuer.action.clone());
    record.resource = Some(resource.id().clone());

    let authenticated = gate.identity.authenticate_subject_token(request.subject_token, context, reply).await;
    gate.metrics.token(&authenticated);
    let principal = authenticated.map_err(OAuthError::subject)?.principal;
    record.principal = Some(principal.name.clone());
    record.issuer = Some(principal.issuer.clone());
    let access_request = AccessRequest {
        principal: &principal,
        granted_roles: &[],
        active_role: active_role(context.headers).map_err(OAuthError::request)?,
        action: &issuer.action,
        resource,
        context: RequestContext::new(context.peer, context.method, context.now),
    };
    let decision = decide_and_record(gate, access_request, record);
    if !decision.allowed {
        let refusal = denial_refusal(&decision, &issuer.action, resource);
        // RFC 8693 section 2.2.2: `invalid_target` if the audience is denied
        return Err(match decision.denial {
            Some(Denial::Separation(..) | Denial::RoleNotActivated(_) | Denial::RoleNotHeld(_)) => {
                OAuthError::request(refusal)
            }
            _ => OAuthError::target(refusal),
        });
    }
    let held = gate.policy.all_held_roles(&principal);
    let token = IssuedToken::new(issuer, &principal, [&decision.roles, &held], resource.id(), context, record)?;
    record.decision = Decision::Allow;
    let written = gate.audit.permit(record);
    written.inspect_err(|_| record.decision = Decision::Deny).map_err(OAuthError::unavailable)?;
    Ok(json!({
        "access_token": token.text,
        "issued_token_type": request.token_type,
        "token_type": token.kind,
        "expires_in": token.expires_in,
    }))
}

/// The parameters of a token exchange request, validated.
struct TokenRequest<'f> {
    subject_token: &'f str,
    audience: &'f str,
    token_type: &'f str,
}

impl<'f> TokenRequest<'f> {
    fn read(form: &'f HashMap<String, String>) -> Result<Self, OAuthError> {
        let field = |name: &str| form.get(name).map(String::as_str);
        let needed = |name: &'static str| {
            field(name)
                .ok_or_else(|| OAuthError::form("parameter_missing", format!("the parameter `{name}` is missing")))
        };
        if needed("grant_type")? != TOKEN_EXCHANGE_GRANT {
            let text = format!("the only supported grant is `{TOKEN_EXCHANGE_GRANT}`");
            return Err(OAuthError::new("unsupported_grant_type", Refusal::malformed("unsupported_grant", text)));
        }
        for name in ["actor_token", "actor_token_type"] {
            if field(name).is_some() {
                let text = format!("`{name}` is not supported: the gate does not support delegation");
                return Err(OAuthError::form("delegation_refused", text));
            }
        }
        if field("scope").is_some() {
            let text = "omit `scope`: roles decide what a token of the gate may do";
            return Err(OAuthError::new("invalid_scope", Refusal::malformed("scope_refused", text)));
        }
        if !matches!(needed("subject_token_type")?, ACCESS_TOKEN | ID_TOKEN | JWT) {
            let text = format!("`subject_token_type` must be `{ACCESS_TOKEN}`, `{ID_TOKEN}` or `{JWT}`");
            return Err(OAuthError::form("subject_token_type", text));
        }
        let token_type = field("requested_token_type").unwrap_or(ACCESS_TOKEN);
        if !matches!(token_type, ACCESS_TOKEN | JWT) {
            let text = format!("`requested_token_type` must be `{ACCESS_TOKEN}` or `{JWT}`, or left out");
            return Err(OAuthError::form("requested_token_type", text));
        }
        let audience = match (field("audience"), field("resource")) {
            (Some(one), None) | (None, Some(one)) => one,
            _ => return Err(OAuthError::form("one_audience", "name one `audience` or one `resource`")),
        };
        Ok(Self { subject_token: needed("subject_token")?, audience, token_type })
    }
}

/// Reads the form (RFC 6749 section 3.2): a parameter must not repeat, and an empty one counts as missing.
async fn read_form(headers: &HeaderMap, body: Body) -> Result<HashMap<String, String>, OAuthError> {
    if !is_media_type(content_type(headers), "application/x-www-form-urlencoded") {
        return Err(OAuthError::form("not_a_form", "send the parameters as `application/x-www-form-urlencoded`"));
    }
    let body = read_bounded(body, MAX_FORM, FORM_DEADLINE).await.map_err(|e| OAuthError::request(e.into()))?;
    let mut form = HashMap::new();
    for (name, value) in url::form_urlencoded::parse(&body) {
        if form.insert(name.clone().into_owned(), value.into_owned()).is_some() {
            // a name may hold anything, even the token, so the text does not repeat it
            return Err(OAuthError::form("parameter_twice", "the form repeats a parameter"));
        }
    }
    form.retain(|_, value| !value.is_empty());
    // the gate registers no clients, so it could not verify a client's credentials
    if headers.contains_key(AUTHORIZATION)
        || ["client_secret", "client_assertion", "client_assertion_type"].iter().any(|name| form.contains_key(*name))
    {
        let text = "the gate does not authenticate clients: the subject token alone identifies the caller";
        return Err(OAuthError::new("invalid_client", Refusal::malformed("client_refused", text)));
    }
    Ok(form)
}

/// An issued token.
struct IssuedToken {
    text: String,
    kind: &'static str,
    expires_in: i64,
}

impl IssuedToken {
    fn new(
        issuer: &TokenIssuer,
        principal: &Principal,
        [roles, held]: [&[Arc<str>]; 2],
        audience: &str,
        context: AuthContext<'_>,
        record: &Record,
    ) -> Result<Self, OAuthError> {
        let iat = context.now.as_second();
        let end = clock::after(context.now, issuer.lifetime).min(principal.expires_at).as_second();
        if end <= iat {
            // within the issuer's leeway the token is still accepted, but no other token can be derived from it
            let text = "the subject token expires now; get a new one and try again";
            return Err(OAuthError::request(Refusal::malformed("subject_at_its_end", text)));
        }
        let subject_claims: Value = serde_json::from_str(&principal.claims).unwrap_or_default();
        let client = ["client_id", "azp"].iter().find_map(|name| subject_claims.get(name)?.as_str());
        let mut claims = json!({
            "iss": issuer.url,
            "sub": &*principal.name,
            "aud": audience,
            "iat": iat,
            "nbf": iat,
            "exp": end,
            "jti": record.id,
            // RFC 9068 section 2.2 requires it; a workload is its own client
            "client_id": client.unwrap_or(&principal.name),
            "roles": roles,
        });
        if let Some(members) = claims.as_object_mut().filter(|_| held != roles) {
            // the caller activated one role; the others are listed for separation of duty only
            members.insert(HELD_ROLES_CLAIM.into(), json!(held));
        }
        let mut kind = "Bearer";
        if let (Some(bound), Some(members)) = (principal.confirmation, claims.as_object_mut()) {
            members.insert("cnf".into(), confirmation(bound));
            if bound.key.is_some() {
                kind = "DPoP";
            }
        }
        let text = issuer.sign(TYP, &claims).map_err(OAuthError::unavailable)?;
        Ok(Self { text, kind, expires_in: end - iat })
    }
}

/// `cnf` (RFC 7800 section 3.1): the new token is bound to the certificate or key of the subject token. A key makes its
/// `token_type` `DPoP` (RFC 9449 section 5).
fn confirmation(bound: Confirmation) -> Value {
    let mut cnf = Map::new();
    let mut member = |name: &str, digest: Option<[u8; 32]>| {
        cnf.extend(digest.map(|digest| (name.to_owned(), URL_SAFE_NO_PAD.encode(digest).into())));
    };
    member("x5t#S256", bound.certificate);
    member("jkt", bound.key);
    cnf.into()
}

/// Why no token is issued: the OAuth error code and the gate's refusal.
struct OAuthError {
    error: &'static str,
    refusal: Refusal,
}

struct TokenResponse {
    status: StatusCode,
    body: Value,
    retry_after: Option<Duration>,
}

impl OAuthError {
    fn new(error: &'static str, refusal: Refusal) -> Self {
        Self { error, refusal }
    }

    /// RFC 8693 section 2.2.2: the request or its subject token is invalid.
    fn request(refusal: Refusal) -> Self {
        Self::new("invalid_request", refusal)
    }

    fn form(reason: &'static str, text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::request(Refusal::malformed(reason, text))
    }

    /// RFC 8693 section 2.2.2: the gate issues no token for this audience.
    fn target(refusal: Refusal) -> Self {
        Self::new("invalid_target", refusal)
    }

    fn unavailable(refusal: Refusal) -> Self {
        Self::new("temporarily_unavailable", refusal)
    }

    fn subject(refusal: Refusal) -> Self {
        // RFC 9449 sections 5 and 8: proofs have their own error codes
        match refusal.reason {
            _ if refusal.status == StatusCode::SERVICE_UNAVAILABLE => Self::unavailable(refusal),
            "dpop_nonce" => Self::new("use_dpop_nonce", refusal),
            reason if reason.starts_with("dpop_") => Self::new("invalid_dpop_proof", refusal),
            _ => Self::request(refusal),
        }
    }

    /// The error response; the reason goes into the record. RFC 6749 section 5.2: status 400, except for errors of the
    /// gate itself.
    fn into_response(self, record: &mut Record) -> TokenResponse {
        let Self { error, refusal } = self;
        record.reason = Some(refusal.reason);
        if let Some(detail) = &refusal.detail {
            record.keep_detail(detail);
        }
        let is_server_error = refusal.status.is_server_error();
        let too_large = refusal.status == StatusCode::PAYLOAD_TOO_LARGE;
        // RFC 6749 section 5.2: no quotes or backslashes in the description
        let description = refusal.text.replace(['"', '\\'], "'");
        let body = json!({ "error": error, "error_description": description, "reason": refusal.reason });
        let status = if is_server_error || too_large { refusal.status } else { StatusCode::BAD_REQUEST };
        TokenResponse { status, body, retry_after: refusal.retry_after }
    }
}
