//! The `[[limit]]` sections: usage limits, each checked against the routes, roles and actions that exist.

use std::{collections::BTreeSet, sync::Arc};

use super::{reader::Section, settings::ExporterSettings};
use crate::gate::{
    limits::{Per, Quantity, Rate, RouteFilter, Settings, Unit},
    policy::Policy,
    routes::Group,
};

const ROUTES: &str = "`vertex`, `exporter`, `exporter/NAME`, `write`, `predictions`, `sd` and `home`";
const MOST_OPEN: u64 = 1_000_000;

/// What a limit can apply to.
pub(super) struct LimitTargets<'a> {
    /// `None` if the policies have problems.
    pub(super) policy: Option<&'a Policy>,
    pub(super) exporters: &'a [ExporterSettings],
    pub(super) vertex: bool,
    /// The largest remote write in bytes; `None` without `[ingest]`.
    pub(super) max_write: Option<usize>,
}

pub(super) fn limits(top: &Section<'_>, there: &LimitTargets<'_>) -> Vec<Settings> {
    let mut limits: Vec<Settings> = Vec::new();
    for section in top.sections("limit") {
        let name = section.required("name", "infer-per-caller");
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            section
                .problem("name", "write letters, digits, `-`, `_` and `.` only: the name is part of a response header");
        }
        if limits.iter().any(|other| *other.name == *name) {
            section.problem("name", format!("two limits have the name `{name}`; give one of them another name"));
        }
        let per = per(&section);
        let roles = roles(&section, there);
        let routes = routes(&section, there);
        let actions = actions(&section, there);
        let rates: Vec<_> = Quantity::ALL.into_iter().filter_map(|of| Some((of, rate(&section, of)?))).collect();
        let streams = section.has("streams").then(|| section.number("streams", 1, 1, MOST_OPEN));
        let streams = streams.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        let counts = Quantity::ALL.into_iter().any(|of| section.has(of.name()));
        if !counts && streams.is_none() {
            section.problem(
                "name",
                "has no quantity; write at least one of `requests`, `bytes`, `instances`, `tokens` and `streams`",
            );
        }
        let settings = Settings { name: name.into(), per, roles, routes, actions, rates, streams };
        check_reaches_models(&section, &settings, there);
        check_writes_fit(&section, &settings, there);
        section.finish();
        limits.push(settings);
    }
    limits
}

fn per(section: &Section<'_>) -> Per {
    match section.required("per", "principal").as_str() {
        "principal" | "" => Per::Principal,
        "role" => Per::Role,
        "route" => Per::Route,
        "gate" => Per::Gate,
        other => {
            let text = format!("`{other}` is not known; write `\"principal\"`, `\"role\"`, `\"route\"` or `\"gate\"`");
            section.problem("per", text);
            Per::Principal
        }
    }
}

fn roles(section: &Section<'_>, there: &LimitTargets<'_>) -> Option<Vec<Arc<str>>> {
    let listed = section.strings("roles")?;
    for role in &listed {
        if there.policy.is_some_and(|policy| !policy.gives_role(role) && !policy.mentions_role(role)) {
            section.problem(
                "roles",
                format!("no rule gives the role `{role}` and no policy mentions it, so the limit has no effect"),
            );
        }
    }
    Some(listed.into_iter().map(Into::into).collect())
}

fn routes(section: &Section<'_>, there: &LimitTargets<'_>) -> Option<Vec<RouteFilter>> {
    let listed = section.strings("routes")?;
    for route in &listed {
        let missing = match route.as_str() {
            "sd" | "home" => None,
            "vertex" => (!there.vertex).then(|| "there is no [vertex]".to_owned()),
            "write" | "predictions" => there.max_write.is_none().then(|| "there is no [ingest]".to_owned()),
            "exporter" => there.exporters.is_empty().then(|| "there is no [[exporter]]".to_owned()),
            other => match other.strip_prefix("exporter/") {
                Some(name) => {
                    let known = there.exporters.iter().any(|exporter| exporter.name == *name);
                    (!known).then(|| format!("no exporter is called `{name}`"))
                }
                None => {
                    section.problem("routes", format!("`{other}` is not a route; write one of {ROUTES}"));
                    None
                }
            },
        };
        if let Some(missing) = missing {
            section.problem("routes", format!("{missing}, so a limit for `{route}` has no effect"));
        }
    }
    let place = |route: String| match route.split_once('/') {
        Some((route, name)) => RouteFilter { route: route.into(), exporter: Some(name.into()) },
        None => RouteFilter { route: route.into(), exporter: None },
    };
    Some(listed.into_iter().map(place).collect())
}

/// The actions, with each group replaced by its actions.
fn actions(section: &Section<'_>, there: &LimitTargets<'_>) -> Option<BTreeSet<Box<str>>> {
    let listed = section.strings("actions")?;
    let policy = there.policy?;
    let mut actions = BTreeSet::new();
    for action in &listed {
        let inside = policy.actions_in(action);
        if inside.is_empty() {
            section.problem("actions", format!("the schema has neither an action nor a group `{action}`"));
        }
        actions.extend(inside);
    }
    Some(actions)
}

/// `requests = "600/m"`, or with `burst`: `requests = { rate = "600/m", burst = "50" }`.
fn rate(section: &Section<'_>, quantity: Quantity) -> Option<Rate> {
    let key = quantity.name();
    let unit = if quantity == Quantity::Bytes { Unit::Bytes } else { Unit::Count };
    let Some(table) = section.table(key) else {
        let rate = section.string(key)?;
        return section.ok_or_problem(key, Rate::read(&rate, None, unit));
    };
    let (rate, burst) =
        (table.required("rate", if unit == Unit::Bytes { "100MiB/m" } else { "600/m" }), table.string("burst"));
    table.finish();
    section.ok_or_problem(key, Rate::read(&rate, burst.as_deref(), unit))
}

/// Reports instances and tokens for requests that reach no model.
fn check_reaches_models(section: &Section<'_>, settings: &Settings, there: &LimitTargets<'_>) {
    let vertex = settings.routes.as_ref().map_or(there.vertex, |places| places.iter().any(|p| *p.route == *"vertex"));
    let group = there.policy.map(|policy| policy.actions_in(Group::Infer.name()));
    let infers = match (&settings.actions, &group) {
        (Some(actions), Some(group)) => !actions.is_disjoint(group),
        _ => true,
    };
    for of in [Quantity::Instances, Quantity::Tokens] {
        if section.has(of.name()) && !(vertex && infers) {
            let text = "has no effect: only models of [vertex] count it, in actions of the group `infer`";
            section.problem(of.name(), text);
        }
    }
}

/// Reports a burst that is smaller than a remote write may be: the sender would drop it, and lose its samples.
fn check_writes_fit(section: &Section<'_>, settings: &Settings, there: &LimitTargets<'_>) {
    let writes = settings.routes.as_ref().is_none_or(|places| places.iter().any(|p| *p.route == *"write"));
    let most = there.max_write.map_or(0, |most| most as u64);
    let burst = settings.rates.iter().find(|(of, _)| *of == Quantity::Bytes).map(|(_, rate)| rate.burst);
    let actions = settings.actions.as_ref().is_none_or(|actions| actions.contains("RemoteWrite.Write"));
    if writes && actions && burst.is_some_and(|burst| burst < most) {
        let text = format!(
            "a remote write may have {most} bytes (`max_body` of [ingest]), more than this burst, and could never pass; \
             write a burst that is as large, a smaller `max_body`, or `routes` without `write`"
        );
        section.problem("bytes", text);
    }
}
