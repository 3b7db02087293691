//! `wicketgate grant`.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    output::{print_error, print_line},
    profile::Profile,
    run::{CommandError, run_command},
};
use crate::{
    cli::login::{self, GateClient, LoginError, LoginToken, printable},
    secret::{Secret, SecretSource},
    telemetry::chain,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Request a role on a resource for a limited time.
    Request {
        /// The role, as policies name it
        #[arg(long)]
        role: String,
        /// `exporter/NAME`, `service/NAME`, a Vertex resource such as `projects/P/locations/L/endpoints/1`, or one of
        /// them with `*` as its last segment
        #[arg(long)]
        resource: String,
        /// For how long, such as `30m` or `2h`
        #[arg(long = "for", value_name = "TIME")]
        duration: String,
        /// The reason, for the approver
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        gate: Options,
    },
    /// List your grants, and the grants that you may approve or revoke.
    List {
        /// Only pending requests
        #[arg(long)]
        pending: bool,
        #[command(flatten)]
        gate: Options,
    },
    /// Approve a request of another person.
    Approve {
        /// The grant's id.
        id: String,
        /// A shorter time than requested
        #[arg(long = "for", value_name = "TIME")]
        duration: Option<String>,
        #[command(flatten)]
        gate: Options,
    },
    /// Deny a request.
    Deny {
        /// The grant's id.
        id: String,
        #[command(flatten)]
        gate: Options,
    },
    /// End a grant before its time, or take back what you asked for.
    Revoke {
        /// The grant's id.
        id: String,
        #[command(flatten)]
        gate: Options,
    },
}

/// The gate and the token.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The gate
    #[arg(long, value_name = "URL")]
    gate: String,
    /// CA certificates of the gate, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with the token to send, instead of the token of `wicketgate login`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The ID token of the login instead of its access token
    #[arg(long, conflicts_with = "token_file")]
    id_token: bool,
    /// Print the gate's response as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    profile: Profile,
}

pub(super) fn run(command: Command) -> ExitCode {
    run_command(async move {
        match command {
            Command::Request { role, resource, duration, reason, gate } => {
                let body = json!({ "role": role, "resource": resource, "for": duration, "reason": reason });
                change(&gate, "/grants", &body).await
            }
            Command::List { pending, gate } => list(&gate, pending).await,
            Command::Approve { id, duration, gate } => {
                let body = duration.map_or_else(|| json!({}), |duration| json!({ "for": duration }));
                change(&gate, &format!("/grants/{}:approve", segment(&id)?), &body).await
            }
            Command::Deny { id, gate } => change(&gate, &format!("/grants/{}:deny", segment(&id)?), &json!({})).await,
            Command::Revoke { id, gate } => {
                change(&gate, &format!("/grants/{}:revoke", segment(&id)?), &json!({})).await
            }
        }
    })
}

async fn change(options: &Options, path: &str, body: &Value) -> Result<(), CommandError> {
    let grant = connect(options).await?.send(Method::POST, path, Some(body)).await?;
    print_line(&if options.json { grant.to_string() } else { line(&parse_response(grant)?) });
    Ok(())
}

async fn list(options: &Options, pending: bool) -> Result<(), CommandError> {
    let path = if pending { "/grants?state=pending" } else { "/grants" };
    let answer = connect(options).await?.send(Method::GET, path, None).await?;
    if options.json {
        print_line(&answer.to_string());
        return Ok(());
    }
    let GrantList { grants, more } = parse_response(answer)?;
    grants.iter().for_each(|grant| print_line(&line(grant)));
    if grants.is_empty() {
        print_error("no grants");
    }
    if more {
        print_error("older grants are not shown");
    }
    Ok(())
}

/// What the gate lists.
#[derive(Deserialize)]
struct GrantList {
    grants: Vec<GrantSummary>,
    more: bool,
}

/// A grant, as far as it is shown.
#[derive(Deserialize)]
struct GrantSummary {
    id: String,
    state: String,
    asker: String,
    role: String,
    resource: String,
    reason: String,
    seconds: i64,
    approved: Option<ApprovedBy>,
    ended: Option<Ending>,
}

#[derive(Deserialize)]
struct ApprovedBy {
    by: String,
    until: String,
}

#[derive(Deserialize)]
struct Ending {
    by: String,
    at: String,
}

fn parse_response<T: DeserializeOwned>(answer: Value) -> Result<T, CommandError> {
    let unreadable = |e: serde_json::Error| {
        CommandError::Failed(format!("the gate's answer cannot be understood: {}", printable(&e.to_string())))
    };
    serde_json::from_value(answer).map_err(unreadable)
}

async fn connect(options: &Options) -> Result<GateClient, CommandError> {
    Ok(GateClient::new(&options.gate, options.ca.as_deref(), token(options).await?)?)
}

async fn token(options: &Options) -> Result<Secret, CommandError> {
    if let Some(file) = &options.token_file {
        return SecretSource::File(file.clone()).read().await.map_err(|e| CommandError::Usage(chain(&e)));
    }
    let profile = &options.profile;
    let kind = if options.id_token { LoginToken::Id } else { LoginToken::Access };
    let cache = profile.open_cache()?.ok_or_else(|| CommandError::from(LoginError::NoLogin(profile.name.clone())))?;
    let handed = login::token(&cache, &profile.name, kind).await?;
    if let Some(warning) = &handed.warning {
        print_error(&format!("the login's token ends within a minute, and there is no newer one: {warning}"));
    }
    Ok(handed.token)
}

/// An id as one segment of a path, and no more.
fn segment(id: &str) -> Result<&str, CommandError> {
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_id
        .then_some(id)
        .ok_or_else(|| CommandError::Usage(format!("`{}` is no grant's id; `grant list` shows them", printable(id))))
}

/// A grant on one line. What others wrote is made safe to print.
fn line(grant: &GrantSummary) -> String {
    let GrantSummary { id, state, asker, role, resource, reason, seconds, approved, ended } = grant;
    let end = match (ended, approved) {
        (Some(Ending { by, at }), _) => format!("at {at}, by {by}"),
        (None, Some(ApprovedBy { by, until })) => format!("until {until}, by {by}"),
        (None, None) => format!("for {:#}", jiff::SignedDuration::from_secs(*seconds)),
    };
    printable(&format!("{id}  {state:<9}  {asker}: {role} on {resource} {end} ({reason})"))
}
