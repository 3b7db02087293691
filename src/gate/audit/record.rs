//! What is written down of one request.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::RecordedContext;
use crate::clock::{Instant, Timestamp};

/// Longest text from outside that one field holds, in bytes; what is longer is cut and marked with `…`.
const FIELD_LIMIT: usize = 1024;

/// Whether the request was let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was.
    Allow,
    /// It was not; what nobody decided is denied.
    #[default]
    Deny,
}

/// What the record of a request about a grant says of it.
#[derive(Debug, Serialize)]
pub struct RecordedGrant {
    /// The grant's id.
    pub id: Uuid,
    /// Who asked for it.
    pub asker: Arc<str>,
    /// The role.
    pub role: Arc<str>,
    /// On what.
    pub resource: Arc<str>,
    /// Why, in the asker's words.
    pub reason: Box<str>,
    /// For how many seconds it was asked.
    pub seconds: u64,
    /// Until when it counts, where it was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// One request's record, filled in as its story goes on.
#[derive(Debug, Serialize)]
pub struct Record {
    /// When the request's head had arrived.
    #[serde(rename = "time")]
    pub at: Timestamp,
    #[serde(skip)]
    pub(crate) started: Instant,
    /// Also sent to the client and the upstream as `x-request-id`.
    pub id: Uuid,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// The method, as sent.
    #[serde(serialize_with = "method")]
    pub method: Method,
    /// The path without the query, as sent.
    pub path: Box<str>,
    /// `issuer-name:subject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<Arc<str>>,
    /// The issuer's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Arc<str>>,
    /// The roles that the decision was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Arc<[Arc<str>]>>,
    /// The one role that the caller activated for the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_role: Option<Box<str>>,
    /// The roles that the principal holds, where it activated one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_roles: Option<Arc<[Arc<str>]>>,
    /// The Cedar action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Arc<str>>,
    /// The Cedar resource's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Arc<str>>,
    /// The route's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'static str>,
    /// Whether the request was let through.
    pub decision: Decision,
    /// The policies that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Arc<[Arc<str>]>>,
    /// What policy was told of the request besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<RecordedContext>,
    /// What the shadow policies would have decided, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_decision: Option<Decision>,
    /// The shadow policies that would have decided so, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_policies: Option<Arc<[Arc<str>]>>,
    /// The roles that they would have decided with, where the decision and the roles differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_roles: Option<Arc<[Arc<str>]>>,
    /// Why the shadow policies could not be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_error: Option<Box<str>>,
    /// The guardrails that the policies that decided oblige to, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obligations: Option<Arc<[Arc<str>]>>,
    /// The refusal's stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The limit that the request exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Arc<str>>,
    /// What only the log may hold of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// The grant that the request is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Box<RecordedGrant>>,
    /// The grants whose roles are among those that the decision was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<Box<[Uuid]>>,
    /// The downstream credential's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Arc<str>>,
    /// The downstream credential's generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_generation: Option<u64>,
    /// The model that answered, where the answer names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<str>>,
    /// The version of the model that answered, where the answer names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<Box<str>>,
    /// Tokens that the model counted, of question and answer together, where the answer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The status that the client was sent.
    #[serde(serialize_with = "status", skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusCode>,
    /// The status that a gRPC call ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Bytes of the request's body that were read.
    #[serde(skip)]
    pub(crate) bytes_in: Option<Arc<AtomicU64>>,
}

impl Record {
    /// Opens the record of a request.
    #[must_use]
    pub fn open(at: Timestamp, started: Instant, peer: SocketAddr, method: Method, path: &str) -> Self {
        Self {
            at,
            started,
            id: Uuid::now_v7(),
            peer,
            method,
            path: cut(path),
            principal: None,
            issuer: None,
            roles: None,
            active_role: None,
            held_roles: None,
            action: None,
            resource: None,
            route: None,
            decision: Decision::Deny,
            policies: None,
            context: None,
            shadow_decision: None,
            shadow_policies: None,
            shadow_roles: None,
            shadow_error: None,
            obligations: None,
            reason: None,
            limit: None,
            detail: None,
            grant: None,
            grants: None,
            credential: None,
            credential_generation: None,
            model: None,
            model_version: None,
            tokens: None,
            status: None,
            grpc_status: None,
            bytes_in: None,
        }
    }

    /// Keeps what only the log may hold of a refusal, cut to a bounded length.
    pub fn keep_detail(&mut self, text: &str) {
        self.detail = Some(cut(text));
    }
}

/// `text`, or as much of it as a field holds.
pub(crate) fn cut(text: &str) -> Box<str> {
    if text.len() <= FIELD_LIMIT {
        return text.into();
    }
    let end = text.floor_char_boundary(FIELD_LIMIT);
    format!("{}…", text.get(..end).unwrap_or_default()).into()
}

fn method<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(method.as_str())
}

fn status<S: Serializer>(status: &Option<StatusCode>, to: S) -> Result<S::Ok, S::Error> {
    match status {
        Some(status) => to.serialize_u16(status.as_u16()),
        None => to.serialize_none(),
    }
}
