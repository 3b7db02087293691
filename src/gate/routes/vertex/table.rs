//! The Vertex method table, parsed once: REST methods by verb and path, gRPC methods by full name. Pure.
//!
//! Promises: a literal segment is never read as an id (`endpoints/openapi` is no endpoint), so each path has one
//! reading; a gRPC message's resource is looked up as the path that REST would spell for it, so that both are the same
//! action on the same resource.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, LazyLock},
};

use http::Method;

use super::group::Group;

/// The generated table. `src/gate/routes/generate.py` generates it and documents its columns.
pub(super) const TABLE: &str = include_str!("../vertex_methods.tsv");

static READ: LazyLock<Table> = LazyLock::new(|| Table::read(TABLE));

const UNDER_LOCATION: &str = "projects/*/locations/**";

/// The actions of all Vertex methods.
pub(crate) fn actions() -> impl Iterator<Item = &'static str> {
    TABLE.lines().skip(1).filter_map(|line| line.split('\t').next())
}

/// The actions of all Vertex methods, with their groups.
pub(crate) fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.lines().skip(1).filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?))
    })
}

/// The method at a path below `version`. With `None` as `verb` it finds methods that only gRPC has.
pub(super) fn find(version: &str, below: &str, verb: Option<&Method>) -> Option<&'static VertexMethod> {
    READ.versions.get(version)?.find(below, verb)
}

/// The gRPC method of this full name, such as `google.cloud.aiplatform.v1.PredictionService/Predict`.
pub(super) fn rpc(name: &str) -> Option<&'static RpcMethod> {
    READ.rpcs.get(name)
}

/// A method that is found by its path.
#[derive(Clone)]
pub(super) struct VertexMethod {
    pub(super) action: Arc<str>,
    pub(super) group: Group,
    /// How many leading segments of the path name the resource. `None` means all.
    pub(super) named: Option<usize>,
    pub(super) rpc: &'static str,
    pub(super) payload: Payload,
}

/// The kind of a method's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A message that Google defines.
    Typed,
    /// A message with instances, in the member of this name and the field 2.
    Counted(&'static str),
    /// Bytes for a model's own server.
    Opaque,
}

/// The direction in which a gRPC method streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// One message each way.
    Unary,
    /// One message in, many out.
    Server,
    /// Many messages both ways.
    Bidi,
}

/// A gRPC method.
pub(super) struct RpcMethod {
    /// The action, without the group that methods of Operations have behind a slash.
    pub(super) action: Arc<str>,
    pub(super) version: &'static str,
    pub(super) fields: Box<[Field]>,
    pub(super) templates: Vec<Template>,
    pub(super) streaming: Streaming,
}

/// A field of a message that names the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in routing headers, such as `endpoint` or `dataset.name`.
    pub name: &'static str,
    /// The tags that lead to it.
    pub tags: Box<[u32]>,
}

/// One REST form of a gRPC method.
pub(super) struct Template {
    pub(super) verb: Option<Method>,
    /// With variables in braces.
    pattern: &'static str,
}

impl Template {
    /// The REST path for these values of the variables. `None` if a value does not have its variable's form.
    pub(super) fn path(&self, fields: &[Field], values: &[String]) -> Option<String> {
        let mut path = String::from("/");
        let mut rest = self.pattern;
        while let Some((before, variable)) = rest.split_once('{') {
            let ((name, form), behind) =
                variable.split_once('}').and_then(|(v, rest)| Some((v.split_once('=')?, rest)))?;
            let value = fields.iter().zip(values).find(|(field, _)| field.name == name).map(|(_, value)| value)?;
            let segments = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            if !fits(&segments(form), &segments(value)) {
                return None;
            }
            path.push_str(before);
            path.push_str(value);
            rest = behind;
        }
        path.push_str(rest);
        Some(path)
    }
}

/// Whether a name has a variable's form: `*` is one segment, `**` any number.
fn fits(form: &[String], name: &[String]) -> bool {
    match (form.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((want, forms)), _) if want == "**" => {
            (0..=name.len()).any(|skipped| fits(forms, name.get(skipped..).unwrap_or_default()))
        }
        (Some((want, forms)), Some((have, names))) => (want == "*" || want == have) && fits(forms, names),
        _ => false,
    }
}

#[derive(Default)]
struct Table {
    versions: HashMap<&'static str, Version>,
    rpcs: HashMap<&'static str, RpcMethod>,
}

/// One line of the table.
struct Row {
    action: &'static str,
    group: Group,
    version: &'static str,
    verb: Option<Method>,
    pattern: &'static str,
    named: Option<usize>,
    rpc: &'static str,
    fields: &'static str,
    streaming: Streaming,
    payload: Payload,
}

impl Row {
    fn read(line: &'static str) -> Option<Self> {
        let mut columns = line.split('\t');
        let mut next = || columns.next();
        let action = next()?;
        let group = next()?;
        let version = next()?;
        let verb = next()?;
        let pattern = next()?;
        let named = next()?;
        let rpc = next()?;
        let fields = next()?;
        let stream = next()?;
        let body = next()?;
        Some(Self {
            action,
            group: Group::ALL.into_iter().find(|g| g.name() == group)?,
            version,
            verb: if verb == "-" { None } else { Some(verb.parse().ok()?) },
            pattern,
            named: if named == "-" { None } else { Some(named.parse().ok()?) },
            rpc,
            fields,
            streaming: match stream {
                "unary" => Streaming::Unary,
                "server" => Streaming::Server,
                _ => Streaming::Bidi,
            },
            payload: match body {
                "opaque" => Payload::Opaque,
                "-" => Payload::Typed,
                counted => Payload::Counted(counted),
            },
        })
    }
}

