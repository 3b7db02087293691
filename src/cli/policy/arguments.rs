//! Command-line arguments of `wicketgate policy explain`, and the access request that they describe.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{Method, Uri};

use crate::{
    app,
    client::Clients,
    clock::{self, Timestamp},
    config::{self, Config},
    gate::{
        identity::{
            inspect::{Inspected, TrustedIssuers, inspect},
            jwt::TokenError,
        },
        policy::{AccessRequest, BodyNames, Policy, RequestContext, Resource, VertexResource, is_role},
    },
    peer::Certificate,
    principal::Principal,
};

/// Arguments for principal, action, resource and context.
#[derive(Debug, clap::Args)]
pub(super) struct RequestArguments {
    /// The configuration; it says who the issuers are, where their keys are, and where `--request` leads
    #[arg(long, value_name = "FILE", required_unless_present = "policies", conflicts_with = "policies")]
    config: Option<PathBuf>,
    /// Only the policy directory
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    caller: CallerArguments,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    context: ContextArguments,
}

#[derive(Debug, clap::Args)]
struct CallerArguments {
    /// A file with the caller's token, or `-` for standard input
    #[arg(long, value_name = "FILE", group = "caller")]
    token: Option<PathBuf>,
    /// The caller's claims, as a JSON object or a file with one
    #[arg(long, value_name = "JSON|FILE", group = "caller", requires = "issuer")]
    claims: Option<String>,
    /// The roles that the caller holds, whatever its claims are
    #[arg(long, value_delimiter = ',', value_name = "ROLE,ROLE", group = "caller")]
    roles: Option<Vec<String>>,
    /// The issuer, by the name that roles.toml knows it by
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// The caller's subject; the claim `sub` unless this says otherwise
    #[arg(long)]
    subject: Option<String>,
    /// The role that the caller activates (`X-Wicketgate-Role`)
    #[arg(long, value_name = "ROLE")]
    active_role: Option<String>,
}

#[derive(Debug, clap::Args)]
struct TargetArguments {
    /// The action, such as `PredictionService.Predict` or `Exporter.Scrape`
    #[arg(long, required_unless_present = "request")]
    action: Option<String>,
    /// The exporter that it is about
    #[arg(long, value_name = "NAME", group = "resource")]
    exporter: Option<String>,
    /// The part of the gate that it is about: `sd`, `write`, `predictions`, `home`, or a token's audience
    #[arg(long, value_name = "NAME", group = "resource")]
    service: Option<String>,
    /// The Vertex resource that it is about: `projects/P/locations/L/endpoints/1`
    #[arg(long, value_name = "NAME", group = "resource")]
    vertex: Option<String>,
    /// A whole request instead, such as `POST /v1/projects/P/locations/L/endpoints/1:predict`; needs `--config`
    #[arg(long, value_name = "METHOD PATH", conflicts_with_all = ["action", "exporter", "service", "vertex", "method"])]
    request: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ContextArguments {
    /// The client's address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    peer: IpAddr,
    /// The HTTP method
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Whether the connection is encrypted
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    tls: bool,
    /// When, such as `2026-01-31T12:00:00Z`; now unless this says otherwise
    #[arg(long)]
    time: Option<Timestamp>,
    /// Bytes of the request's body
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// A URI name of the client's certificate, as often as it has one
    #[arg(long, value_name = "URI")]
    certificate_uri: Vec<Box<str>>,
    /// A DNS name of the client's certificate, as often as it has one
    #[arg(long, value_name = "NAME")]
    certificate_dns: Vec<Box<str>>,
    /// What the body names, as often as it names something: a Vertex resource, `gs://BUCKET` or a service account
    #[arg(long, value_name = "NAME")]
    names: Vec<String>,
}

/// A question that can be put.
pub(super) struct ResolvedRequest {
    pub(super) policy: Policy,
    pub(super) caller: ResolvedCaller,
    pub(super) action: Arc<str>,
    pub(super) resource: Resource,
    active_role: Option<String>,
    peer: IpAddr,
    method: Method,
    tls: bool,
    time: Timestamp,
    size: Option<u64>,
    certificate: Option<Certificate>,
    names: Option<BodyNames>,
}

/// The caller, and how far it can be believed.
pub(super) struct ResolvedCaller {
    pub(super) principal: Principal,
    pub(super) source: CallerSource,
    /// Why a gate would refuse the token before policy is asked.
    pub(super) objection: Option<TokenError>,
}

/// Where the caller comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CallerSource {
    /// A token whose signature was checked.
    Verified,
    /// A token whose signature was not checked.
    Unverified,
    /// Claims or roles of the command line.
    Hypothetical,
}

