//! Logins at a shell: OAuth 2.0 logins of people in a browser or with a device code, and the tokens that they give.
//!
//! Promises: a printed token is valid now; of several processes that need a new token, one requests it; a refresh token
//! that the provider has rotated is on disk before the token of the same response is printed. Never: a secret in an
//! argument, a log line or an error; a provider's text on the terminal that could control it.

mod browser;
pub(in crate::cli) mod cache;
pub(in crate::cli) mod command;
mod device;
mod error;
mod gate;
mod id_token;
mod loopback;
mod oauth_client;
mod pending;
mod printable;
mod provider;
mod resource_metadata;
mod stored;
mod tokens;

pub(in crate::cli) use self::{
    error::LoginError,
    gate::GateClient,
    printable::printable,
    stored::LoginToken,
    tokens::{LogoutResult, logout, token},
};
