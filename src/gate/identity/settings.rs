//! Settings of one `[[issuer]]` section.

use std::{path::PathBuf, time::Duration};

use super::{remote, rules::Rules};
use crate::secret::SecretSource;

/// The source of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `jwks_uri` of the discovery document (OpenID Connect Discovery 1.0 section 4).
    Discovery,
    /// A JWKS at this URL.
    Url(String),
    /// A JWKS in this file, read when the configuration is loaded and at each refresh.
    File(PathBuf),
    /// No keys: every token of the issuer is validated remotely.
    None,
}

/// One `[[issuer]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The issuer's name in its principals.
    pub name: String,
    /// The validation rules of its tokens.
    pub rules: Rules,
    /// The source of its keys.
    pub keys: KeySource,
    /// How long the last fetched keys stay valid while the issuer is unreachable.
    pub grace: Duration,
    /// The roots that its server's certificate must chain to; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// The bearer token for discovery and JWKS requests; Kubernetes' API server requires one.
    pub credential: Option<SecretSource>,
    /// Remote validation of its tokens, if configured.
    pub remote: Option<remote::Settings>,
}

#[cfg(test)]
impl Settings {
    /// Settings for the tests of pure parts.
    pub(super) fn test() -> Self {
        use jsonwebtoken::Algorithm;
        Self {
            name: "corp".into(),
            rules: Rules {
                issuer: "https://idp.test".into(),
                audiences: vec!["wicketgate".into()],
                algorithms: vec![Algorithm::RS256, Algorithm::ES256],
                leeway: Duration::from_secs(60),
                ..Rules::default()
            },
            keys: KeySource::Discovery,
            grace: Duration::from_secs(24 * 3600),
            ca: None,
            credential: None,
            remote: None,
        }
    }
}