impl ResolvedRequest {
    pub(super) fn access_request(&self) -> AccessRequest<'_> {
        let context = RequestContext {
            now: self.time,
            peer: self.peer,
            tls: self.tls,
            certificate: self.certificate.as_ref(),
            method: &self.method,
            size: self.size,
            names: self.names.as_ref(),
        };
        let principal = &self.caller.principal;
        let action = &self.action;
        let resource = &self.resource;
        AccessRequest {
            principal,
            granted_roles: &[],
            active_role: self.active_role.as_deref(),
            action,
            resource,
            context,
        }
    }
}

impl RequestArguments {
    /// Reads what the arguments name.
    ///
    /// # Errors
    /// What is wrong, for the person who wrote it.
    pub(super) fn resolve(&self) -> Result<ResolvedRequest, String> {
        let mut config = match &self.config {
            Some(file) => Some(config::load(file, &Clients::default()).map_err(|problems| problems.to_string())?),
            None => None,
        };
        let time = self.context.time.unwrap_or_else(clock::now);
        let caller = self.caller.resolve(config.as_ref(), time)?;
        let (action, resource, method) = self.target.resolve(config.as_mut(), &self.context.method)?;
        let policy = match (config, &self.policies) {
            (Some(config), _) => config.policy,
            (None, Some(directory)) => config::load_policies(directory).map_err(|problems| problems.to_string())?,
            (None, None) => return Err("name `--config FILE` or `--policies DIR`".into()),
        };
        if let Some(active) = self.caller.active_role.as_ref().filter(|role| !is_role(role)) {
            return Err(format!("`{active}` is no role: write at most 128 of the characters `a-z A-Z 0-9 . _ : / -`"));
        }
        let ContextArguments { peer, tls, size, certificate_uri, certificate_dns, names, .. } = &self.context;
        let has_certificate = !certificate_uri.is_empty() || !certificate_dns.is_empty();
        Ok(ResolvedRequest {
            policy,
            caller,
            action,
            resource,
            active_role: self.caller.active_role.clone(),
            peer: peer.to_canonical(),
            method,
            tls: *tls,
            time,
            size: *size,
            certificate: has_certificate
                .then(|| Certificate::hypothetical(certificate_uri.clone(), certificate_dns.clone())),
            names: (!names.is_empty()).then(|| named(names)),
        })
    }
}

impl CallerArguments {
    fn resolve(&self, config: Option<&Config>, now: Timestamp) -> Result<ResolvedCaller, String> {
        if let Some(file) = &self.token {
            return self.of_token(&read(file)?, config, now);
        }
        let issuer = self.issuer.as_deref();
        let hypothetical =
            |principal| ResolvedCaller { principal, source: CallerSource::Hypothetical, objection: None };
        if let (Some(claims), Some(issuer)) = (&self.claims, issuer) {
            let text = if claims.trim_start().starts_with('{') { claims.clone() } else { read(Path::new(claims))? };
            let parsed: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text).map_err(|e| format!("the claims are no JSON object: {e}"))?;
            if let Some(config) = config {
                known(config, issuer)?;
            }
            let said = parsed.get("sub").and_then(serde_json::Value::as_str);
            let subject = self.subject.as_deref().or(said).unwrap_or("somebody");
            return Ok(hypothetical(Principal::hypothetical(issuer, subject, &text, None)));
        }
        if let Some(roles) = &self.roles {
            if let Some(odd) = roles.iter().find(|role| !is_role(role)) {
                return Err(format!("`{odd}` is no role; write `--roles scrape,observe`"));
            }
            let issuer = issuer.unwrap_or("somewhere");
            let subject = self.subject.as_deref().unwrap_or("somebody");
            let mut roles: Vec<Arc<str>> = roles.iter().map(|role| role.as_str().into()).collect();
            roles.sort_unstable();
            roles.dedup();
            return Ok(hypothetical(Principal::hypothetical(issuer, subject, "{}", Some(roles.into()))));
        }
        Err("say who is asking: `--token FILE`, `--claims JSON --issuer NAME` or `--roles ROLE,ROLE`".into())
    }

    fn of_token(&self, token: &str, config: Option<&Config>, now: Timestamp) -> Result<ResolvedCaller, String> {
        let settings: Vec<_> = config.iter().flat_map(|config| &config.issuers).map(|(settings, _)| settings).collect();
        let own = config.and_then(|config| config.issue.as_ref()).map(|issue| issue.url.as_str());
        let known = match (config, self.issuer.as_deref()) {
            (Some(_), None) => TrustedIssuers::Issuers(&settings, own),
            (Some(config), Some(name)) => TrustedIssuers::Named(known(config, name)?),
            (None, Some(name)) => TrustedIssuers::Named(name),
            (None, None) => {
                return Err("a policy directory knows no issuers: name the token's with `--issuer NAME`, or give \
                            `--config FILE` instead of `--policies DIR`"
                    .into());
            }
        };
        let Inspected { principal, signature_checked, objection } =
            inspect(token, known, now).map_err(|error| format!("the token cannot be explained: {error}"))?;
        let source = if signature_checked { CallerSource::Verified } else { CallerSource::Unverified };
        Ok(ResolvedCaller { principal, source, objection })
    }
}

