//! The Vertex method table as the suite reads it, independently of the gate, from the same file.
//!
//! A row becomes a concrete request; a path that reached Google becomes the rows that it can mean.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use http::Method;
use prost::encoding::{self, WireType};

const TABLE: &str = include_str!("../../src/gate/routes/vertex_methods.tsv");

pub(crate) static ROWS: LazyLock<Vec<Row>> = LazyLock::new(read);

/// Location of requests that name one. Short forms without one are in `global`.
pub(crate) const REGION: &str = "us-central1";

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) action: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// None for what only gRPC has.
    pub(crate) verb: Option<Method>,
    /// Variables in braces.
    pub(crate) pattern: &'static str,
    /// How many segments of the path name the resource; all where it is not said.
    named: Option<usize>,
    /// `package.Service/Method`.
    pub(crate) rpc: Option<&'static str>,
    /// Fields of the message with their tags, by the names of the pattern's variables.
    fields: HashMap<&'static str, Vec<u32>>,
    /// The pattern's segments without its variables and its verb.
    form: Vec<&'static str>,
    custom: &'static str,
}

fn read() -> Vec<Row> {
    let mut lines = TABLE.lines();
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let rows: Vec<Row> = lines
        .map(|line| {
            let cells: HashMap<&str, &'static str> = header.iter().copied().zip(line.split('\t')).collect();
            let given = |name: &str| cells.get(name).copied().filter(|cell| *cell != "-");
            let field = |text: &'static str| {
                let (name, tags) = text.split_once('=').unwrap();
                (name, tags.split('.').map(|tag| tag.parse().unwrap()).collect())
            };
            let (form, custom) = split_verb(cells["pattern"]);
            Row {
                form: form.split('/').map(bare).collect(),
                custom,
                action: cells["action"],
                group: cells["group"],
                version: cells["version"],
                verb: given("verb").map(|verb| verb.parse().unwrap()),
                pattern: cells["pattern"],
                named: given("named").map(|count| count.parse().unwrap()),
                rpc: given("rpc"),
                fields: given("fields").map(|fields| fields.split(';').map(field).collect()).unwrap_or_default(),
            }
        })
        .collect();
    assert!(rows.len() > 1200, "the table has shrunk to {} rows", rows.len());
    rows
}

/// A row with every variable filled in.
pub(crate) struct Concrete {
    /// With version and custom verb, as REST asks.
    pub(crate) target: String,
    /// As policies and records name it.
    pub(crate) resource: String,
    pub(crate) location: &'static str,
    /// The message that asks the same by gRPC, where it can.
    pub(crate) message: Option<Vec<u8>>,
    /// What the message's fields hold: name and value.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Row {
    pub(crate) fn concrete(&self) -> Concrete {
        let mut path = String::new();
        let mut variables = Vec::new();
        let mut rest = self.pattern;
        while let Some((before, variable)) = rest.split_once('{') {
            let (variable, behind) = variable.split_once('}').unwrap();
            let (name, form) = variable.split_once('=').unwrap();
            path.push_str(&filled(before, &path));
            let value = filled(form, &path);
            path.push_str(&value);
            variables.push((name, value));
            rest = behind;
        }
        path.push_str(&filled(rest, &path));
        let (bare, _) = split_verb(&path);
        let resource: Vec<&str> = bare.split('/').take(self.named.unwrap_or(usize::MAX)).collect();
        let location = if path.starts_with("projects/p/locations/us-central1") { REGION } else { "global" };
        let message = self.rpc.and_then(|_| self.message(&variables));
        let slash = if path.starts_with(':') { "" } else { "/" };
        Concrete {
            target: format!("/{}{slash}{path}", self.version),
            resource: resource.join("/"),
            location,
            message,
            variables,
        }
    }

    /// None where a variable is no field: then there is no such call by gRPC.
    fn message(&self, variables: &[(&str, String)]) -> Option<Vec<u8>> {
        if self.fields.is_empty() || variables.is_empty() {
            return None;
        }
        let mut message = Vec::new();
        for (name, value) in variables {
            let (last, outer) = self.fields.get(name)?.split_last()?;
            let mut field = Vec::new();
            encoding::string::encode(*last, value, &mut field);
            for tag in outer.iter().rev() {
                let inner = std::mem::take(&mut field);
                encoding::encode_key(*tag, WireType::LengthDelimited, &mut field);
                encoding::encode_varint(inner.len() as u64, &mut field);
                field.extend(inner);
            }
            message.extend(field);
        }
        Some(message)
    }
}

