//! Guardrails: what policy obliges the gate to when it lets a request pass, held to what passes.
//!
//! Promises: every obligation of the permit holds, or the request is refused; one that cannot be held to a request
//! refuses it. A [`Guardrails`] is made from the permit before anything is forwarded, and what it finds in a request is a
//! denial in the audit log.

mod exposition_filter;
mod json_rules;
mod predict;
mod scrape;

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

pub(super) use self::exposition_filter::FilterError;
use self::scrape::ScrapeGuardrails;
use super::{answer::Answer, authorize::Permit, request_body::Message};
use crate::{
    gate::{
        policy::{Duty, WriteDuty},
        routes::Route,
    },
    principal::Principal,
    refusal::Refusal,
    series::WriteRules,
};

/// What is known of a request's content.
#[derive(Clone, Copy)]
pub(super) struct RequestFacts<'a> {
    /// Its length in bytes; `None` where it goes on.
    pub(super) size: Option<u64>,
    /// How many instances are in it, where that was counted.
    pub(super) instances: Option<u64>,
    /// What was read of it.
    pub(super) message: Option<&'a Message>,
    pub(super) query: &'a str,
}

/// The obligations that are still to be held once the request goes on.
pub(super) struct Guardrails {
    scrape: Option<ScrapeGuardrails>,
    write_rules: Option<Arc<WriteRules>>,
}

impl Guardrails {
    /// Holds a request to its permit's obligations, or refuses it.
    pub(super) fn apply(permit: &Permit<'_>, facts: &RequestFacts<'_>) -> Result<Self, Refusal> {
        let (mut scrapes, mut names, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for obligation in permit.obligations.iter() {
            match &obligation.duty {
                Duty::Scrape(duty) => {
                    scrapes.push(duty.clone());
                    names.push(format!("`{}`", obligation.name));
                }
                Duty::Write(duty) => writes.push((&*obligation.name, duty)),
                Duty::Predict(duty) => predict::check(&obligation.name, duty, facts)?,
            }
        }
        let scrape =
            (!scrapes.is_empty()).then(|| ScrapeGuardrails { duties: scrapes.into(), names: names.join(", ") });
        if let (Some(scrape), Route::Exporter { exporter, path }) = (&scrape, &permit.route) {
            let path = path.split_once('?').map_or(*path, |(path, _)| path);
            let metrics = exporter.metrics_path.split_once('?').map_or(&*exporter.metrics_path, |(path, _)| path);
            if path != metrics {
                let text = format!("the guardrail {} lets you read `{metrics}` and no other page", scrape.names);
                return Err(Refusal::new(StatusCode::FORBIDDEN, "guardrail", text));
            }
        }
        let write_rules = write_rules(&writes, &permit.principal)?.map(Arc::new);
        Ok(Self { scrape, write_rules })
    }

    /// Asks for what can be held to the obligations.
    pub(super) fn rewrite_request(&self, headers: &mut HeaderMap) {
        if let Some(scrape) = &self.scrape {
            scrape.rewrite_request(headers);
        }
    }

    /// What of an answer the caller may see.
    pub(super) fn filter_response(&self, answer: Answer) -> Result<Answer, Refusal> {
        match &self.scrape {
            Some(scrape) => scrape.filter_response(answer),
            None => Ok(answer),
        }
    }

    /// What the caller's series must be.
    pub(super) fn write_rules(&self) -> Option<Arc<WriteRules>> {
        self.write_rules.clone()
    }
}

/// The rules of all write guardrails, filled in for this principal.
fn write_rules(duties: &[(&str, &WriteDuty)], principal: &Principal) -> Result<Option<WriteRules>, Refusal> {
    let refused = |text: String| Refusal::new(StatusCode::FORBIDDEN, "guardrail", text);
    let mut rules = WriteRules::default();
    for (name, duty) in duties {
        for (label, template) in &duty.force {
            let value = template.fill(principal).ok_or_else(|| {
                refused(format!("the guardrail `{name}` sets the label `{label}` by a claim that your token lacks"))
            })?;
            match rules.force.iter().find(|(other, _)| other == label) {
                None => rules.force.push((label.clone(), value.into())),
                Some((_, other)) if **other == *value => {}
                Some(_) => {
                    let text = format!("the guardrail `{name}` sets the label `{label}`, as does another, differently");
                    return Err(refused(text));
                }
            }
        }
        rules.refuse_labels.extend(duty.refuse_labels.iter().cloned());
        rules.allow_metrics.extend(duty.allow_metrics.clone());
        rules.refuse_metrics.extend(duty.refuse_metrics.iter().cloned());
    }
    Ok((!duties.is_empty()).then_some(rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::policy::Template;

    fn forcing(label: &str, value: &str) -> WriteDuty {
        WriteDuty { force: vec![(label.into(), Template::parse(value).unwrap())], ..WriteDuty::default() }
    }

    #[test]
    fn write_guardrails_hold_together_or_not_at_all() {
        let principal = Principal::test("corp", r#"{"team":"a"}"#);
        let check = |duties: &[WriteDuty], expected: Result<&[(&str, &str)], &str>| {
            let duties: Vec<(&str, &WriteDuty)> = duties.iter().map(|duty| ("g", duty)).collect();
            let found = write_rules(&duties, &principal).map(|rules| rules.unwrap_or_default().force);
            let found = found.map_err(|refusal| refusal.text.into_owned());
            let expected: Result<Vec<_>, _> = expected
                .map(|force| force.iter().map(|(a, b)| (Box::from(*a), Box::from(*b))).collect())
                .map_err(str::to_owned);
            assert_eq!(found, expected);
        };
        check(&[], Ok(&[]));
        check(&[forcing("team", "{claim:team}"), forcing("x", "1")], Ok(&[("team", "a"), ("x", "1")]));
        check(&[forcing("team", "{claim:team}"), forcing("team", "a")], Ok(&[("team", "a")]));
        check(
            &[forcing("team", "{claim:team}"), forcing("team", "b")],
            Err("the guardrail `g` sets the label `team`, as does another, differently"),
        );
        check(
            &[forcing("team", "{claim:other}")],
            Err("the guardrail `g` sets the label `team` by a claim that your token lacks"),
        );
    }
}
