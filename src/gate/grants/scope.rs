//! What a grant is for: one resource, or all that are below one. Pure.
//!
//! Promises: a scope has one spelling, and covers exactly what that says: `exporter/node` one exporter, `exporter/*`
//! every one, `projects/p/locations/l/endpoints/1` one Vertex resource, `projects/p/locations/l/*` what is below that
//! name, at any depth. No scope covers a grant: nobody is granted the right to grant.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::gate::policy::Resource;

/// Longest scope, in bytes; Vertex names are far shorter.
const MAX_SCOPE: usize = 512;

/// A resource by its name, or with `*` as its last segment everything below a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Scope {
    text: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exporter,
    Service,
    Vertex,
}

/// Why a text is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write `exporter/NAME`, `service/NAME` or a Vertex resource such as `projects/P/locations/L/endpoints/1`, or one of them \
     with `*` as its last segment for what is below"
)]
pub struct NoScope;

impl Kind {
    /// What stands before a resource's own name.
    fn prefix(self) -> &'static str {
        match self {
            Self::Exporter => "exporter/",
            Self::Service => "service/",
            Self::Vertex => "",
        }
    }
}

impl Scope {
    /// Reads a scope.
    ///
    /// # Errors
    /// When it is of no kind that is known, has a second reading, or more than 512 bytes.
    pub fn parse(text: &str) -> Result<Self, NoScope> {
        let mut segments = text.split('/');
        let kind = match segments.next() {
            Some("exporter") => Kind::Exporter,
            Some("service") => Kind::Service,
            Some("projects" | "publishers") => Kind::Vertex,
            _ => return Err(NoScope),
        };
        let segments: Vec<&str> = segments.collect();
        let (last, before) = segments.split_last().ok_or(NoScope)?;
        // exporters and services have names of one segment
        if text.len() > MAX_SCOPE || kind != Kind::Vertex && !before.is_empty() {
            return Err(NoScope);
        }
        if before.iter().all(|segment| is_name(segment)) && (*last == "*" || is_name(last)) {
            Ok(Self { text: text.into(), kind })
        } else {
            Err(NoScope)
        }
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether the resource is meant.
    #[must_use]
    pub fn covers(&self, resource: &Resource) -> bool {
        let (kind, name) = match resource {
            Resource::Exporter(name) => (Kind::Exporter, name),
            Resource::Service(name) => (Kind::Service, name),
            Resource::Vertex(resource) => (Kind::Vertex, &resource.name),
            Resource::Grant(_) => return false,
        };
        let Some(own) = self.text.strip_prefix(self.kind.prefix()) else { return false };
        let meant = match own.strip_suffix('*') {
            Some(above) => name.len() > above.len() && name.starts_with(above),
            None => **name == *own,
        };
        kind == self.kind && meant
    }

    /// Whether some resource may be covered by both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self.text.strip_suffix('*'), other.text.strip_suffix('*')) {
            (None, None) => self.text == other.text,
            (Some(above), None) => other.text.starts_with(above),
            (None, Some(above)) => self.text.starts_with(above),
            (Some(one), Some(other)) => one.starts_with(other) || other.starts_with(one),
        }
    }
}

/// What a segment may hold: no wildcard, and nothing that another reader could take for something else.
fn is_name(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:@~+=".contains(&b))
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.text.as_ref().to_owned()
    }
}

impl TryFrom<String> for Scope {
    type Error = NoScope;

    fn try_from(text: String) -> Result<Self, NoScope> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gate::policy::VertexResource;

    fn vertex(name: &str) -> Resource {
        Resource::Vertex(VertexResource::parse(name))
    }

    #[test]
    fn a_scope_covers_what_it_says_and_no_more() {
        let check = |scope: &str, resource: Resource, expected: bool| {
            let covers = Scope::parse(scope).unwrap().covers(&resource);
            assert_eq!(covers, expected, "{scope} and {resource:?}");
        };
        let exporter = |name: &str| Resource::Exporter(name.into());
        check("exporter/node", exporter("node"), true);
        check("exporter/node", exporter("node2"), false);
        check("exporter/*", exporter("node"), true);
        check("exporter/*", Resource::Service("node".into()), false);
        check("service/write", Resource::Service("write".into()), true);
        check("service/write", exporter("write"), false);
        let endpoint = "projects/p/locations/l/endpoints/1";
        check(endpoint, vertex(endpoint), true);
        check(endpoint, vertex("projects/p/locations/l/endpoints/12"), false);
        check(endpoint, exporter(endpoint), false);
        check("projects/p/locations/l/*", vertex(endpoint), true);
        check("projects/p/locations/l/*", vertex("projects/p/locations/l"), false);
        check("projects/p/locations/l/*", vertex("projects/p/locations/l2/endpoints/1"), false);
        check("publishers/google/models/*", vertex("publishers/google/models/gemini@2"), true);
        check("exporter/*", vertex("exporter/node"), false);
    }

    #[test]
    fn what_has_a_second_reading_is_no_scope() {
        for good in ["exporter/a.b-c_d", "service/*", "projects/*", "projects/p/locations/l/models/1@2"] {
            assert_eq!(&**Scope::parse(good).unwrap().text(), good);
        }
        let long = format!("projects/{}", "p".repeat(MAX_SCOPE));
        for bad in [
            "",
            "*",
            "exporter",
            "exporter/",
            "exporter/a/b",
            "exporter/a/*",
            "node",
            "/exporter/a",
            "projects/../p",
            "projects//p",
            "projects/p/",
            "projects/*/endpoints/1",
            "projects/p*",
            "projects/p/**",
            "projects/p q",
            "projects/%70",
            "Exporter/a",
            "grants/1",
            "exporter/ä",
            &long,
        ] {
            assert_eq!(Scope::parse(bad), Err(NoScope), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn scopes_that_cover_one_resource_meet(
            segments in prop::collection::vec("[ab]", 1..5), one in 0_usize..6, other in 0_usize..6,
        ) {
            let name = format!("projects/{}", segments.join("/"));
            let scope = |depth: usize| match segments.get(..depth) {
                Some(kept) if depth < segments.len() => {
                    Scope::parse(&["projects"].into_iter().chain(kept.iter().map(String::as_str)).chain(["*"]).collect::<Vec<_>>().join("/"))
                }
                _ => Scope::parse(&name),
            }.unwrap();
            let one = scope(one);
            let other = scope(other);
            prop_assert!(one.covers(&vertex(&name)) && other.covers(&vertex(&name)));
            prop_assert!(one.meets(&other) && other.meets(&one));
        }
    }
}
