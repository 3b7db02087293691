//! One grant: a role on a resource for a time, and what may become of it. Pure: `now` is an argument.
//!
//! Promises: it is asked for, approved by somebody else or not, and ended, in this order and each once; what has ended
//! never counts again. From `until` on it has ended, whether or not anybody writes that down.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Scope;
use crate::{
    clock::{self, Timestamp},
    refusal::Refusal,
};

/// A grant, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its own name; by time (RFC 9562 section 5.7).
    pub id: Uuid,
    /// Who asked for it, and is granted it.
    pub asker: Asker,
    /// The role.
    pub role: Arc<str>,
    /// On what.
    pub resource: Scope,
    /// Why, in the asker's words.
    pub reason: Box<str>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// From here on nobody can approve it any more.
    pub answer_by: Timestamp,
    /// How long it is wanted for, in seconds.
    pub seconds: u64,
    /// That it was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approval>,
    /// That it was ended before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Who asked, as they were then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The principal's name.
    pub name: Arc<str>,
    /// Its issuer's name.
    pub issuer: Arc<str>,
    /// Its subject there.
    pub subject: Box<str>,
    /// The roles that its claims earned.
    pub roles: Arc<[Arc<str>]>,
}

/// That a grant was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The approver's name.
    pub by: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// From here on it counts no longer.
    pub until: Timestamp,
}

/// That a grant was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub how: End,
    /// By whom.
    pub by: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// How somebody ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It was not approved.
    Denied,
    /// Its asker took the question back.
    Withdrawn,
    /// It was approved, and taken away.
    Revoked,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has answered yet.
    Pending,
    /// It counts.
    Approved,
    /// It counts no longer, or never did; by somebody, or by time alone.
    Ended(Option<End>),
}

impl Grant {
    /// Where it stands now.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> State {
        match (&self.ended, &self.approved) {
            (Some(ended), _) => State::Ended(Some(ended.how)),
            (None, Some(approval)) if now < approval.until => State::Approved,
            (None, None) if now < self.answer_by => State::Pending,
            _ => State::Ended(None),
        }
    }

    /// When it ended, where it has.
    #[must_use]
    pub fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        let by_time = self.approved.as_ref().map_or(self.answer_by, |approval| approval.until);
        match self.state(now) {
            State::Ended(_) => Some(self.ended.as_ref().map_or(by_time, |ended| ended.at.min(by_time))),
            _ => None,
        }
    }

    /// Approved by `by`, for as long as was asked or for less.
    ///
    /// # Errors
    /// 403 for the asker itself, whatever policy says; 409 where it is not pending; 400 for longer than was asked.
    pub fn approve(&self, by: &Arc<str>, seconds: Option<u64>, now: Timestamp) -> Result<Self, Refusal> {
        if *by == self.asker.name {
            let text = "nobody approves what they asked for themselves; somebody else has to";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "own_grant", text));
        }
        self.expect(State::Pending, now)?;
        let seconds = seconds.unwrap_or(self.seconds);
        if seconds == 0 || seconds > self.seconds {
            let text = format!("it was asked for {} s; approve it for as long or for less", self.seconds);
            return Err(Refusal::malformed("grant_duration", text));
        }
        let until = clock::after(now, Duration::from_secs(seconds));
        Ok(Self { approved: Some(Approval { by: by.clone(), at: now, until }), ..self.clone() })
    }

    /// Not approved, says `by`.
    ///
    /// # Errors
    /// 409 where it is not pending.
    pub fn deny(&self, by: &Arc<str>, now: Timestamp) -> Result<Self, Refusal> {
        self.expect(State::Pending, now)?;
        Ok(self.end(End::Denied, by, now))
    }

    /// Taken away by `by`; where nobody has answered yet, taken back by its asker.
    ///
    /// # Errors
    /// 409 where it has ended, or is pending and `by` is not its asker.
    pub fn revoke(&self, by: &Arc<str>, now: Timestamp) -> Result<Self, Refusal> {
        if *by == self.asker.name && self.state(now) == State::Pending {
            return Ok(self.end(End::Withdrawn, by, now));
        }
        self.expect(State::Approved, now)?;
        Ok(self.end(End::Revoked, by, now))
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(&self, now: Timestamp) -> Value {
        let mut view = json!({
            "id": self.id,
            "state": self.state(now).word(),
            "asker": self.asker.name,
            "role": self.role,
            "resource": self.resource,
            "reason": self.reason,
            "asked_at": self.asked_at,
            "answer_by": self.answer_by,
            "seconds": self.seconds,
        });
        if let Some(members) = view.as_object_mut() {
            members.extend(self.approved.as_ref().map(|approved| ("approved".into(), json!(approved))));
            members.extend(self.ended.as_ref().map(|ended| ("ended".into(), json!(ended))));
        }
        view
    }

    fn expect(&self, needed: State, now: Timestamp) -> Result<(), Refusal> {
        let state = self.state(now);
        if state == needed {
            return Ok(());
        }
        let text = format!("this grant is {}, and only one that is {} can be that", state.word(), needed.word());
        Err(Refusal::new(StatusCode::CONFLICT, "grant_state", text))
    }

    fn end(&self, how: End, by: &Arc<str>, at: Timestamp) -> Self {
        Self { ended: Some(Ended { how, by: by.clone(), at }), ..self.clone() }
    }
}

