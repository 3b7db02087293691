//! Browser sessions: logins at OpenID providers (OpenID Connect Core), sealed session cookies, refresh and logout.
//!
//! Promises: a session is only what the gate sealed after a login: an id, the issuer's ID token and an end. The end is
//! never after that of the ID token, unless a refresh gave a new one, and never after the longest session lifetime. An
//! unsafe method from another site is refused (CSRF). A revoked session is refused at once. Never: a session of a
//! provider that is no longer configured, or whose `iss`, client or rules have changed; nor its tokens sent to a
//! provider that has taken over its name.

mod active;
pub(crate) mod cookie;
mod id_token;
pub(crate) mod keys;
mod lifetime;
mod login;
mod logout;
mod provider;
mod refresh;
mod revocations;
mod sealed;
mod sessions;
mod single_flight;
mod state;
mod subject;
#[cfg(test)]
mod tests;

pub use self::login::{Callback, ReturnTo};
pub(crate) use self::{
    lifetime::MAX_LIFETIME,
    login::LoginChoice,
    logout::{LogoutRedirect, MAX_FORM},
    provider::LoginSettings,
    sessions::{Sessions, Settings},
    state::SessionState,
};
