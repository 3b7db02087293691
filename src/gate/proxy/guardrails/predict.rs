//! Predict guardrails: checks a request to a model.
//!
//! Promises: a request that cannot be checked is refused: a body that is not JSON if the guardrail has rules about fields or
//! instances, and every stream of messages.

use http::StatusCode;

use super::json_rules::{self, RuleViolation};
use crate::gate::proxy::request_body::Message;
use crate::{gate::policy::PredictGuardrail, refusal::Refusal};

/// What predict guardrails know of a request.
#[derive(Clone, Copy)]
pub(in crate::gate::proxy) struct RequestFacts<'a> {
    /// The body's length in bytes; `None` if it is not known in advance.
    pub(in crate::gate::proxy) size: Option<u64>,
    /// The number of instances; `None` if they were not counted.
    pub(in crate::gate::proxy) instances: Option<u64>,
    /// The text or message that was read.
    pub(in crate::gate::proxy) message: Option<&'a Message>,
    pub(in crate::gate::proxy) query: &'a str,
}

/// Query parameters that shape the response only; any other could be a field of the request.
const RESPONSE_PARAMETERS: [&str; 7] = ["alt", "$alt", "prettyPrint", "$prettyprint", "$unique", "fields", "$fields"];

/// Refuses a request that violates one guardrail, or that the gate cannot check against it.
pub(super) fn check(name: &str, duty: &PredictGuardrail, facts: &RequestFacts<'_>) -> Result<(), Refusal> {
    let about_fields = !(duty.require.is_empty() && duty.forbid.is_empty() && duty.max.is_empty());
    let about_content = about_fields || duty.max_instances.is_some();
    let Some(sent) = facts.size else {
        return Err(guardrail_refusal(name, "does not permit streams of messages or bodies of unknown length"));
    };
    // the message may be larger than the bytes that were sent: gRPC compresses
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
            &format!("does not permit the query parameter `{parameter}`; put it into the body"),
        ));
    }
    match facts.message {
        None if size == 0 => refusal(name, duty, json_rules::check(duty, b"{}")),
        None => Err(guardrail_refusal(name, "permits only JSON: it cannot check this body")),
        Some(Message::Json(body)) => refusal(name, duty, json_rules::check(duty, body)),
        Some(Message::Grpc(_)) if about_fields => {
            Err(guardrail_refusal(name, "has rules about JSON fields and cannot check gRPC; use REST"))
        }
        Some(Message::Grpc(_)) => match (duty.max_instances, facts.instances) {
            (Some(most), Some(count)) if count <= most => Ok(()),
            (Some(_), Some(count)) => refusal(name, duty, Err(RuleViolation::Instances(count))),
            _ => Err(guardrail_refusal(name, "cannot count the instances of this call; use REST")),
        },
    }
}

fn refusal(name: &str, duty: &PredictGuardrail, found: Result<(), RuleViolation>) -> Result<(), Refusal> {
    let Err(found) = found else { return Ok(()) };
    Err(match found {
        RuleViolation::Unreadable(error) => {
            let text = format!("the guardrail `{name}` permits only one JSON object without duplicate members");
            Refusal::malformed("guardrail", text).with_detail(error)
        }
        RuleViolation::Forbidden(field) => guardrail_refusal(name, &format!("forbids the field `{field}`")),
        RuleViolation::Missing(field) => guardrail_refusal(name, &format!("requires the field `{field}`")),
        RuleViolation::TooMuch(field, most) => {
            guardrail_refusal(name, &format!("permits numbers from 0 to {most} in the field `{field}`"))
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

    fn check(duty: &PredictGuardrail, facts: &RequestFacts<'_>, expected: Result<(), &str>) {
        let found = super::check("g", duty, facts).map_err(|refusal| refusal.text.into_owned());
        assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected);
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let bytes = PredictGuardrail { max_bytes: Some(10), ..PredictGuardrail::default() };
        let instances = PredictGuardrail { max_instances: Some(2), ..PredictGuardrail::default() };
        let fields = PredictGuardrail {
            forbid: vec![crate::gate::policy::Pointer::parse("/x").unwrap()],
            ..PredictGuardrail::default()
        };
        let grpc = Message::Grpc(b"12345"[..].into());
        let json = Message::Json(b"{}"[..].into());
        let facts = RequestFacts { size: Some(5), instances: None, message: None, query: "" };

        let stream = Err("the guardrail `g` does not permit streams of messages or bodies of unknown length");
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

        let opaque = Err("the guardrail `g` permits only JSON: it cannot check this body");
        check(&fields, &facts, opaque);
        check(&instances, &facts, opaque);
        let grpc = RequestFacts { message: Some(&grpc), ..facts };
        check(&fields, &grpc, Err("the guardrail `g` has rules about JSON fields and cannot check gRPC; use REST"));
        check(&instances, &grpc, Err("the guardrail `g` cannot count the instances of this call; use REST"));
        check(&instances, &RequestFacts { instances: Some(2), ..grpc }, Ok(()));
        let three = Err("the guardrail `g` allows 2 instances in one request; yours has 3");
        check(&instances, &RequestFacts { instances: Some(3), ..grpc }, three);

        let json = RequestFacts { message: Some(&json), ..facts };
        check(&fields, &RequestFacts { query: "alt=sse&%24alt=json%3Benum-encoding%3Dint", ..json }, Ok(()));
        let query = Err("the guardrail `g` does not permit the query parameter `x`; put it into the body");
        check(&fields, &RequestFacts { query: "alt=sse&x=1", ..json }, query);
    }
}
