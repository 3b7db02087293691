//! The Vertex method table: from verb and path to the method, its group, its resource and its location.
//!
//! Promises: a method that the table does not hold is refused, whatever it looks like; a literal segment is never read
//! as an id (`endpoints/openapi` is no endpoint), so each path has one reading.

use std::{borrow::Cow, collections::HashMap, sync::Arc, sync::LazyLock, time::Duration};

use http::{Method, StatusCode};

use super::{Found, Route, Terms};
use crate::{
    client::Upstream,
    policy::{Resource, VertexResource},
    refusal::Refusal,
    secret::{CredentialSlot, Shown},
};

/// The generated table; `src/routes/generate.py` says how it is made.
const TABLE: &str = include_str!("vertex_methods.tsv");

/// A group of actions. Each Vertex method is in one, and each has a service account of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Writes data.
    Ingest,
    /// Asks a model.
    Infer,
    /// Makes models.
    Train,
    /// Looks at resources.
    Observe,
    /// Everything else.
    Administer,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Infer, Self::Train, Self::Observe, Self::Administer];

    /// The group's name in policies and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Infer => "infer",
            Self::Train => "train",
            Self::Observe => "observe",
            Self::Administer => "administer",
        }
    }
}

/// The actions of all Vertex methods.
pub fn actions() -> impl Iterator<Item = &'static str> {
    TABLE.lines().skip(1).filter_map(|line| line.split('\t').next())
}

/// Vertex behind the gate.
pub struct Vertex {
    /// The server of each location that may be asked.
    pub upstreams: HashMap<Box<str>, Upstream>,
    /// What Google is shown, by group.
    pub credentials: HashMap<Group, Shown>,
    /// What the gate's own predictions are shown with.
    pub own: Option<CredentialSlot>,
    /// How long the head of an answer may take.
    pub timeout: Duration,
    /// Its terms.
    pub terms: Terms,
}

#[derive(Clone)]
struct VertexMethod {
    action: Arc<str>,
    group: Group,
}

/// One place in the table: the segments that lead here are matched, these follow.
#[derive(Default)]
struct Node {
    literal: HashMap<&'static str, Node>,
    /// `*`: any one segment.
    any: Option<Box<Node>>,
    /// `**` at the end: one segment or more.
    rest: Vec<Ending>,
    /// The path may end here.
    here: Vec<Ending>,
}

/// How a path may end: HTTP verb, custom verb behind the last colon, and the method that this is.
struct Ending {
    verb: Method,
    custom: &'static str,
    method: VertexMethod,
}

/// The mixins of `projects/*/locations/**`: what stands behind the resource.
struct Mixin {
    suffix: Vec<&'static str>,
    ending: Ending,
}

#[derive(Default)]
struct Version {
    root: Node,
    mixins: Vec<Mixin>,
}

static VERSIONS: LazyLock<HashMap<&'static str, Version>> = LazyLock::new(read_table);

const UNDER_LOCATION: &str = "projects/*/locations/**";

fn read_table() -> HashMap<&'static str, Version> {
    let mut versions: HashMap<&'static str, Version> = HashMap::new();
    let mut names: HashMap<&'static str, Arc<str>> = HashMap::new();
    for line in TABLE.lines().skip(1) {
        let mut fields = line.split('\t');
        let (Some(action), Some(group), Some(version), Some(verb), Some(pattern)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(group) = Group::ALL.into_iter().find(|g| g.name() == group) else { continue };
        let Ok(verb) = verb.parse() else { continue };
        let action = names.entry(action).or_insert_with(|| action.into()).clone();
        let version = versions.entry(version).or_default();
        let (path, custom) = split_custom(pattern);
        let ending = Ending { verb, custom, method: VertexMethod { action, group } };
        match path.strip_prefix(UNDER_LOCATION) {
            Some(suffix) => {
                let suffix = suffix.split('/').filter(|s| !s.is_empty()).collect();
                version.mixins.push(Mixin { suffix, ending });
            }
            None => version.root.insert(path.split('/').filter(|s| !s.is_empty()), ending),
        }
    }
    versions
}