impl Table {
    fn read(text: &'static str) -> Self {
        let mut table = Self::default();
        let mut names: HashMap<&'static str, Arc<str>> = HashMap::new();
        let mut named = |name: &'static str| names.entry(name).or_insert_with(|| name.into()).clone();
        for row in text.lines().skip(1).filter_map(Row::read) {
            let Row { group, payload, rpc, .. } = row;
            let method = VertexMethod { action: named(row.action), group, named: row.named, rpc, payload };
            table.versions.entry(row.version).or_default().insert(row.pattern, row.verb.clone(), method);
            if rpc != "-" && row.fields != "-" {
                let action = named(row.action.split('/').next().unwrap_or_default());
                table.insert_rpc(row, action);
            }
        }
        table
    }

    fn insert_rpc(&mut self, row: Row, action: Arc<str>) {
        let template = Template { verb: row.verb, pattern: row.pattern };
        match self.rpcs.entry(row.rpc) {
            // mixins are in both versions with the same name, and the same in both
            Entry::Occupied(known) if known.get().version != row.version => {}
            Entry::Occupied(mut known) => known.get_mut().templates.push(template),
            Entry::Vacant(slot) => {
                let fields = row.fields.split(';').filter_map(Field::read).collect();
                let version = row.version;
                let streaming = row.streaming;
                slot.insert(RpcMethod { action, version, fields, templates: vec![template], streaming });
            }
        }
    }
}

impl Field {
    /// `dataset.name=1.1`.
    fn read(text: &'static str) -> Option<Self> {
        let (name, tags) = text.split_once('=')?;
        Some(Self { name, tags: tags.split('.').map(|tag| tag.parse().ok()).collect::<Option<_>>()? })
    }
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

/// How a path may end: HTTP verb (none for what only gRPC has), custom verb behind the last colon, and the method that
/// this is.
struct Ending {
    verb: Option<Method>,
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
    fn find<'n>(&'n self, segments: &[&str], verb: Option<&Method>, custom: &str) -> Option<&'n VertexMethod> {
        let Some((first, others)) = segments.split_first() else { return ending(&self.here, verb, custom) };
        let next = self.literal.get(*first).or(self.any.as_deref().filter(|_| !first.is_empty()));
        // behind `**` a colon is part of the tail, so no custom verb is looked for
        next.and_then(|node| node.find(others, verb, custom)).or_else(|| ending(&self.rest, verb, ""))
    }
}

fn ending<'a>(endings: &'a [Ending], verb: Option<&Method>, custom: &str) -> Option<&'a VertexMethod> {
    endings.iter().find(|e| e.verb.as_ref() == verb && e.custom == custom).map(|e| &e.method)
}

impl Version {
    fn insert(&mut self, pattern: &'static str, verb: Option<Method>, method: VertexMethod) {
        let (path, custom) = split_custom(pattern);
        let ending = Ending { verb, custom, method };
        // `{name=projects` … `*}`: a variable begins and ends with a segment
        let bare = |segment: &'static str| {
            let segment = segment.strip_prefix('{').and_then(|s| s.split_once('=')).map_or(segment, |(_, first)| first);
            segment.strip_suffix('}').unwrap_or(segment)
        };
        let segments: Vec<&'static str> = path.split('/').filter(|s| !s.is_empty()).map(bare).collect();
        let under: Vec<&str> = UNDER_LOCATION.split('/').collect();
        match segments.strip_prefix(&*under) {
            Some(suffix) => self.mixins.push(Mixin { suffix: suffix.to_vec(), ending }),
            None => self.root.insert(segments.into_iter(), ending),
        }
    }

    fn find(&self, path: &str, verb: Option<&Method>) -> Option<&VertexMethod> {
        let (path, custom) = split_custom(path);
        let segments: Vec<&str> = path.strip_prefix('/').map(|p| p.split('/').collect()).unwrap_or_default();
        self.root.find(&segments, verb, custom).or_else(|| self.mixin(&segments, verb, custom))
    }

    fn mixin(&self, segments: &[&str], verb: Option<&Method>, custom: &str) -> Option<&VertexMethod> {
        let ["projects", _, "locations", _, under @ ..] = segments else { return None };
        let fits = |mixin: &&Mixin| {
            mixin.ending.verb.as_ref() == verb
                && mixin.ending.custom == custom
                && under.len() >= mixin.suffix.len()
                && under.iter().rev().zip(mixin.suffix.iter().rev()).all(|(have, want)| *want == "*" || have == want)
                && segments.iter().all(|s| !s.is_empty())
        };
        self.mixins.iter().find(fits).map(|mixin| &mixin.ending.method)
    }
}

/// A path and the custom verb behind the last colon of its last segment (AIP-136). Model ids may hold `@`, not `:`.
pub(super) fn split_custom(path: &str) -> (&str, &str) {
    let last = path.rfind('/').map_or(0, |at| at + 1);
    match path.rfind(':') {
        Some(at) if at >= last => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        _ => (path, ""),
    }
}
