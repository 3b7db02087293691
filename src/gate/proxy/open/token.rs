//! Token exchange (RFC 8693): any token that the gate accepts, for a short one that the gate signs.
//!
//! Promises: the token that is shown is verified as on any request; policy is asked (`Token.Exchange` on the audience);
//! the decision is in the audit log before the token leaves, and the token's `jti` is its record's id. A token is never
//! given more than the one that it was given for had: the same principal, the roles that policy gives it, no later end,
//! and the same key to hold (`cnf`). What is asked and cannot be honoured is refused, not left out.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Map, Value, json};

use crate::gate::proxy::{
    Gate,
    authorize::{ask, denied},
    headers::active_role,
    token_issuer::TokenIssuer,
};
use crate::{
    clock,
    gate::{
        audit::{Decision, Record},
        identity::AuthContext,
        policy::{Circumstances, Denial, HELD, Question},
    },
    http::{Body, read_bounded},
    principal::{Confirmation, Principal},
    refusal::Refusal,
};

/// RFC 8693 section 2.1.
pub(in crate::gate::proxy) const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// RFC 9068 section 2.1: what an access token that is a JWT says it is.
const TYP: &str = "at+jwt";
/// Largest form; a token has at most 16 KiB.
const MAX_FORM: usize = 64 * 1024;
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// Answers `POST /oauth2/token`, in the words of OAuth whatever happens.
pub(in crate::gate::proxy) async fn exchange(
    gate: &Gate,
    issuer: &TokenIssuer,
    context: AuthContext<'_>,
    body: Body,
    record: &mut Record,
) -> Response<Body> {
    let mut reply = HeaderMap::new();
    let answer = match exchanged(gate, issuer, context, body, record, &mut reply).await {
        Ok(token) => Answer { status: StatusCode::OK, body: token, retry_after: None },
        Err(failure) => failure.written(record),
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

async fn exchanged(
    gate: &Gate,
    issuer: &TokenIssuer,
    context: AuthContext<'_>,
    body: Body,
    record: &mut Record,
    reply: &mut HeaderMap,
) -> Result<Value, Failure> {
    let form = form(context.headers, body).await?;
    let request = TokenRequest::read(&form)?;
    let resource = issuer.audience(request.audience).ok_or_else(|| {
        let text = "the gate gives no tokens for this audience";
        // it may be anything, the token itself even, so it is not repeated
        Failure::target(Refusal::malformed("unknown_audience", text))
    })?;
    record.action = Some(issuer.action.clone());
    record.resource = Some(resource.id().clone());

    let authenticated = gate.identity.of_subject(request.subject_token, context, reply).await;
    gate.metrics.token(&authenticated);
    let principal = authenticated.map_err(Failure::subject)?.principal;
    record.principal = Some(principal.name.clone());
    record.issuer = Some(principal.issuer.clone());
    let question = Question {
        principal: &principal,
        granted: &[],
        active: active_role(context.headers).map_err(Failure::request)?,
        action: &issuer.action,
        resource,
        circumstances: Circumstances::new(context.peer, context.method, context.now),
    };
    let ruling = ask(gate, question, record);
    if !ruling.allowed {
        let refusal = denied(&ruling, &issuer.action, resource);
        // RFC 8693 section 2.2.2: `invalid_target` where the audience is what cannot be had
        return Err(match ruling.denial {
            Some(Denial::Separation(_) | Denial::RoleNotActivated(_) | Denial::RoleNotHeld(_)) => {
                Failure::request(refusal)
            }
            _ => Failure::target(refusal),
        });
    }
    let held = gate.policy.held_in_all(&principal);
    let token = Given::new(issuer, &principal, [&ruling.roles, &held], resource.id(), context, record)?;
    record.decision = Decision::Allow;
    let written = gate.audit.permit(record);
    written.inspect_err(|_| record.decision = Decision::Deny).map_err(Failure::unavailable)?;
    Ok(json!({
        "access_token": token.text,
        "issued_token_type": request.token_type,
        "token_type": token.kind,
        "expires_in": token.lives,
    }))
}

/// What is asked for: each parameter once, and nothing that would have to be left out.
struct TokenRequest<'f> {
    subject_token: &'f str,
    audience: &'f str,
    token_type: &'f str,
}

impl<'f> TokenRequest<'f> {
    fn read(form: &'f HashMap<String, String>) -> Result<Self, Failure> {
        let field = |name: &str| form.get(name).map(String::as_str);
        let needed = |name: &'static str| {
            field(name).ok_or_else(|| Failure::form("parameter_missing", format!("the parameter `{name}` is missing")))
        };
        if needed("grant_type")? != GRANT {
            let text = format!("the only grant here is `{GRANT}`");
            return Err(Failure::new("unsupported_grant_type", Refusal::malformed("unsupported_grant", text)));
        }
        for name in ["actor_token", "actor_token_type"] {
            if field(name).is_some() {
                let text = format!("`{name}` is not supported: nobody acts for another here");
                return Err(Failure::form("delegation_refused", text));
            }
        }
        if field("scope").is_some() {
            let text = "leave `scope` out: what a token of the gate may do is decided by its roles";
            return Err(Failure::new("invalid_scope", Refusal::malformed("scope_refused", text)));
        }
        if !matches!(needed("subject_token_type")?, ACCESS_TOKEN | ID_TOKEN | JWT) {
            let text = format!("`subject_token_type` must be `{ACCESS_TOKEN}`, `{ID_TOKEN}` or `{JWT}`");
            return Err(Failure::form("subject_token_type", text));
        }
        let token_type = field("requested_token_type").unwrap_or(ACCESS_TOKEN);
        if !matches!(token_type, ACCESS_TOKEN | JWT) {
            let text = format!("`requested_token_type` must be `{ACCESS_TOKEN}` or `{JWT}`, or left out");
            return Err(Failure::form("requested_token_type", text));
        }
        let audience = match (field("audience"), field("resource")) {
            (Some(one), None) | (None, Some(one)) => one,
            _ => return Err(Failure::form("one_audience", "name one `audience` or one `resource`")),
        };
        Ok(Self { subject_token: needed("subject_token")?, audience, token_type })
    }
}

