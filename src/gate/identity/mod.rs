//! Identity: authentication of requests by tokens, sessions and client certificates.

mod auth_context;
mod authenticate;
pub(crate) mod certificate;
mod claims;
mod confirmation;
pub(crate) mod dpop;
mod fetch;
pub(crate) mod inspect;
pub(crate) mod issuer;
pub(crate) mod jwt;
pub(crate) mod keys;
pub(crate) mod openid;
mod presented_token;
pub(crate) mod remote;
mod rules;
mod self_issued;
pub(crate) mod session;
mod settings;
mod strict_json;

pub use jsonwebtoken::Algorithm;

pub use self::{
    auth_context::AuthContext,
    authenticate::{Authenticators, Identity},
    issuer::Issuer,
};
pub(crate) use self::{
    auth_context::Authenticated,
    self_issued::SelfIssued,
    settings::{KeySource, Settings},
};