impl Node {
    fn insert(&mut self, mut segments: impl Iterator<Item = &'static str>, ending: Ending) {
        match segments.next() {
            None => self.here.push(ending),
            Some("**") => self.rest.push(ending),
            Some("*") => self.any.get_or_insert_default().insert(segments, ending),
            Some(literal) => self.literal.entry(literal).or_default().insert(segments, ending),
        }
    }

    /// A literal wins over `*` for good: what is spelled like a collection is never an id.
    fn find<'n>(&'n self, segments: &[&str], verb: &Method, custom: &str) -> Option<&'n VertexMethod> {
        let Some((first, others)) = segments.split_first() else { return ending(&self.here, verb, custom) };
        let next = self.literal.get(*first).or(self.any.as_deref().filter(|_| !first.is_empty()));
        // behind `**` a colon is part of the tail, so no custom verb is looked for
        next.and_then(|node| node.find(others, verb, custom)).or_else(|| ending(&self.rest, verb, ""))
    }
}

fn ending<'a>(endings: &'a [Ending], verb: &Method, custom: &str) -> Option<&'a VertexMethod> {
    endings.iter().find(|e| e.verb == verb && e.custom == custom).map(|e| &e.method)
}

impl Version {
    fn find(&self, path: &str, verb: &Method) -> Option<&VertexMethod> {
        let (path, custom) = split_custom(path);
        let segments: Vec<&str> = path.strip_prefix('/').map(|p| p.split('/').collect()).unwrap_or_default();
        self.root.find(&segments, verb, custom).or_else(|| self.mixin(&segments, verb, custom))
    }

    fn mixin(&self, segments: &[&str], verb: &Method, custom: &str) -> Option<&VertexMethod> {
        let ["projects", _, "locations", _, under @ ..] = segments else { return None };
        let fits = |mixin: &&Mixin| {
            mixin.ending.verb == verb
                && mixin.ending.custom == custom
                && under.len() >= mixin.suffix.len()
                && under.iter().rev().zip(mixin.suffix.iter().rev()).all(|(have, want)| *want == "*" || have == want)
                && segments.iter().all(|s| !s.is_empty())
        };
        self.mixins.iter().find(fits).map(|mixin| &mixin.ending.method)
    }
}

/// A path and the custom verb behind the last colon of its last segment (AIP-136). Model ids may hold `@`, not `:`.
fn split_custom(path: &str) -> (&str, &str) {
    let last = path.rfind('/').map_or(0, |at| at + 1);
    match path.rfind(':') {
        Some(at) if at >= last => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        _ => (path, ""),
    }
}

impl Vertex {
    pub(super) fn find<'r>(&'r self, verb: &Method, path: &'r str) -> Result<Found<'r>, Refusal> {
        let version = if path.starts_with("/v1beta1") { "v1beta1" } else { "v1" };
        let below = path.get(1 + version.len()..).filter(|rest| rest.starts_with(['/', ':'])).unwrap_or_default();
        let method = VERSIONS.get(version).and_then(|v| v.find(below, verb)).ok_or_else(|| {
            let text = "this is no Vertex method that the gate knows; what it does not know it denies";
            Refusal::new(StatusCode::NOT_FOUND, "unknown_method", text)
        })?;
        let resource = resource(below);
        let location = &resource.location;
        let upstream = self.upstreams.get(&**location).ok_or_else(|| unknown_location(location))?;
        let route = Route::Vertex {
            upstream,
            credential: self.credentials.get(&method.group),
            group: method.group,
            timeout: self.timeout,
            terms: self.terms,
        };
        Ok(Found { route, action: &method.action, resource: Cow::Owned(Resource::Vertex(resource)) })
    }
}

fn unknown_location(location: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_location", "this gate does not front Vertex in this location")
        .with_detail(format!("location {location}"))
}