/// Reads the form (RFC 6749 section 3.2): no parameter twice, and an empty one is as good as missing.
async fn form(headers: &HeaderMap, body: Body) -> Result<HashMap<String, String>, Failure> {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Failure::form("not_a_form", "send the parameters as `application/x-www-form-urlencoded`"));
    }
    let body = read_bounded(body, MAX_FORM, FORM_DEADLINE).await.map_err(|e| Failure::request(e.into()))?;
    let mut form = HashMap::new();
    for (name, value) in url::form_urlencoded::parse(&body) {
        if form.insert(name.clone().into_owned(), value.into_owned()).is_some() {
            // a name may be anything, the token itself even, so it is not repeated
            return Err(Failure::form("parameter_twice", "a parameter stands twice"));
        }
    }
    form.retain(|_, value| !value.is_empty());
    // clients are not known here, and what claims to be one would not be checked
    if headers.contains_key(AUTHORIZATION)
        || ["client_secret", "client_assertion", "client_assertion_type"].iter().any(|name| form.contains_key(*name))
    {
        let text = "the gate knows no clients: the subject token alone proves who is asking";
        return Err(Failure::new("invalid_client", Refusal::malformed("client_refused", text)));
    }
    Ok(form)
}

/// A token that was given.
struct Given {
    text: String,
    kind: &'static str,
    lives: i64,
}

