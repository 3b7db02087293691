//! The suite: a module for each promise, each kept by the real program between real sockets.
//!
//! Nothing is mocked except Google. A peer that is not installed fails its test: `tests/run` installs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on says so by panicking"
)]

mod assertion;
mod audit;
mod binding;
mod browser;
mod callers;
mod certificates;
mod check;
mod crash;
mod credentials;
mod decisions;
mod diff;
mod docs;
mod edges;
mod exchange;
mod explain;
mod exporters;
mod faults;
mod fuzz;
mod grants;
mod grants_ends;
mod grants_shared;
mod grpc;
mod guardrails;
mod hostile;
mod introspection;
mod keys;
mod lies;
mod limits;
mod limits_senders;
mod listeners;
mod matched;
mod people;
mod people_glewlwyd;
mod policy_tests;
mod prometheus;
mod prove;
mod providers;
mod refusals;
mod reload;
mod roles;
mod rotation;
mod sdk_genai;
mod sdk_node;
mod sessions;
mod shadow;
mod streams;
mod support;
mod terminal;
mod terminal_faults;
mod terminal_glewlwyd;
mod terminal_renewal;
mod vertex;
mod vertex_bodies;
mod vertex_hosts;
mod vertex_sdk;
mod vertex_table;
mod walk;
