//! `wicketgate login`.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use crate::cli::login::{
    self, Waiting,
    login::Settings,
    provider::{GateMetadata, Provider},
};
use crate::cli::{
    complain,
    profile::{self, End, Profile, environment},
};

const DEFAULT_SCOPES: &str = "openid offline_access";

/// What `wicketgate login` is told. Whatever is left out is as it was at the last login of that name.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    /// The identity provider
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The gate that the token is for: it says which providers it trusts, and what the token must be asked for as
    #[arg(long, value_name = "URL")]
    gate: Option<String>,
    /// A public client (one without a secret) of the provider
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// What to ask for, separated by spaces [default: openid offline_access]
    #[arg(long)]
    scope: Option<String>,
    /// What the token is for, where the provider takes RFC 8707's `resource`
    #[arg(long, value_name = "URI", conflicts_with = "audience")]
    resource: Option<String>,
    /// What the token is for, where the provider takes `audience`
    #[arg(long, value_name = "AUD")]
    audience: Option<String>,
    /// With a code that is entered on any device [default where this machine has no screen]
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// In a browser on this machine [default where it has a screen]
    #[arg(long)]
    browser: bool,
    /// The certificates to trust the provider by, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificates to trust the gate by, instead of the system's
    #[arg(long, value_name = "FILE", requires = "gate")]
    gate_ca: Option<PathBuf>,
    #[command(flatten)]
    profile: Profile,
}

pub(in crate::cli) fn login(options: &Options) -> ExitCode {
    profile::run(async {
        tokio::select! {
            done = log_in(options) => done,
            // dropped half-way, a login leaves nothing behind
            Ok(()) = tokio::signal::ctrl_c() => Err(End::No("given up; nothing was kept".into())),
        }
    })
}

async fn log_in(options: &Options) -> Result<(), End> {
    let name = &options.profile.name;
    // before the person is asked for anything
    let cache = options.profile.make()?;
    let settings = settings(options, || Ok(cache.read(name)?.map(|login| login.settings))).await?;
    let provider = Provider::discover(&settings.issuer, settings.ca.as_deref()).await?;
    let waiting = if in_browser(options, &provider) {
        Waiting::for_browser(provider, settings).await?
    } else {
        Waiting::for_device(provider, settings).await?
    };
    instruct(&waiting);
    let login = waiting.finish().await?;
    login::keep(&cache, name, &login).await?;
    let who = login.tokens.id.as_ref().map(|id| format!(" as `{}`", id.subject.escape_debug())).unwrap_or_default();
    complain(&format!("logged in at {}{who}; `wicketgate token` now prints a token", login.settings.issuer));
    if login.tokens.refresh.is_none() {
        complain("the provider gave no refresh token: this login ends with its first token");
    }
    Ok(())
}

/// What is asked for: the options, what the gate says of itself, and the last login of this name, in this order.
async fn settings(options: &Options, last: impl Fn() -> Result<Option<Settings>, End>) -> Result<Settings, End> {
    let wrong = |text: &str| End::Wrong(text.to_owned());
    let (issuer, resource) = match (&options.gate, &options.issuer) {
        (Some(gate), _) => by_gate(gate, options).await?,
        (None, Some(issuer)) => (issuer.clone(), None),
        (None, None) => {
            let last = last()?.ok_or_else(|| wrong("write `--issuer URL` or `--gate URL`: with whom to log in"))?;
            return again(options, last);
        }
    };
    let client_id =
        options.client_id.clone().ok_or_else(|| wrong("write `--client-id ID`: a public client of the provider"))?;
    let ca = options.ca.as_deref().map(absolute).transpose()?;
    let resource = options.resource.clone().or(resource.filter(|_| options.audience.is_none()));
    Ok(Settings { issuer, client_id, scopes: scopes(options), resource, audience: options.audience.clone(), ca })
}

/// The last login's settings, with what the options change.
fn again(options: &Options, last: Settings) -> Result<Settings, End> {
    let Options { client_id, scope, resource, audience, .. } = options;
    let ca = options.ca.as_deref().map(absolute).transpose()?;
    // a token is for one of them
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

/// The issuer that a gate trusts, and the resource that it is.
async fn by_gate(gate: &str, options: &Options) -> Result<(String, Option<String>), End> {
    let GateMetadata { resource, authorization_servers: trusted } =
        GateMetadata::of(gate, options.gate_ca.as_deref()).await?;
    let list = || trusted.iter().map(|issuer| format!("\n  --issuer {}", issuer.escape_debug())).collect::<String>();
    let issuer = match (&options.issuer, trusted.as_slice()) {
        (Some(chosen), _) if trusted.contains(chosen) => chosen.clone(),
        (Some(chosen), _) => {
            return Err(End::Wrong(format!("the gate `{gate}` does not trust `{chosen}`; it trusts:{}", list())));
        }
        (None, [one]) => one.clone(),
        (None, []) => {
            return Err(End::No(format!("the gate `{gate}` names no provider that it trusts; ask who runs it")));
        }
        (None, _) => {
            return Err(End::Wrong(format!("the gate `{gate}` trusts several providers; choose one of:{}", list())));
        }
    };
    if resource.is_none() && options.resource.is_none() && options.audience.is_none() {
        complain(
            "the gate does not say what a token for it is called (its `[gate] url` is not set): write `--resource` or \
                  `--audience` where its provider needs one",
        );
    }
    Ok((issuer, resource))
}

fn absolute(path: &Path) -> Result<PathBuf, End> {
    std::path::absolute(path).map_err(|e| End::Wrong(format!("`{}` is no path: {e}", path.display())))
}

/// The flags decide; else whether there is a screen; else what the provider has.
fn in_browser(options: &Options, provider: &Provider) -> bool {
    match (options.browser, options.device) {
        (true, _) => true,
        (_, true) => false,
        _ if !provider.has_device_login() => true,
        _ => provider.has_browser_login() && has_screen(),
    }
}

fn has_screen() -> bool {
    let set = |name| environment(name).is_some();
    // somebody at the other end of SSH sees another machine's browser
    !set("SSH_CONNECTION") && (cfg!(target_os = "macos") || set("WAYLAND_DISPLAY") || set("DISPLAY"))
}

fn instruct(waiting: &Waiting) {
    match waiting {
        Waiting::Device(device) => {
            let (code, minutes) = (device.user_code(), device.expires_in().as_secs().div_ceil(60));
            match device.verification_uri_complete() {
                // RFC 8628 section 3.3.1: the code is shown all the same, to be compared
                Some(complete) => complain(&format!("Open  {complete}\nand see that it shows this code:  {code}")),
                None => complain(&format!("Open  {}\nand enter this code:  {code}", device.verification_uri())),
            }
            complain(&format!("Waiting for at most {minutes} min; Ctrl-C gives up."));
        }
        Waiting::Browser(browser) => {
            let opened = has_screen() && open(browser.url());
            let how = if opened { "A browser should open; if not, open" } else { "On this machine, open" };
            let minutes = login::browser::PATIENCE.as_secs() / 60;
            complain(&format!("{how}\n\n  {}\n\nWaiting for at most {minutes} min; Ctrl-C gives up.", browser.url()));
        }
    }
}

/// Has the desktop open `url`. Whether there is something that opens it.
fn open(url: &str) -> bool {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    // the URL's only secrets are of use to this process alone: PKCE (RFC 7636) binds the answer to it
    let child = std::process::Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.is_ok()
}