impl State {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Ended(None) => "expired",
            Self::Ended(Some(End::Denied)) => "denied",
            Self::Ended(Some(End::Withdrawn)) => "withdrawn",
            Self::Ended(Some(End::Revoked)) => "revoked",
        }
    }
}

#[cfg(test)]
impl Grant {
    /// A grant of `infer` on the exporter `node` for an hour, asked for at the epoch by `corp:s`.
    pub(super) fn test() -> Self {
        let asker = Asker { name: "corp:s".into(), issuer: "corp".into(), subject: "s".into(), roles: [].into() };
        Self {
            id: Uuid::from_u128(1),
            asker,
            role: "infer".into(),
            resource: Scope::parse("exporter/node").unwrap(),
            reason: "an incident".into(),
            asked_at: Timestamp::UNIX_EPOCH,
            answer_by: clock::after(Timestamp::UNIX_EPOCH, Duration::from_secs(100)),
            seconds: 3600,
            approved: None,
            ended: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        clock::after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    type Step = fn(&Grant, Timestamp) -> Result<Grant, Refusal>;

    const APPROVE: Step = |grant, now| grant.approve(&"corp:lead".into(), None, now);
    const APPROVE_OWN: Step = |grant, now| grant.approve(&"corp:s".into(), None, now);
    const DENY: Step = |grant, now| grant.deny(&"corp:lead".into(), now);
    const REVOKE: Step = |grant, now| grant.revoke(&"corp:lead".into(), now);
    const TAKE_BACK: Step = |grant, now| grant.revoke(&"corp:s".into(), now);

    /// Takes the steps at these seconds and looks at `look`: the state, or the reason of the first refusal.
    fn check(steps: &[(u64, Step)], look: u64, expected: Result<&str, &str>) {
        let taken = steps.iter().try_fold(Grant::test(), |grant, (second, step)| step(&grant, at(*second)));
        let found = taken.as_ref().map(|grant| grant.state(at(look)).word()).map_err(|refusal| refusal.reason);
        assert_eq!(found, expected, "{taken:?}");
    }

    #[test]
    fn each_step_is_taken_once_and_in_order() {
        check(&[], 99, Ok("pending"));
        check(&[], 100, Ok("expired"));
        check(&[(99, APPROVE)], 99 + 3599, Ok("approved"));
        check(&[(99, APPROVE)], 99 + 3600, Ok("expired"));
        check(&[(100, APPROVE)], 100, Err("grant_state"));
        check(&[(1, APPROVE_OWN)], 1, Err("own_grant"));
        check(&[(1, APPROVE), (2, APPROVE)], 2, Err("grant_state"));
        check(&[(1, DENY)], 2, Ok("denied"));
        check(&[(1, DENY), (2, APPROVE)], 2, Err("grant_state"));
        check(&[(1, DENY), (2, TAKE_BACK)], 2, Err("grant_state"));
        check(&[(1, TAKE_BACK)], 2, Ok("withdrawn"));
        check(&[(1, REVOKE)], 2, Err("grant_state"));
        check(&[(1, APPROVE), (2, REVOKE)], 2, Ok("revoked"));
        check(&[(1, APPROVE), (2, TAKE_BACK)], 2, Ok("revoked"));
        check(&[(1, APPROVE), (2, REVOKE), (3, REVOKE)], 3, Err("grant_state"));
        check(&[(1, APPROVE), (3601, REVOKE)], 3601, Err("grant_state"));
        check(&[(1, APPROVE), (2, DENY)], 2, Err("grant_state"));
    }

    #[test]
    fn it_is_approved_for_as_long_as_asked_or_less() {
        let approve = |seconds| Grant::test().approve(&"corp:lead".into(), Some(seconds), at(1));
        assert_eq!(approve(60).unwrap().approved.unwrap().until, at(61));
        assert_eq!(approve(3600).unwrap().approved.unwrap().until, at(3601));
        for wrong in [0, 3601] {
            assert_eq!(approve(wrong).unwrap_err().reason, "grant_duration");
        }
    }

    #[test]
    fn what_is_kept_is_read_again_as_it_was() {
        let grant = APPROVE(&Grant::test(), at(1)).unwrap();
        let kept = serde_json::to_string(&REVOKE(&grant, at(2)).unwrap()).unwrap();
        let read: Grant = serde_json::from_str(&kept).unwrap();
        assert_eq!((read.state(at(3)).word(), read.ended_at(at(3))), ("revoked", Some(at(2))));
        assert!(serde_json::from_str::<Grant>(&kept.replace("exporter/node", "exporter/../x")).is_err());
    }
}
