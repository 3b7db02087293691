//! The configuration: `wicketgate.toml` and the files beside it become a [`Config`] of built values, or a list of every
//! problem.
//!
//! Promises: what loading returns can be served as it is: certificates are loaded, policies compiled, URLs parsed. A
//! file with problems yields no configuration. Must never use the network.

mod binding;
mod cases;
mod data;
mod gate;
mod grants;
mod guardrails;
mod issuer;
mod limits;
mod load;
mod policies;
mod problem;
mod proofs;
mod reader;
mod roles;
mod sessions;
mod settings;
mod token_issuer;
mod upstreams;

pub(crate) use self::{
    cases::{Cases, cases},
    load::{certificate_files, policy_directory},
    policies::actions,
    proofs::proofs,
    settings::{DataSettings, ExporterSettings, ForecastSettings, IssueSettings, ScrapeSettings, VertexSettings},
};
pub use self::{
    load::load,
    policies::load_policies,
    problem::{Problem, Problems},
    settings::Config,
};
