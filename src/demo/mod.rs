//! The world around the gate, on loopback: an OIDC issuer, an emulator of Google, an exporter, and their certificates.
//!
//! Promises: each part speaks the real protocol and checks what the real one checks, so that the gate cannot tell the
//! difference; each listens on loopback only, remembers what it was asked, and stops when told. Keys, tokens and
//! passwords are made at run time and live in memory or in the demo's own directory.
//!
//! Never: imports what it imitates (identity, credentials, ingest), so that a mistake there is not made twice. Only
//! `cli` and the tests import it. Nothing here is fit to guard anything.

pub(crate) mod directory;
pub(crate) mod environment;
pub(crate) mod exporter;
pub(crate) mod google;
pub(crate) mod history;
pub(crate) mod issuer;
pub(crate) mod pki;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, path::PathBuf};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Why a part of the demo could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] io::Error),
    /// A file of the demo's directory.
    #[error("cannot write `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// `--dir` holds a real configuration.
    #[error("`{}` is not a demo's configuration and is left alone; name another directory", .0.display())]
    NotOurs(PathBuf),
    /// Another demo runs there.
    #[error("a demo is running in `{}`; stop it or name another directory with --dir", .0.display())]
    InUse(PathBuf),
    /// A certificate or its key.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A server's TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// PEM that was made here cannot be read here.
    #[error("cannot read the certificate just made")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A signature.
    #[error("cannot sign a token")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// A key that was asked for by `kid` or algorithm.
    #[error("the issuer has no key `{0}`")]
    NoKey(String),
    /// Symmetric algorithms have no public keys.
    #[error("the issuer makes no `{0:?}` keys")]
    Algorithm(jsonwebtoken::Algorithm),
    /// What asks the gate for its keys.
    #[error("cannot trust the demo's own certificate authority")]
    Client(#[from] crate::client::BuildError),
    /// No randomness.
    #[error("the system has no random bytes to give")]
    Random,
}

/// `bytes` random bytes as text that fits a header, a URL and a file.
pub(crate) fn random_text(bytes: usize) -> Result<String, DemoError> {
    let mut filled = vec![0; bytes];
    rand::fill(&mut filled).map_err(|_| DemoError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(filled))
}
