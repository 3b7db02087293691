//! Session identifiers, and the targets of revocations. Pure: no I/O, no clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

/// What a revocation can refer to a session by.
#[derive(Clone, Debug)]
pub(super) struct SessionIdentifiers {
    pub(super) id: Uuid,
    pub(super) issuer: Arc<str>,
    pub(super) subject: Box<str>,
    /// The provider's identifier of its own session, `sid`.
    pub(super) sid: Option<Box<str>>,
    pub(super) created: Timestamp,
}

/// The sessions that a revocation ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RevocationTarget {
    /// One session of the gate.
    Session(Uuid),
    /// All sessions of one session at the provider: (issuer, sid).
    Sid(Box<str>, Box<str>),
    /// All sessions of a subject: (issuer, subject).
    Subject(Box<str>, Box<str>),
    /// The sessions of a subject for which the provider gave no `sid`: (issuer, subject).
    SubjectWithoutSid(Box<str>, Box<str>),
}

impl RevocationTarget {
    /// Every target that includes the session with these identifiers.
    pub(super) fn including(session: &SessionIdentifiers) -> impl Iterator<Item = Self> {
        let issuer = || Box::<str>::from(&*session.issuer);
        let by_sid = session.sid.clone().map(|sid| Self::Sid(issuer(), sid));
        let by_subject = Self::Subject(issuer(), session.subject.clone());
        let without_sid = Self::SubjectWithoutSid(issuer(), session.subject.clone());
        [Some(Self::Session(session.id)), by_sid, Some(by_subject), Some(without_sid)].into_iter().flatten()
    }

    /// Whether this target, revoked at `revoked_at`, includes `session`. A subject's later sessions are not included.
    pub(super) fn includes(&self, session: &SessionIdentifiers, revoked_at: Timestamp) -> bool {
        match self {
            Self::Session(id) => *id == session.id,
            Self::Sid(issuer, sid) => **issuer == *session.issuer && session.sid.as_ref() == Some(sid),
            Self::Subject(issuer, subject) => {
                **issuer == *session.issuer && *subject == session.subject && session.created <= revoked_at
            }
            Self::SubjectWithoutSid(issuer, subject) => {
                session.sid.is_none()
                    && **issuer == *session.issuer
                    && *subject == session.subject
                    && session.created <= revoked_at
            }
        }
    }
}