impl Given {
    fn new(
        issuer: &TokenIssuer,
        principal: &Principal,
        [roles, held]: [&[Arc<str>]; 2],
        audience: &str,
        context: AuthContext<'_>,
        record: &Record,
    ) -> Result<Self, Failure> {
        let iat = context.now.as_second();
        let end = clock::after(context.now, issuer.lifetime).min(principal.expires_at).as_second();
        if end <= iat {
            // within its issuer's leeway it still opens doors, but nothing can be derived from it
            let text = "the subject token is at its end; come back with a new one";
            return Err(Failure::request(Refusal::malformed("subject_at_its_end", text)));
        }
        let shown: Value = serde_json::from_str(&principal.claims).unwrap_or_default();
        let client = ["client_id", "azp"].iter().find_map(|name| shown.get(name)?.as_str());
        let mut claims = json!({
            "iss": issuer.url,
            "sub": &*principal.name,
            "aud": audience,
            "iat": iat,
            "nbf": iat,
            "exp": end,
            "jti": record.id,
            // RFC 9068 section 2.2 wants one; a workload is its own client
            "client_id": client.unwrap_or(&principal.name),
            "roles": roles,
        });
        if let Some(members) = claims.as_object_mut().filter(|_| held != roles) {
            // one of them was activated; the others stay held, for separation alone
            members.insert(HELD.into(), json!(held));
        }
        let mut kind = "Bearer";
        if let (Some(held), Some(members)) = (principal.confirmation, claims.as_object_mut()) {
            members.insert("cnf".into(), confirmation(held));
            if held.key.is_some() {
                kind = "DPoP";
            }
        }
        let text = issuer.sign(TYP, &claims).map_err(Failure::unavailable)?;
        Ok(Self { text, kind, lives: end - iat })
    }
}

/// `cnf` (RFC 7800 section 3.1): whoever uses the new token must hold what the old one was bound to. For RFC 9449
/// section 5 a key makes it a token of the type `DPoP`.
fn confirmation(held: Confirmation) -> Value {
    let mut cnf = Map::new();
    let mut member = |name: &str, digest: Option<[u8; 32]>| {
        cnf.extend(digest.map(|digest| (name.to_owned(), URL_SAFE_NO_PAD.encode(digest).into())));
    };
    member("x5t#S256", held.certificate);
    member("jkt", held.key);
    cnf.into()
}

/// Why no token is given: OAuth's word for it and the gate's own.
struct Failure {
    error: &'static str,
    refusal: Refusal,
}

struct Answer {
    status: StatusCode,
    body: Value,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(error: &'static str, refusal: Refusal) -> Self {
        Self { error, refusal }
    }

    /// RFC 8693 section 2.2.2: whatever is wrong with the request or the token in it.
    fn request(refusal: Refusal) -> Self {
        Self::new("invalid_request", refusal)
    }

    fn form(reason: &'static str, text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::request(Refusal::malformed(reason, text))
    }

    /// RFC 8693 section 2.2.2: no token is given for this audience.
    fn target(refusal: Refusal) -> Self {
        Self::new("invalid_target", refusal)
    }

    fn unavailable(refusal: Refusal) -> Self {
        Self::new("temporarily_unavailable", refusal)
    }

    fn subject(refusal: Refusal) -> Self {
        // RFC 9449 sections 5 and 8: proofs have errors of their own
        match refusal.reason {
            _ if refusal.status == StatusCode::SERVICE_UNAVAILABLE => Self::unavailable(refusal),
            "dpop_nonce" => Self::new("use_dpop_nonce", refusal),
            reason if reason.starts_with("dpop_") => Self::new("invalid_dpop_proof", refusal),
            _ => Self::request(refusal),
        }
    }

    /// What the client reads; the record learns the reason. RFC 6749 section 5.2: 400 unless it is the gate's own
    /// trouble.
    fn written(self, record: &mut Record) -> Answer {
        let Self { error, refusal } = self;
        record.reason = Some(refusal.reason);
        if let Some(detail) = &refusal.detail {
            record.keep_detail(detail);
        }
        let ours = refusal.status.is_server_error();
        let too_large = refusal.status == StatusCode::PAYLOAD_TOO_LARGE;
        // RFC 6749 section 5.2: no quotes or backslashes in the description
        let description = refusal.text.replace(['"', '\\'], "'");
        let body = json!({ "error": error, "error_description": description, "reason": refusal.reason });
        let status = if ours || too_large { refusal.status } else { StatusCode::BAD_REQUEST };
        Answer { status, body, retry_after: refusal.retry_after }
    }
}
