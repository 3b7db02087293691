//! Fetching of an issuer's discovery document and JWKS.
//!
//! Promises: only https, or http to a loopback address; at most 1 MiB and ten seconds for each response; redirects are not
//! followed; the `issuer` of the discovery document must match (OpenID Connect Discovery 1.0 section 4.3). The credential
//! for the issuer is sent to the issuer's own origin and to the configured JWKS URL, nowhere else.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION};

use super::{
    keys::{JwksError, Key, MAX_JWKS_BYTES, parse_jwks},
    openid::metadata::{self, DiscoveryError, MetadataError},
    settings::{KeySource, Settings},
};
use crate::{
    client::Client,
    http::Body,
    secret::{SourceError, authorization},
    telemetry::chain,
};

const REFRESH_MIN: Duration = Duration::from_secs(60);
const REFRESH_MAX: Duration = Duration::from_secs(3600);
const REFRESH_DEFAULT: Duration = Duration::from_secs(300);
/// The deadline of one request.
pub(super) const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// The result of a fetch.
pub(super) struct Fetched {
    pub(super) keys: Vec<Key>,
    /// The time until the next fetch.
    pub(super) refresh: Duration,
    /// The introspection endpoint (RFC 8414 section 2), if the discovery document was fetched and lists one.
    pub(super) introspection: Option<String>,
}

/// The reason why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    Client(String),
    #[error("`{0}` responded with {1}")]
    Status(String, StatusCode),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("cannot read `{path}`: {problem}", path = .0.display(), problem = .1)]
    File(PathBuf, std::io::Error),
    #[error("the credential for the issuer")]
    Credential(#[from] SourceError),
    #[error("the credential for the issuer contains bytes that are not allowed in a header")]
    CredentialBytes(#[from] http::header::InvalidHeaderValue),
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

/// Fetches the keys from the configured source.
pub(super) async fn fetch(settings: &Settings, client: &Client) -> Result<Fetched, FetchError> {
    let (url, introspection) = match &settings.keys {
        KeySource::None => return Ok(Fetched { keys: Vec::new(), refresh: REFRESH_MAX, introspection: None }),
        KeySource::File(path) => {
            let text = tokio::fs::read(path).await.map_err(|e| FetchError::File(path.clone(), e))?;
            return Ok(Fetched { keys: parse_jwks(&text)?, refresh: REFRESH_MIN, introspection: None });
        }
        KeySource::Url(url) => (url.clone(), None),
        KeySource::Discovery => discover(settings, client).await?,
    };
    let (text, refresh) = get(settings, client, &url).await?;
    Ok(Fetched { keys: parse_jwks(&text)?, refresh, introspection })
}

/// The addresses of the JWKS and of the introspection endpoint.
async fn discover(settings: &Settings, client: &Client) -> Result<(String, Option<String>), FetchError> {
    let issuer = &settings.rules.issuer;
    let url = metadata::discovery_url(issuer);
    let credential = credential(settings, &url).await?;
    let metadata = metadata::fetch(client, &url, issuer, credential).await?;
    let invalid = |error| FetchError::Discovery(DiscoveryError::Document(url.clone(), error));
    let jwks = metadata.jwks_uri.ok_or(MetadataError::Missing("jwks_uri")).and_then(|jwks| jwks.url());
    let introspection = metadata.introspection_endpoint.map(|endpoint| endpoint.url()).transpose();
    Ok((jwks.map_err(invalid)?.into(), introspection.map_err(invalid)?.map(String::from)))
}

/// The issuer's credential for a request to `url`; `None` if it has none, or if it must not be sent there.
async fn credential(settings: &Settings, url: &str) -> Result<Option<HeaderValue>, FetchError> {
    let Some(source) = settings.credential.as_ref().filter(|_| may_receive_credential(settings, url)) else {
        return Ok(None);
    };
    Ok(Some(authorization(&format!("Bearer {}", source.read().await?.expose()))?))
}

async fn get(settings: &Settings, client: &Client, url: &str) -> Result<(Bytes, Duration), FetchError> {
    let mut request = Request::get(url).header("accept", "application/json");
    if let Some(credential) = credential(settings, url).await? {
        request = request.header(AUTHORIZATION, credential);
    }
    let request = request.body(Body::Empty).map_err(|e| FetchError::Client(format!("`{url}`: {e}")))?;
    let answer = client.fetch(request, MAX_JWKS_BYTES, FETCH_DEADLINE).await;
    let answer = answer.map_err(|e| FetchError::Client(format!("`{url}`: {}", chain(&e))))?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(url.to_owned(), answer.status()));
    }
    let refresh = refresh_after(answer.headers());
    Ok((answer.into_body(), refresh))
}

