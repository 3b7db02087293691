//! `wicketgate login`.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use super::{
    browser::LOGIN_DEADLINE, pending::PendingLogin, provider::Provider, resource_metadata::ResourceMetadata,
    stored::Settings, tokens,
};
use crate::cli::{
    env::env_var,
    output::print_error,
    profile::Profile,
    run::{CommandError, run_command},
};

const DEFAULT_SCOPES: &str = "openid offline_access";

/// The options of `wicketgate login`. An option that is left out is as at the last login of that name.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    /// The identity provider
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The gate that the token is for: its metadata has the providers that it trusts and the `resource` of the token
    #[arg(long, value_name = "URL")]
    gate: Option<String>,
    /// A public client (one without a secret) of the provider
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The scopes, separated by spaces [default: openid offline_access]
    #[arg(long)]
    scope: Option<String>,
    /// The target of the token, if the provider supports `resource` (RFC 8707)
    #[arg(long, value_name = "URI", conflicts_with = "audience")]
    resource: Option<String>,
    /// The target of the token, if the provider supports `audience`
    #[arg(long, value_name = "AUD")]
    audience: Option<String>,
    /// Log in with a code that is entered on any device [default if this machine has no screen]
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Log in with a browser on this machine [default if it has a screen]
    #[arg(long)]
    browser: bool,
    /// The trusted roots for the provider, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificates to trust the gate by, instead of the system's
    #[arg(long, value_name = "FILE", requires = "gate")]
    gate_ca: Option<PathBuf>,
    #[command(flatten)]
    profile: Profile,
}

pub(in crate::cli) fn login(options: &Options) -> ExitCode {
    run_command(async {
        tokio::select! {
            done = log_in(options) => done,
            // a login that is dropped leaves nothing behind
            Ok(()) = tokio::signal::ctrl_c() => Err(CommandError::Failed("cancelled; nothing was stored".into())),
        }
    })
}

async fn log_in(options: &Options) -> Result<(), CommandError> {
    let name = &options.profile.name;
    // before the person does anything
    let cache = options.profile.create_cache()?;
    let settings = settings(options, || Ok(cache.read(name)?.map(|login| login.settings))).await?;
    let provider = Provider::discover(&settings.issuer, settings.ca.as_deref()).await?;
    let pending = if in_browser(options, &provider) {
        PendingLogin::for_browser(provider, settings).await?
    } else {
        PendingLogin::for_device(provider, settings).await?
    };
    instruct(&pending);
    let login = pending.finish().await?;
    tokens::store(&cache, name, &login).await?;
    let subject = login.tokens.id.as_ref().map(|id| format!(" as `{}`", id.subject.escape_debug())).unwrap_or_default();
    print_error(&format!("logged in at {}{subject}; `wicketgate token` now prints a token", login.settings.issuer));
    if login.tokens.refresh.is_none() {
        print_error("the provider gave no refresh token: this login ends with its first token");
    }
    Ok(())
}

/// The settings: from the options, the gate's metadata, and the last login of this name, in this order.
async fn settings(
    options: &Options,
    last: impl Fn() -> Result<Option<Settings>, CommandError>,
) -> Result<Settings, CommandError> {
    let wrong = |text: &str| CommandError::Usage(text.to_owned());
    let (issuer, resource) = match (&options.gate, &options.issuer) {
        (Some(gate), _) => from_gate(gate, options).await?,
        (None, Some(issuer)) => (issuer.clone(), None),
        (None, None) => {
            let last =
                last()?.ok_or_else(|| wrong("write `--issuer URL` or `--gate URL`: the provider to log in at"))?;
            return repeat(options, last);
        }
    };
    let client_id =
        options.client_id.clone().ok_or_else(|| wrong("write `--client-id ID`: a public client of the provider"))?;
    let ca = options.ca.as_deref().map(absolute).transpose()?;
    let resource = options.resource.clone().or(resource.filter(|_| options.audience.is_none()));
    Ok(Settings { issuer, client_id, scopes: scopes(options), resource, audience: options.audience.clone(), ca })
}

