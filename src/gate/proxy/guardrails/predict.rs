//! A question to a model under guardrails.
//!
//! Promises: what cannot be looked at is refused: a body that is no JSON where fields or instances are facts about, a
//! stream of messages in any case.

use http::StatusCode;

use super::{
    RequestFacts,
    json_rules::{self, RuleViolation},
};
use crate::gate::proxy::request_body::Message;
use crate::{gate::policy::PredictDuty, refusal::Refusal};

/// Query parameters that only shape the answer; whatever else stands there could be a field.
const RESPONSE_PARAMETERS: [&str; 7] = ["alt", "$alt", "prettyPrint", "$prettyprint", "$unique", "fields", "$fields"];

/// Holds a question to one guardrail.
pub(super) fn check(name: &str, duty: &PredictDuty, facts: &RequestFacts<'_>) -> Result<(), Refusal> {
    let about_fields = !(duty.require.is_empty() && duty.forbid.is_empty() && duty.max.is_empty());
    let about_content = about_fields || duty.max_instances.is_some();
    let Some(sent) = facts.size else {
        return Err(guardrail_refusal(name, "takes no streams of messages and no bodies of unknown length"));
    };
    // a message may have been sent compressed
    let read = facts.message.map_or(0, |(Message::Json(bytes) | Message::Grpc(bytes))| bytes.len() as u64);
    let size = sent.max(read);
    if let Some(most) = duty.max_bytes.filter(|most| size > *most) {
        return Err(guardrail_refusal(name, &format!("allows bodies of {most} bytes; yours has {size}")));
    }
    if !about_content {
        return Ok(());
    }
    let is_response_parameter = |name: &str| RESPONSE_PARAMETERS.iter().any(|shape| shape.eq_ignore_ascii_case(name));
    let mut parameters = url::form_urlencoded::parse(facts.query.as_bytes());
    if let Some((parameter, _)) = parameters.find(|(name, _)| !is_response_parameter(name)) {
        return Err(guardrail_refusal(
            name,
            &format!("takes no parameter `{parameter}` in the query; put it into the body"),
        ));
    }
    match facts.message {
        None if size == 0 => refusal(name, duty, json_rules::check(duty, b"{}")),
        None => Err(guardrail_refusal(name, "takes JSON alone: it cannot look into this body")),
        Some(Message::Json(body)) => refusal(name, duty, json_rules::check(duty, body)),
        Some(Message::Grpc(_)) if about_fields => {
            Err(guardrail_refusal(name, "is about fields of JSON and cannot look into gRPC; use REST"))
        }
        Some(Message::Grpc(_)) => match (duty.max_instances, facts.instances) {
            (Some(most), Some(count)) if count <= most => Ok(()),
            (Some(_), Some(count)) => refusal(name, duty, Err(RuleViolation::Instances(count))),
            _ => Err(guardrail_refusal(name, "cannot count the instances of this call; use REST")),
        },
    }
}

fn refusal(name: &str, duty: &PredictDuty, found: Result<(), RuleViolation>) -> Result<(), Refusal> {
    let Err(found) = found else { return Ok(()) };
    Err(match found {
        RuleViolation::Unreadable(error) => {
            let text = format!("the guardrail `{name}` takes one JSON object in which no member stands twice");
            Refusal::malformed("guardrail", text).with_detail(error)
        }
        RuleViolation::Forbidden(field) => guardrail_refusal(name, &format!("forbids the field `{field}`")),
        RuleViolation::Missing(field) => guardrail_refusal(name, &format!("requires the field `{field}`")),
        RuleViolation::TooMuch(field, most) => {
            guardrail_refusal(name, &format!("allows the field `{field}` a number from 0 to {most}"))
        }
        RuleViolation::Instances(count) => {
            let most = duty.max_instances.unwrap_or_default();
            guardrail_refusal(name, &format!("allows {most} instances in one request; yours has {count}"))
        }
    })
}

fn guardrail_refusal(name: &str, what: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "guardrail", format!("the guardrail `{name}` {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(duty: &PredictDuty, facts: &RequestFacts<'_>, expected: Result<(), &str>) {
        let found = super::check("g", duty, facts).map_err(|refusal| refusal.text.into_owned());
        assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected);
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let bytes = PredictDuty { max_bytes: Some(10), ..PredictDuty::default() };
        let instances = PredictDuty { max_instances: Some(2), ..PredictDuty::default() };
        let fields =
            PredictDuty { forbid: vec![crate::gate::policy::Pointer::parse("/x").unwrap()], ..PredictDuty::default() };
        let (grpc, json) = (Message::Grpc(b"12345"[..].into()), Message::Json(b"{}"[..].into()));
        let facts = RequestFacts { size: Some(5), instances: None, message: None, query: "" };

        let stream = Err("the guardrail `g` takes no streams of messages and no bodies of unknown length");
        for duty in [&bytes, &instances, &fields] {
            check(duty, &RequestFacts { size: None, message: Some(&grpc), instances: Some(1), ..facts }, stream);
            check(duty, &RequestFacts { size: Some(2), message: Some(&json), ..facts }, Ok(()));
            check(duty, &RequestFacts { size: Some(0), ..facts }, Ok(()));
        }
        check(&bytes, &facts, Ok(()));
        check(
            &bytes,
            &RequestFacts { size: Some(11), ..facts },
            Err("the guardrail `g` allows bodies of 10 bytes; yours has 11"),
        );

        let opaque = Err("the guardrail `g` takes JSON alone: it cannot look into this body");
        check(&fields, &facts, opaque);
        check(&instances, &facts, opaque);
        let grpc = RequestFacts { message: Some(&grpc), ..facts };
        check(&fields, &grpc, Err("the guardrail `g` is about fields of JSON and cannot look into gRPC; use REST"));
        check(&instances, &grpc, Err("the guardrail `g` cannot count the instances of this call; use REST"));
        check(&instances, &RequestFacts { instances: Some(2), ..grpc }, Ok(()));
        let three = Err("the guardrail `g` allows 2 instances in one request; yours has 3");
        check(&instances, &RequestFacts { instances: Some(3), ..grpc }, three);

        let json = RequestFacts { message: Some(&json), ..facts };
        check(&fields, &RequestFacts { query: "alt=sse&%24alt=json%3Benum-encoding%3Dint", ..json }, Ok(()));
        let query = Err("the guardrail `g` takes no parameter `x` in the query; put it into the body");
        check(&fields, &RequestFacts { query: "alt=sse&x=1", ..json }, query);
    }
}
