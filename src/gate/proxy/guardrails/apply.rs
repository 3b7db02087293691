//! Applies the obligations of a permit to the request and its response.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{
    super::{answer::Answer, authorize::Permit},
    predict::{self, RequestFacts},
    scrape::ScrapeGuardrails,
};
use crate::{
    gate::{
        policy::{Guardrail, WriteGuardrail},
        routes::Route,
    },
    principal::Principal,
    refusal::Refusal,
    series::WriteRules,
};

/// The obligations that apply to the forwarded request and to its response.
pub(in crate::gate::proxy) struct Guardrails {
    scrape: Option<ScrapeGuardrails>,
    write_rules: Option<Arc<WriteRules>>,
}

impl Guardrails {
    /// Applies the permit's obligations to the request, or refuses it.
    pub(in crate::gate::proxy) fn apply(permit: &Permit<'_>, facts: &RequestFacts<'_>) -> Result<Self, Refusal> {
        let mut scrapes = Vec::new();
        let mut names = Vec::new();
        let mut writes = Vec::new();
        for obligation in permit.obligations.iter() {
            match &obligation.guardrail {
                Guardrail::Scrape(duty) => {
                    scrapes.push(duty.clone());
                    names.push(format!("`{}`", obligation.name));
                }
                Guardrail::Write(duty) => writes.push((&*obligation.name, duty)),
                Guardrail::Predict(duty) => predict::check(&obligation.name, duty, facts)?,
            }
        }
        let scrape =
            (!scrapes.is_empty()).then(|| ScrapeGuardrails { duties: scrapes.into(), names: names.join(", ") });
        if let (Some(scrape), Route::Exporter { exporter, path }) = (&scrape, &permit.route) {
            let path = path.split_once('?').map_or(*path, |(path, _)| path);
            let metrics = exporter.metrics_path.split_once('?').map_or(&*exporter.metrics_path, |(path, _)| path);
            if path != metrics {
                let text = format!("the guardrail {} permits only the page `{metrics}`", scrape.names);
                return Err(Refusal::new(StatusCode::FORBIDDEN, "guardrail", text));
            }
        }
        let write_rules = write_rules(&writes, &permit.principal)?.map(Arc::new);
        Ok(Self { scrape, write_rules })
    }

    /// Rewrites the request's headers so that the response can be filtered.
    pub(in crate::gate::proxy) fn rewrite_request(&self, headers: &mut HeaderMap) {
        if let Some(scrape) = &self.scrape {
            scrape.rewrite_request(headers);
        }
    }

    /// Removes from a response what the caller may not see.
    pub(in crate::gate::proxy) fn filter_response(&self, answer: Answer) -> Result<Answer, Refusal> {
        match &self.scrape {
            Some(scrape) => scrape.filter_response(answer),
            None => Ok(answer),
        }
    }

    /// The rules for the caller's series.
    pub(in crate::gate::proxy) fn write_rules(&self) -> Option<Arc<WriteRules>> {
        self.write_rules.clone()
    }
}

/// The rules of all write guardrails, with this principal's values.
fn write_rules(duties: &[(&str, &WriteGuardrail)], principal: &Principal) -> Result<Option<WriteRules>, Refusal> {
    let refused = |text: String| Refusal::new(StatusCode::FORBIDDEN, "guardrail", text);
    let mut rules = WriteRules::default();
    for (name, duty) in duties {
        for (label, template) in &duty.force {
            let value = template.fill(principal).ok_or_else(|| {
                refused(format!("the guardrail `{name}` sets the label `{label}` from a claim that your token lacks"))
            })?;
            match rules.force.iter().find(|(other, _)| other == label) {
                None => rules.force.push((label.clone(), value.into())),
                Some((_, other)) if **other == *value => {}
                Some(_) => {
                    let text = format!(
                        "the guardrail `{name}` sets the label `{label}` to another value than a second guardrail does"
                    );
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

    fn forcing(label: &str, value: &str) -> WriteGuardrail {
        WriteGuardrail { force: vec![(label.into(), Template::parse(value).unwrap())], ..WriteGuardrail::default() }
    }

    #[test]
    fn write_guardrails_hold_together_or_not_at_all() {
        let principal = Principal::test("corp", r#"{"team":"a"}"#);
        let check = |duties: &[WriteGuardrail], expected: Result<&[(&str, &str)], &str>| {
            let duties: Vec<(&str, &WriteGuardrail)> = duties.iter().map(|duty| ("g", duty)).collect();
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
            Err("the guardrail `g` sets the label `team` to another value than a second guardrail does"),
        );
        check(
            &[forcing("team", "{claim:other}")],
            Err("the guardrail `g` sets the label `team` from a claim that your token lacks"),
        );
    }
}