/// `form` with a name for each `*`; ids count the segments so that no two are the same.
fn filled(form: &str, before: &str) -> String {
    let at = before.split('/').count();
    let mut segments: Vec<Cow<'_, str>> = Vec::new();
    for (index, segment) in form.split('/').enumerate() {
        let collection = segments.last().map_or("", |last| &**last);
        let filled: Cow<'_, str> = match (segment.strip_prefix("**"), segment.strip_prefix('*')) {
            (Some(rest), _) if collection == "invoke" => format!("any/thing{rest}").into(),
            // any resource of a location; this one belongs to administrators
            (Some(rest), _) => format!("{REGION}/endpoints/7{rest}").into(),
            (None, Some(rest)) => {
                let id = match collection {
                    "projects" => "p".into(),
                    "locations" => REGION.into(),
                    "publishers" => "google".into(),
                    _ => format!("{}", 10 + at + index),
                };
                format!("{id}{rest}").into()
            }
            (None, None) => segment.into(),
        };
        segments.push(filled);
    }
    segments.join("/")
}

/// A path and the verb behind the last colon of its last segment.
pub(crate) fn split_verb(path: &str) -> (&str, &str) {
    let last = path.rfind('/').map_or(0, |slash| slash + 1);
    path[last..].rfind(':').map_or((path, ""), |colon| (&path[..last + colon], &path[last + colon + 1..]))
}

/// What a path means to a reader of Google's documentation, without escapes: the rows that it can be, of those the ones
/// that spell most of it out. What holds for every resource holds where nothing is said of this one.
pub(crate) fn meanings(verb: &Method, path: &str) -> Vec<&'static Row> {
    let Some((version, below)) = versioned(path) else { return Vec::new() };
    let fitting = ROWS.iter().filter(|row| row.version == version && row.verb.as_ref() == Some(verb));
    let fitting: Vec<((bool, usize), &Row)> = fitting.filter_map(|row| Some((row.spelled(below)?, row))).collect();
    let most = fitting.iter().map(|(spelled, _)| *spelled).max();
    fitting.into_iter().filter(|(spelled, _)| Some(*spelled) == most).map(|(_, row)| row).collect()
}

/// A path's version and what is below it.
fn versioned(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    let end = path.find(['/', ':'])?;
    Some((&path[..end], path[end..].strip_prefix('/').unwrap_or(&path[end..])))
}

impl Row {
    /// Whether the pattern is for one kind of resource and how many segments it spells out, where the path is of its form.
    fn spelled(&self, below: &str) -> Option<(bool, usize)> {
        // a free tail takes everything, colons too
        let tail = self.form.last() == Some(&"**") && self.custom.is_empty();
        let (path, verb) = if tail { (below, "") } else { split_verb(below) };
        let path: Vec<&str> = path.split('/').collect();
        let spelled = self.form.iter().filter(|segment| !segment.starts_with('*')).count();
        (verb == self.custom && fits(&self.form, &path)).then_some((tail || !self.form.contains(&"**"), spelled))
    }

    /// The resource's name in a path of this row's form.
    pub(crate) fn resource_in<'p>(&self, path: &'p str) -> &'p str {
        let below = versioned(path).map_or("", |(_, below)| below);
        let end = self.named.and_then(|count| Some(below.match_indices('/').nth(count.checked_sub(1)?)?.0));
        end.map_or_else(|| split_verb(below).0, |end| &below[..end])
    }
}

/// A pattern's segment without the braces of a variable that begins or ends there.
fn bare(segment: &'static str) -> &'static str {
    let begun = segment.strip_prefix('{').and_then(|inside| inside.split_once('=')).map_or(segment, |(_, form)| form);
    begun.trim_end_matches('}')
}

fn fits(form: &[&str], path: &[&str]) -> bool {
    match (form, path) {
        ([], []) => true,
        (["**", form @ ..], [first, rest @ ..]) if !first.is_empty() => {
            (0..=rest.len()).any(|taken| rest[..taken].iter().all(|s| !s.is_empty()) && fits(form, &rest[taken..]))
        }
        (["*", form @ ..], [first, rest @ ..]) => !first.is_empty() && fits(form, rest),
        ([want, form @ ..], [first, rest @ ..]) => want == first && fits(form, rest),
        _ => false,
    }
}
