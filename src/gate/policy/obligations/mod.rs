//! Obligations of permits: guardrails by name, and the annotations that name them.
//!
//! `guardrail` has the types, `bind` puts them behind `@oblige`.

pub(super) mod bind;
mod guardrail;

pub(crate) use self::guardrail::{
    Guardrail, MaskKey, Obligation, Pointer, PredictGuardrail, ScrapeGuardrail, Template, WriteGuardrail, plain_name,
};
