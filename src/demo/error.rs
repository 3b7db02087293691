//! Errors of the demo's emulators and of its directory.

use std::{io, net::SocketAddr, path::PathBuf};

/// An emulator, or a file of the demo, that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] io::Error),
    /// A file of the demo's directory.
    #[error("cannot write `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// `--dir` holds a configuration that the demo did not write.
    #[error("`{}` was not written by `wicketgate demo` and is not overwritten; choose another directory with `--dir`", .0.display())]
    ForeignConfiguration(PathBuf),
    /// Another demo runs there.
    #[error("a demo is running in `{}`; stop it or choose another directory with `--dir`", .0.display())]
    InUse(PathBuf),
    /// A certificate or its key.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A server's TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// PEM of the demo's CA that cannot be read.
    #[error("cannot read the certificate just made")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A signature.
    #[error("cannot sign a token")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// No key has this `kid` or algorithm.
    #[error("the issuer has no key `{0}`")]
    NoKey(String),
    /// Symmetric algorithms have no public keys.
    #[error("the issuer makes no `{0:?}` keys")]
    Algorithm(jsonwebtoken::Algorithm),
    /// The client that fetches the gate's keys.
    #[error("cannot trust the demo's own certificate authority")]
    Client(#[from] crate::client::BuildError),
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
}
