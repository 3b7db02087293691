//! The house keeps its walls: which module may know which, and through which door a foreign library comes in.
//!
//! Both lists are allow-lists. An edge that is not here is a decision to be taken, not a line to be added in passing;
//! an edge that is here and no longer used is taken out, so that the lists stay true.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// What everybody may know, and what may know nothing but itself.
const LEAVES: &[&str] =
    &["client", "clock", "http", "peer", "principal", "refusal", "secret", "series", "signing", "telemetry"];

/// The gate half and the metrics half; neither may name the other.
const GATE: &[&str] = &["audit", "credentials", "grants", "identity", "limits", "listen", "policy", "proxy", "routes"];
const METRICS: &[&str] = &["feedback", "ingest", "shape", "sinks", "spool"];

/// Edges besides those to leaves: (from, to).
const EDGES: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["app", "audit", "config", "demo", "identity", "policy", "terminal"]),
    ("app", &["config", "GATE", "METRICS"]),
    ("config", &["GATE", "METRICS"]),
    ("grants", &["policy"]),
    ("routes", &["grants", "policy"]),
    ("proxy", &["audit", "credentials", "grants", "identity", "limits", "listen", "policy", "routes"]),
    ("sinks", &["feedback", "shape", "spool"]),
    ("ingest", &["shape", "spool"]),
    ("demo", &[]),
    ("terminal", &["identity"]),
];

/// Foreign libraries with a door: (crate, modules that may name it). The rest is vocabulary (bytes, http, serde, …).
const DOORS: &[(&str, &[&str])] = &[
    ("async_nats", &["grants"]),
    ("augurs", &["demo"]),
    ("cedar_policy", &["policy"]),
    ("cedar_policy_symcc", &["policy"]),
    ("clap", &["cli"]),
    ("google_cloud_auth", &["credentials"]),
    ("governor", &["limits"]),
    ("hyper_rustls", &["client"]),
    ("indicatif", &["cli"]),
    ("jsonwebtoken", &["demo", "identity"]),
    ("maud", &["proxy"]),
    ("oauth2", &["client", "identity", "terminal"]),
    ("prost", &["demo", "ingest", "proxy"]),
    ("prost_types", &["demo"]),
    ("rcgen", &["demo"]),
    ("redb", &["grants", "spool"]),
    ("rustix", &["terminal"]),
    ("rustls", &["client", "demo", "listen"]),
    ("rustls_native_certs", &["client"]),
    ("snap", &["demo", "ingest"]),
    ("socket2", &["listen"]),
    ("tokio_rustls", &["demo", "listen"]),
    ("toml", &["config"]),
    ("x509_parser", &["listen"]),
];

#[test]
fn no_module_knows_what_it_must_not() {
    let mut broken = Vec::new();
    for (module, sources) in modules() {
        let allowed = allowed(&module);
        for source in &sources {
            for known in source.own_modules() {
                if known != module && !allowed.contains(known.as_str()) {
                    broken.push(format!("{}: `{module}` must not know `{known}`", source.path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "edges that are not in the list:\n{}", broken.join("\n"));
}

#[test]
fn a_foreign_library_comes_in_by_its_door() {
    let mut broken = Vec::new();
    for (module, sources) in modules() {
        for source in &sources {
            for (library, doors) in DOORS {
                if !doors.contains(&module.as_str()) && source.names(library) {
                    broken.push(format!("{}: `{library}` belongs to {doors:?}", source.path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "libraries beside their doors:\n{}", broken.join("\n"));
}

#[test]
fn every_module_has_a_place_in_the_house() {
    let known: BTreeSet<&str> = ["main", "lib", "cli", "app", "config", "demo", "terminal"]
        .iter()
        .chain(LEAVES)
        .chain(GATE)
        .chain(METRICS)
        .copied()
        .collect();
    let strangers: Vec<String> = modules().into_keys().filter(|module| !known.contains(module.as_str())).collect();
    assert!(strangers.is_empty(), "modules that are in no list: {strangers:?}");
}

#[test]
fn a_module_says_what_it_promises_and_stays_readable() {
    let mut broken = Vec::new();
    for source in modules().into_values().flatten() {
        if !source.text.starts_with("//!") {
            broken.push(format!("{}: no header that says what it promises", source.path.display()));
        }
        let lines = source.text.lines().count();
        if lines > 500 {
            broken.push(format!("{}: {lines} lines hold two ideas", source.path.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_reader_of_sources_finds_every_form() {
    let source = Source {
        path: PathBuf::new(),
        text: "use crate::a::B;\nuse crate::{c, d::{E, f}, g as h};\nlet x = crate::i::j();\n\
               // crate::k is only spoken of\nuse jsonwebtoken::X;\n/// crate::l too\n"
            .into(),
    };
    assert_eq!(source.own_modules(), ["a", "c", "d", "g", "i"].map(String::from).into());
    assert!(source.names("jsonwebtoken") && !source.names("token") && !source.names("json"));
}

/// One source file.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The file without its comments.
    fn code(&self) -> String {
        self.text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    /// The top-level modules that the file names: after `crate::`, after `wicketgate::`, and in their braces.
    fn own_modules(&self) -> BTreeSet<String> {
        let code = self.code();
        ["crate::", "wicketgate::"]
            .iter()
            .flat_map(|root| code.match_indices(root).map(|(at, root)| &code[at + root.len()..]))
            .flat_map(first_names)
            .filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase()))
            .collect()
    }

    /// Whether the file names this crate: `library::`, as a word of its own.
    fn names(&self, library: &str) -> bool {
        let code = self.code();
        code.match_indices(&format!("{library}::")).any(|(at, _)| {
            !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
        })
    }
}

/// The first path segment of `rest`, or of each branch where it begins with a brace.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(branches) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in branches.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&branches[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&branches[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn allowed(module: &str) -> BTreeSet<&'static str> {
    // the library's root declares everybody
    let mut allowed: BTreeSet<&str> = LEAVES.iter().copied().collect();
    for to in EDGES.iter().filter(|(from, _)| *from == module).flat_map(|(_, to)| to.iter()) {
        match *to {
            "GATE" => allowed.extend(GATE),
            "METRICS" => allowed.extend(METRICS),
            one => {
                allowed.insert(one);
            }
        }
    }
    allowed
}

/// Whether the file is compiled for tests alone: `tests.rs` of a module, and what several of those share.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing")
}

/// The files of `src/` by their top-level module.
fn modules() -> BTreeMap<String, Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let inside = path.strip_prefix(&root).unwrap().to_owned();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                found.entry(first.trim_end_matches(".rs").to_owned()).or_default().push(Source { path: inside, text });
            }
        }
    }
    found
}
