//! What an upstream is told of the caller, where its route says so: signed (`assertion = true`), or in plain headers
//! (`identity_headers = true`).
//!
//! Promises: whatever the client sent under these names was removed before (`headers.rs`), so what arrives is the
//! gate's word; an upstream that wants an assertion is never asked without one. Signing is not for each request: an
//! assertion serves its caller on its route for a minute.

use std::{fmt::Write, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::{authorize::Permit, token_issuer::TokenIssuer};
use crate::{
    clock::{self, Timestamp},
    gate::routes::Route,
    refusal::Refusal,
};

const ASSERTION: HeaderName = HeaderName::from_static("x-wicketgate-assertion");
const PRINCIPAL: HeaderName = HeaderName::from_static("x-wicketgate-principal");
const ISSUER: HeaderName = HeaderName::from_static("x-wicketgate-issuer");
const ROLES: HeaderName = HeaderName::from_static("x-wicketgate-roles");

/// A `typ` of its own: nothing that takes access tokens takes this, this gate among it (RFC 8725 section 3.11).
const TYP: &str = "wicketgate-assertion+jwt";
/// How long an upstream may believe an assertion.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long one is sent again; what is left of its life is for slow upstreams and clocks that differ.
const SERVES: Duration = Duration::from_secs(60);
/// Assertions remembered at once; the least used make room.
const REMEMBERED: usize = 10_000;

/// Assertions that were signed lately.
pub(super) struct Assertions(Cache<Whom, Arc<Signed>>);

/// Proof and exporter; no exporter is Vertex.
type Whom = ([u8; 32], Option<Arc<str>>);

struct Signed {
    value: HeaderValue,
    until: Timestamp,
}

impl Default for Assertions {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED))
    }
}

/// Tells the permit's upstream who is asking, as the route's options say.
///
/// # Errors
/// 503 where an assertion is wanted and cannot be signed.
pub(super) fn introduce(
    issuer: Option<&TokenIssuer>,
    permit: &Permit<'_>,
    to: &mut HeaderMap,
    now: Timestamp,
) -> Result<(), Refusal> {
    let options = permit.route.options();
    if options.identity_headers {
        to.insert(PRINCIPAL, plain(&permit.principal.name)?);
        to.insert(ISSUER, plain(&permit.principal.issuer)?);
        let roles: Vec<String> = permit.roles.iter().map(|role| escaped(role)).collect();
        to.insert(ROLES, value(&roles.join(","))?);
    }
    if options.assertion {
        let issuer = issuer.ok_or_else(|| no_assertion("no [token_issuer]"))?;
        to.insert(ASSERTION, assertion(issuer, permit, now)?);
    }
    Ok(())
}

fn assertion(issuer: &TokenIssuer, permit: &Permit<'_>, now: Timestamp) -> Result<HeaderValue, Refusal> {
    let exporter = match &permit.route {
        Route::Exporter { exporter, .. } => Some(exporter.name.clone()),
        _ => None,
    };
    let audience = exporter.as_ref().map_or_else(|| "vertex".to_owned(), |name| format!("exporter/{name}"));
    let key = (permit.principal.proof, exporter);
    // one with granted roles must not outlive the grant, and is not for later requests
    let granted_until = permit.held.grants.iter().map(|grant| grant.until).min();
    if granted_until.is_none()
        && let Some(signed) = issuer.assertions.0.get(&key).filter(|signed| now < signed.until)
    {
        return Ok(signed.value.clone());
    }
    let end = clock::after(now, LIFETIME);
    let end = granted_until.map_or(end, |until| until.min(end));
    let claims = serde_json::json!({
        "iss": issuer.url,
        "sub": &*permit.principal.name,
        "aud": audience,
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "exp": end.as_second(),
        "jti": Uuid::now_v7(),
        "roles": permit.roles,
    });
    let mut value = value(&issuer.sign(TYP, &claims)?)?;
    value.set_sensitive(true);
    if granted_until.is_some() {
        return Ok(value);
    }
    let signed = Arc::new(Signed { value: value.clone(), until: clock::after(now, SERVES) });
    issuer.assertions.0.insert(key, signed);
    Ok(value)
}

fn plain(text: &str) -> Result<HeaderValue, Refusal> {
    value(&escaped(text))
}

/// Percent-encodes what no header may hold or what separates values: a subject is any text that its issuer likes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',') {
            safe.push(char::from(byte));
        } else {
            // writing to a String cannot fail
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    safe
}

fn value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(no_assertion)
}

fn no_assertion(why: impl ToString) -> Refusal {
    let text = "the gate cannot tell this upstream who is asking";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_assertion", text).with_detail(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_header_can_be_read_in_one_way_only() {
        for (name, header) in [
            ("corp:alice@example.com", "corp:alice@example.com"),
            ("corp:a b", "corp:a%20b"),
            ("corp:a%20b", "corp:a%2520b"),
            ("corp:a,b", "corp:a%2Cb"),
            ("corp:\r\nx: y", "corp:%0D%0Ax:%20y"),
            ("corp:é", "corp:%C3%A9"),
        ] {
            assert_eq!(plain(name).unwrap(), header, "{name}");
        }
    }
}
