//! Identity headers for upstreams: a signed assertion (`assertion = true`) or plain headers (`identity_headers = true`),
//! if the route configures them.
//!
//! Promises: `headers.rs` removed these names from the client's request, so the upstream reads the gate's values only; a
//! route with `assertion = true` never forwards a request without one. An assertion is signed once a minute for each
//! caller and route, not for each request.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, PercentEncode, utf8_percent_encode};
use uuid::Uuid;

use super::{
    authorize::Permit,
    token_issuer::{CachedAssertion, TokenIssuer},
};
use crate::{
    clock::{self, Timestamp},
    gate::routes::Route,
    refusal::Refusal,
};

const ASSERTION: HeaderName = HeaderName::from_static("x-wicketgate-assertion");
const PRINCIPAL: HeaderName = HeaderName::from_static("x-wicketgate-principal");
const ISSUER: HeaderName = HeaderName::from_static("x-wicketgate-issuer");
const ROLES: HeaderName = HeaderName::from_static("x-wicketgate-roles");

/// An own `typ`: no verifier of access tokens accepts an assertion, this gate included (RFC 8725 section 3.11).
const TYP: &str = "wicketgate-assertion+jwt";
/// Space, `%` and `,` besides what no header value can hold.
const VALUE_ESCAPES: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b',');
/// Lifetime of an assertion.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long an assertion is reused. The rest of its lifetime allows for slow upstreams and clock skew.
const REUSE: Duration = Duration::from_secs(60);
/// Adds the identity headers that the route configures.
///
/// # Errors
/// 503 if the route requires an assertion and the gate cannot sign one.
pub(super) fn add_identity_headers(
    issuer: Option<&TokenIssuer>,
    permit: &Permit<'_>,
    to: &mut HeaderMap,
    now: Timestamp,
) -> Result<(), Refusal> {
    let options = permit.route.options();
    if options.identity_headers {
        to.insert(PRINCIPAL, header_value(&permit.principal.name)?);
        to.insert(ISSUER, header_value(&permit.principal.issuer)?);
        let roles: Vec<String> = permit.roles.iter().map(|role| escaped(role).to_string()).collect();
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
    // an assertion with granted roles ends with the grant and is not reused
    let granted_until = permit.grants.grants.iter().map(|grant| grant.until).min();
    if granted_until.is_none()
        && let Some(signed) = issuer.assertions.get(&key).filter(|signed| now < signed.until)
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
    let signed = Arc::new(CachedAssertion { value: value.clone(), until: clock::after(now, REUSE) });
    issuer.assertions.insert(key, signed);
    Ok(value)
}

fn header_value(text: &str) -> Result<HeaderValue, Refusal> {
    value(&escaped(text).to_string())
}

/// `text` with everything escaped that a header value cannot hold or that separates values: a subject is any text.
fn escaped(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, VALUE_ESCAPES)
}

fn value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(no_assertion)
}

fn no_assertion(why: impl ToString) -> Refusal {
    let text = "the gate cannot make the identity headers of this upstream";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_assertion", text).with_detail(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_header_has_one_reading() {
        for (name, header) in [
            ("corp:alice@example.com", "corp:alice@example.com"),
            ("corp:a b", "corp:a%20b"),
            ("corp:a%20b", "corp:a%2520b"),
            ("corp:a,b", "corp:a%2Cb"),
            ("corp:\r\nx: y", "corp:%0D%0Ax:%20y"),
            ("corp:é", "corp:%C3%A9"),
        ] {
            assert_eq!(header_value(name).unwrap(), header, "{name}");
        }
    }
}