/// Whether the issuer's credential may be sent to `url`: a discovery document that names a foreign server must not obtain
/// it.
fn may_receive_credential(settings: &Settings, url: &str) -> bool {
    let origin = |url: &str| url::Url::parse(url).ok().map(|url| url.origin());
    let named = matches!(&settings.keys, KeySource::Url(named) if named == url);
    named || origin(url).is_some() && origin(url) == origin(&settings.rules.issuer)
}

/// The time until the next fetch: `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1) less `Age` (section 5.1), within bounds;
/// `no-store` and `no-cache` are as short as it gets.
fn refresh_after(headers: &http::HeaderMap) -> Duration {
    let text =
        |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let directives = text(http::header::CACHE_CONTROL).to_ascii_lowercase();
    let mut directives = directives.split(',').map(str::trim);
    if directives.clone().any(|d| d == "no-store" || d == "no-cache" || d.starts_with("no-cache=")) {
        return REFRESH_MIN;
    }
    let fresh = directives.find_map(|d| d.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    let age = text(http::header::AGE).trim().parse().unwrap_or(0);
    let fresh = fresh.map(|seconds: u64| Duration::from_secs(seconds.saturating_sub(age)));
    fresh.unwrap_or(REFRESH_DEFAULT).clamp(REFRESH_MIN, REFRESH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gate::identity::jwt::Rules, secret::SecretSource};

    #[test]
    fn cache_headers_set_the_refresh_interval_within_bounds() {
        let check = |headers: &[(&'static str, &str)], seconds: u64| {
            let headers = headers.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
            });
            assert_eq!(refresh_after(&headers.collect()), Duration::from_secs(seconds));
        };
        check(&[], 300);
        check(&[("cache-control", "public, max-age=600")], 600);
        check(&[("cache-control", "Max-Age=\"600\", must-revalidate")], 600);
        check(&[("cache-control", "max-age=600"), ("age", "500")], 100);
        check(&[("cache-control", "max-age=600"), ("age", "9999")], 60);
        check(&[("cache-control", "max-age=0")], 60);
        check(&[("cache-control", "max-age=31536000")], 3600);
        check(&[("cache-control", "max-age=99999999999999999999999")], 300);
        check(&[("cache-control", "max-age=soon")], 300);
        check(&[("cache-control", "no-store, max-age=600")], 60);
        check(&[("cache-control", "no-cache")], 60);
    }

    #[test]
    fn an_issuers_credential_is_sent_to_its_own_origin_only() {
        let check = |keys: KeySource, url: &str, expected: bool| {
            let settings = Settings {
                rules: Rules { issuer: "https://api.example".into(), ..Rules::default() },
                keys,
                credential: Some(SecretSource::Env("X".into())),
                ..Settings::test()
            };
            assert_eq!(may_receive_credential(&settings, url), expected, "{url}");
        };
        check(KeySource::Discovery, "https://api.example/openid/v1/jwks", true);
        check(KeySource::Discovery, "https://api.example:6443/openid/v1/jwks", false);
        check(KeySource::Discovery, "https://api.example.evil.example/jwks", false);
        check(KeySource::Discovery, "http://api.example/jwks", false);
        check(KeySource::Url("https://10.0.0.1:6443/jwks".into()), "https://10.0.0.1:6443/jwks", true);
    }
}