/// The last login's settings, changed by the options.
fn repeat(options: &Options, last: Settings) -> Result<Settings, CommandError> {
    let Options { client_id, scope, resource, audience, .. } = options;
    let ca = options.ca.as_deref().map(absolute).transpose()?;
    // a token has one target
    let target = if resource.is_some() || audience.is_some() {
        (resource.clone(), audience.clone())
    } else {
        (last.resource, last.audience)
    };
    Ok(Settings {
        client_id: client_id.clone().unwrap_or(last.client_id),
        scopes: if scope.is_some() { scopes(options) } else { last.scopes },
        resource: target.0,
        audience: target.1,
        ca: ca.or(last.ca),
        issuer: last.issuer,
    })
}

fn scopes(options: &Options) -> Vec<String> {
    options.scope.as_deref().unwrap_or(DEFAULT_SCOPES).split_whitespace().map(str::to_owned).collect()
}

/// The issuer that a gate trusts, and the gate's `resource`.
async fn from_gate(gate: &str, options: &Options) -> Result<(String, Option<String>), CommandError> {
    let ResourceMetadata { resource, authorization_servers: trusted } =
        ResourceMetadata::fetch(gate, options.gate_ca.as_deref()).await?;
    let list = || trusted.iter().map(|issuer| format!("\n  --issuer {}", issuer.escape_debug())).collect::<String>();
    let issuer = match (&options.issuer, trusted.as_slice()) {
        (Some(chosen), _) if trusted.contains(chosen) => chosen.clone(),
        (Some(chosen), _) => {
            return Err(CommandError::Usage(format!(
                "the gate `{gate}` does not trust `{chosen}`; it trusts:{}",
                list()
            )));
        }
        (None, [one]) => one.clone(),
        (None, []) => {
            return Err(CommandError::Failed(format!(
                "the gate `{gate}` names no provider that it trusts; ask its operator"
            )));
        }
        (None, _) => {
            return Err(CommandError::Usage(format!(
                "the gate `{gate}` trusts several providers; choose one of:{}",
                list()
            )));
        }
    };
    if resource.is_none() && options.resource.is_none() && options.audience.is_none() {
        print_error(
            "the gate's metadata has no `resource` (its `[gate] url` is not set): write `--resource` or `--audience` if \
             the provider needs one",
        );
    }
    Ok((issuer, resource))
}

fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|e| CommandError::Usage(format!("`{}` is not a path: {e}", path.display())))
}

/// By the flags, or else by the provider's endpoints and whether there is a screen.
fn in_browser(options: &Options, provider: &Provider) -> bool {
    match (options.browser, options.device) {
        (true, _) => true,
        (_, true) => false,
        _ if !provider.has_device_login() => true,
        _ => provider.has_browser_login() && has_screen(),
    }
}

fn has_screen() -> bool {
    let set = |name| env_var(name).is_some();
    // the person at the other end of SSH sees the screen of another machine
    !set("SSH_CONNECTION") && (cfg!(target_os = "macos") || set("WAYLAND_DISPLAY") || set("DISPLAY"))
}

fn instruct(pending: &PendingLogin) {
    match pending {
        PendingLogin::Device(device) => {
            let code = device.user_code();
            let minutes = device.expires_in().as_secs().div_ceil(60);
            match device.verification_uri_complete() {
                // RFC 8628 section 3.3.1: the code is printed too, for comparison
                Some(complete) => print_error(&format!("Open  {complete}\nand check that it shows this code:  {code}")),
                None => print_error(&format!("Open  {}\nand enter this code:  {code}", device.verification_uri())),
            }
            print_error(&format!("Waiting for at most {minutes} min; Ctrl-C cancels."));
        }
        PendingLogin::Browser(browser) => {
            let opened = has_screen() && open(browser.url());
            let how = if opened { "A browser should open; if not, open" } else { "On this machine, open" };
            let minutes = LOGIN_DEADLINE.as_secs() / 60;
            print_error(&format!("{how}\n\n  {}\n\nWaiting for at most {minutes} min; Ctrl-C cancels.", browser.url()));
        }
    }
}

/// Opens `url` in the desktop's browser; whether there is a program that opens it.
fn open(url: &str) -> bool {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    // the URL's secrets are of use to this process alone: PKCE (RFC 7636) binds the response to it
    let child = std::process::Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.is_ok()
}
