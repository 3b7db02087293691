//! A request's own question, put to policy, and what is written down of question and answer.
//!
//! Promises: the record holds all that policy was told, but for the claims, so that the same can be asked again. The
//! shadow policies are asked the same; what they would have said goes into the record and a metric, nowhere else.

use std::sync::Arc;

use super::Gate;
use crate::{
    audit::{BodyNames, Context, Decision, Record, cut},
    policy::{Denial, Named, Question, Ruling},
};

/// Asks policy.
pub(super) fn ask(gate: &Gate, question: Question<'_>, record: &mut Record) -> Arc<Ruling> {
    let ruling = gate.policy.rule(question);
    record.roles = Some(ruling.roles.clone());
    record.policies = Some(ruling.policies.clone());
    record.active = question.active.map(Into::into);
    record.held = question.active.map(|_| gate.policy.held(question.principal, question.granted));
    let told = question.circumstances;
    record.context = Some(Context::new(told.tls, told.size, told.certificate, told.named.map(names)));
    shadow(gate, question, &ruling, record);
    ruling
}

fn shadow(gate: &Gate, question: Question<'_>, enforced: &Ruling, record: &mut Record) {
    let Some(shadowed) = gate.policy.shadow(question, enforced) else { return };
    let ruling = shadowed.ruling;
    let decision = if ruling.allowed { Decision::Allow } else { Decision::Deny };
    gate.metrics.shadow(decision, shadowed.differs);
    record.shadow_decision = Some(decision);
    if shadowed.differs {
        record.shadow_policies = Some(ruling.policies.clone());
        record.shadow_roles = Some(&ruling.roles).filter(|roles| **roles != enforced.roles).cloned();
    }
    if let Some(Denial::Error(error)) = &ruling.denial {
        record.shadow_error = Some(cut(error));
    }
}

fn names(named: &Named) -> BodyNames {
    BodyNames {
        resources: named.resources.iter().map(|resource| (*resource.name).into()).collect(),
        buckets: named.buckets.iter().cloned().collect(),
        service_accounts: named.service_accounts.iter().cloned().collect(),
    }
}