/// The resource that a path names, without version and custom verb, and without escapes: a policy means `models/1@2`
/// however a client spells the `@`.
fn resource(below: &str) -> VertexResource {
    let (name, _) = split_custom(below);
    VertexResource::parse(&unescaped(name.trim_matches('/')))
}

/// `name` without percent-escapes. A canonical path has none of slashes, so that its segments stay the same.
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let escape = part.get(..2).and_then(|digits| Some((u8::from_str_radix(digits, 16).ok()?, part.get(2..)?)));
        match escape {
            Some((byte, rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            None => return name.into(),
        }
    }
    String::from_utf8(bytes).map_or_else(|_| name.into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verb: &str, path: &str, expected: Option<(&str, Group)>) {
        let version = if path.starts_with("/v1beta1") { "v1beta1" } else { "v1" };
        let below = path.strip_prefix(&format!("/{version}")).unwrap();
        let found = VERSIONS[version].find(below, &verb.parse().unwrap());
        assert_eq!(found.map(|m| (&*m.action, m.group)), expected, "{verb} {path}");
    }

    #[test]
    fn methods_are_found_by_verb_and_path_and_nothing_else_is() {
        let e = "/v1/projects/p/locations/l/endpoints/1";
        check("POST", &format!("{e}:predict"), Some(("PredictionService.Predict", Group::Infer)));
        check("GET", &format!("{e}:predict"), None);
        check("POST", &format!("{e}:predictt"), None);
        check("POST", &format!("{e}/"), None);
        check("POST", &format!("{e}/:predict"), None);
        check("GET", e, Some(("EndpointService.GetEndpoint", Group::Observe)));
        check("DELETE", e, Some(("EndpointService.DeleteEndpoint", Group::Administer)));
        check("POST", "/v1/projects/p/locations/l/endpoints/openapi:predict", None);
        check("POST", "/v1/projects/p/locations/l/customJobs", Some(("JobService.CreateCustomJob", Group::Train)));
        check(
            "GET",
            "/v1/projects/p/locations/l/endpoints/1/operations/2",
            Some(("Operations.GetOperation", Group::Observe)),
        );
        check("POST", &format!("{e}:setIamPolicy"), Some(("IAMPolicy.SetIamPolicy", Group::Administer)));
        check(
            "POST",
            &format!("{e}/invoke/any/thing"),
            Some(("projects.locations.endpoints.invoke.invoke", Group::Infer)),
        );
        check(
            "GET",
            "/v1/projects/p/locations/l/datasets/1/datasetVersions/2:restore",
            Some(("DatasetService.RestoreDatasetVersion", Group::Ingest)),
        );
        check(
            "POST",
            "/v1/projects/p/locations/l/featureOnlineStores/1/featureViews/2:generateFetchAccessToken",
            Some(("FeatureOnlineStoreService.GenerateFetchAccessToken", Group::Administer)),
        );
        check(
            "POST",
            "/v1/projects/p/locations/l/publishers/google/models/gemini@1:generateContent",
            Some(("PredictionService.GenerateContent", Group::Infer)),
        );
        check(
            "POST",
            "/v1beta1/projects/p/locations/l/endpoints/1:predict",
            Some(("PredictionService.Predict", Group::Infer)),
        );
    }
    #[test]
    fn a_resource_has_one_name_however_it_is_spelled() {
        for (below, name, project) in [
            ("/projects/p/locations/l/models/m@2:copy", "projects/p/locations/l/models/m@2", "p"),
            ("/projects/p/locations/l/models/m%402:copy", "projects/p/locations/l/models/m@2", "p"),
            (
                "/projects/example.com%3ap/locations/l/models/%c3%a9",
                "projects/example.com:p/locations/l/models/é",
                "example.com:p",
            ),
            ("/projects/p/locations/l/models/%ff", "projects/p/locations/l/models/%ff", "p"),
        ] {
            let found = resource(below);
            assert_eq!(
                (&*found.name, found.project.as_deref(), &*found.location),
                (name, Some(project), "l"),
                "{below}"
            );
        }
    }
}
