//! The suite: a module for each promise, kept by the real program between real sockets.
//!
//! Nothing is mocked except Google. A test whose peer is not installed fails and says so: `tests/run` installs the
//! peers.
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
mod certs;
mod check;
mod cli_login;
mod cli_login_faults;
mod cli_login_glewlwyd;
mod cli_login_renewal;
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
mod hostile_tokens;
mod introspection;
mod keys;
mod limits;
mod limits_senders;
mod listeners;
mod login;
mod login_glewlwyd;
mod malicious_provider;
mod path_integrity;
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
mod vertex;
mod vertex_bodies;
mod vertex_hosts;
mod vertex_matrix;
mod vertex_sdk;
mod vertex_table;