/// An issuer's name that the configuration has.
fn known<'n>(config: &Config, name: &'n str) -> Result<&'n str, String> {
    let issuers = config.issuers.iter().map(|(settings, _)| settings.name.as_str());
    let names: Vec<&str> = issuers.chain(config.certificates.iter().map(|rule| &*rule.name)).collect();
    if names.contains(&name) {
        return Ok(name);
    }
    Err(format!("no issuer is called `{name}`; there are: {}", names.join(", ")))
}

impl TargetArguments {
    fn resolve(&self, config: Option<&mut Config>, method: &Method) -> Result<(Arc<str>, Resource, Method), String> {
        if let Some(request) = &self.request {
            let config = config.ok_or("`--request` needs `--config FILE`: a policy directory knows no routes")?;
            return requested(config, request);
        }
        let action = action(self.action.as_deref().unwrap_or_default())?;
        let resource = match (&self.exporter, &self.service, &self.vertex) {
            (Some(name), ..) => Resource::Exporter(name.as_str().into()),
            (_, Some(name), _) => Resource::Service(name.as_str().into()),
            (.., Some(name)) => Resource::Vertex(VertexResource::parse(name.trim_matches('/'))),
            _ => return Err("say what it is about: `--exporter NAME`, `--service NAME` or `--vertex NAME`".into()),
        };
        Ok((action, resource, method.clone()))
    }
}

/// What a request is by the configuration's routes.
fn requested(config: &mut Config, request: &str) -> Result<(Arc<str>, Resource, Method), String> {
    let usage = || format!("`{request}` is no request; write `--request 'GET /exporters/node/metrics'`");
    let (method, target) = request.trim().split_once(' ').ok_or_else(usage)?;
    let method: Method = method.parse().map_err(|_| usage())?;
    let uri: Uri = target.trim().parse().map_err(|_| usage())?;
    let (action, resource) = app::look_up(config, &method, &uri).map_err(|refusal| {
        format!(
            "the gate would answer `{request}` with {} ({}) before it asks policy: {}; pages that are open to everybody, \
             such as /login, are no routes either",
            refusal.status.as_u16(),
            refusal.reason,
            refusal.text
        )
    })?;
    Ok((action, resource, method))
}

/// An action that policy can be asked about.
fn action(filter: &str) -> Result<Arc<str>, String> {
    /// Most names that are suggested.
    const SUGGESTED: usize = 8;
    let all: BTreeSet<&str> = config::actions().collect();
    if all.contains(filter) {
        return Ok(filter.into());
    }
    let word = filter.rsplit('.').next().unwrap_or(filter).to_lowercase();
    // the method's own name first, then those that hold the word
    let distance = |name: &str| match name.to_lowercase() {
        name if name.rsplit('.').next() == Some(&word) => Some(0),
        name if name.rsplit('.').next().is_some_and(|method| method.contains(&word)) => Some(1),
        name => name.contains(&word).then_some(2),
    };
    let mut near: Vec<_> = all.iter().filter_map(|name| Some((distance(name)?, name.len(), *name))).collect();
    near.sort_unstable();
    let names: Vec<&str> = near.iter().take(SUGGESTED).map(|(.., name)| *name).collect();
    let near = match near.len().saturating_sub(names.len()) {
        _ if names.is_empty() => {
            "an action is a method such as `PredictionService.Predict`, or `Exporter.Scrape`; the schema lists them"
                .into()
        }
        0 => format!("near it: {}", names.join(", ")),
        more => format!("near it: {} and {more} more", names.join(", ")),
    };
    Err(format!("no action is called `{filter}`; {near}"))
}

fn named(names: &[String]) -> BodyNames {
    let mut named = BodyNames::default();
    for name in names {
        if let Some(bucket) = name.strip_prefix("gs://") {
            named.buckets.insert(bucket.split('/').next().unwrap_or(bucket).into());
        } else if name.contains('@') && !name.contains('/') {
            named.service_accounts.insert(name.as_str().into());
        } else {
            named.resources.insert(VertexResource::parse(name.trim_matches('/')));
        }
    }
    named
}

/// A file's text; `-` is standard input.
fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| text),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|error| format!("cannot read `{}`: {error}", file.display()))
}
