//! The import rules of `src/`: which module may import which, the layers of four folders, no circle of files, and where
//! each foreign library may be named.
//!
//! The lists are allow-lists, and they are exact: an import that is not listed fails, and so does an entry that no file
//! uses. A new entry is a decision. Code under `#[cfg(test)]` is not looked at.

use std::{collections::BTreeSet, path::PathBuf};

use crate::support::import_graph::{File, Tree};

/// Modules that every other module may import. They import each other only.
const LEAVES: &[&str] = &[
    "backoff",
    "client",
    "clock",
    "exposition",
    "http",
    "peer",
    "principal",
    "protobuf",
    "refusal",
    "secret",
    "series",
    "telemetry",
];

/// Imports between modules, besides those of leaves: (from, to). `gate::*` and `pipeline::*` stand for all of that half.
const EDGES: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["app", "config", "demo", "gate::audit", "gate::identity", "gate::policy"]),
    ("app", &["config", "gate::*", "pipeline::*"]),
    ("config", &["gate::*", "pipeline::*"]),
    ("demo", &[]),
    ("gate::credentials", &["gate::signing"]),
    ("gate::grants", &["gate::policy"]),
    ("gate::identity", &["gate::signing"]),
    (
        "gate::proxy",
        &[
            "gate::audit",
            "gate::grants",
            "gate::identity",
            "gate::limits",
            "gate::listen",
            "gate::policy",
            "gate::routes",
            "gate::signing",
        ],
    ),
    ("gate::routes", &["gate::grants", "gate::policy"]),
    ("pipeline::ingest", &["pipeline::shape", "pipeline::spool"]),
    ("pipeline::sinks", &["pipeline::feedback", "pipeline::shape", "pipeline::spool"]),
];

/// The layers of a folder, from the bottom: a file or folder imports only from rows above its own in this list. `mod` is
/// `mod.rs`.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "gate/proxy",
        &[
            &["grpc_status", "headers", "metrics", "mod", "pages", "target", "token_issuer"],
            &["gate", "request_body", "response_usage"],
            &["authorize", "stream_end"],
            &["answer", "identity_headers", "limit", "local", "open"],
            &["error_response", "guardrails"],
            &["audited_body", "forward"],
            &["handle"],
        ],
    ),
    (
        "gate/identity",
        &[
            &["auth_context", "certificate", "keys", "mod", "presented_token", "rules"],
            &["strict_json"],
            &["confirmation"],
            &["claims"],
            &["dpop", "jwt"],
            &["openid", "remote", "self_issued"],
            &["settings"],
            &["fetch", "inspect"],
            &["issuer"],
            &["session"],
            &["authenticate"],
        ],
    ),
    (
        "gate/policy",
        &[
            &["context_attributes", "mod", "policy_file", "request", "rule"],
            &["cedar_request", "schema_check", "slice", "source_text"],
            &["compile"],
            &["obligations"],
            &["decision"],
            &["cedar", "decision_cache", "roles"],
            &["engine", "prove"],
            &["cases", "explain", "replay", "shadow"],
        ],
    ),
    ("pipeline", &[&["feedback", "mod", "shape", "spool"], &["ingest", "sinks"]]),
];

/// Foreign libraries with a door: (crate, modules that may name it). Crates that are not listed are vocabulary (`bytes`,
/// `http`, `serde`).
const DOORS: &[(&str, &[&str])] = &[
    ("async_nats", &["gate::grants"]),
    ("augurs", &["demo"]),
    ("backon", &["backoff"]),
    ("cedar_policy", &["gate::policy"]),
    ("cedar_policy_symcc", &["gate::policy"]),
    ("clap", &["cli"]),
    ("google_cloud_auth", &["gate::credentials"]),
    ("governor", &["gate::limits"]),
    ("hyper_rustls", &["client"]),
    ("indicatif", &["cli"]),
    ("jsonwebtoken", &["demo", "gate::identity"]),
    ("maud", &["gate::proxy"]),
    ("openidconnect", &["cli", "client", "gate::identity"]),
    ("prost", &["demo", "protobuf"]),
    ("prost_types", &["demo"]),
    ("rcgen", &["cli", "demo"]),
    ("redb", &["gate::grants", "pipeline::spool"]),
    ("rustix", &["cli"]),
    ("rustls", &["cli", "client", "demo", "gate::listen"]),
    ("rustls_native_certs", &["client"]),
    ("snap", &["demo", "pipeline::ingest"]),
    ("socket2", &["gate::listen"]),
    ("tokio_rustls", &["demo", "gate::listen"]),
    ("toml", &["config"]),
    ("x509_parser", &["cli", "gate::listen"]),
];

#[test]
fn a_module_imports_only_what_its_entry_lists() {
    let tree = Tree::read();
    let mut wrong = Vec::new();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (from, to) in tree.imports() {
        let importer = &tree.files[from];
        let imported = &tree.files[to];
        let a = importer.area();
        let b = imported.area();
        if a == b || LEAVES.contains(&b.as_str()) {
            continue;
        }
        let listed = EDGES.iter().filter(|(name, _)| *name == a).flat_map(|(_, to)| to.iter());
        match listed.clone().find(|entry| covers(entry, &b)) {
            Some(entry) => drop(used.insert((a, (*entry).to_owned()))),
            None => {
                wrong.push(format!("{} must not import `{b}` ({})", importer.path.display(), imported.path.display()))
            }
        }
    }
    for (from, to) in EDGES.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to))) {
        if !used.contains(&((*from).to_owned(), (*to).to_owned())) {
            wrong.push(format!("no file of `{from}` imports `{to}`: delete the entry"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let tree = Tree::read();
    let circles: Vec<String> = tree
        .circles()
        .iter()
        .map(|circle| {
            circle.iter().map(|file| tree.files[*file].path.display().to_string()).collect::<Vec<_>>().join(" -> ")
        })
        .collect();
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

#[test]
fn a_folder_keeps_its_layers() {
    let tree = Tree::read();
    let mut wrong = Vec::new();
    for (folder, rows) in LAYERS {
        let row_of = |child: &str| rows.iter().position(|row| row.contains(&child));
        for file in &tree.files {
            if let Some(child) = file.child_of(folder)
                && row_of(child).is_none()
            {
                wrong.push(format!("{}: `{child}` has no row in the layers of {folder}", file.path.display()));
            }
        }
        for (from, to) in tree.imports() {
            let (importer, imported) = (&tree.files[from], &tree.files[to]);
            let (Some(a), Some(b)) = (importer.child_of(folder), imported.child_of(folder)) else { continue };
            if a != b && row_of(a) <= row_of(b) {
                wrong.push(format!(
                    "{} imports {}, which is not below it",
                    importer.path.display(),
                    imported.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_foreign_library_is_named_only_behind_its_door() {
    let tree = Tree::read();
    let mut wrong = Vec::new();
    for (library, doors) in DOORS {
        let users: BTreeSet<String> =
            tree.files.iter().filter(|file| file.foreign.contains(*library)).map(File::area).collect();
        wrong.extend(
            users
                .iter()
                .filter(|user| !doors.contains(&user.as_str()))
                .map(|user| format!("`{user}` must not name `{library}`; its doors: {doors:?}")),
        );
        wrong.extend(
            doors
                .iter()
                .filter(|door| !users.contains(**door))
                .map(|door| format!("`{door}` does not name `{library}`: delete the door")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_opens_with_what_it_is_and_stays_readable() {
    let mut wrong = Vec::new();
    for file in &Tree::read().files {
        if !file.text.starts_with("//!") {
            wrong.push(format!("{}: no `//!` header", file.path.display()));
        }
        let lines = file.text.lines().count();
        if lines > 500 {
            wrong.push(format!("{}: {lines} lines are more than one idea", file.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_resolves_every_form_of_import() {
    let sources = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a/mod.rs", "mod inner; mod deep; pub(crate) use self::inner::Inner; pub(crate) struct Own;"),
        ("a/inner.rs", "pub(crate) struct Inner;"),
        ("a/deep.rs", "fn f(_: super::Inner, _: super::Own) {}"),
        ("b.rs", "use crate::{a::{Inner as Renamed, Own}, c}; fn f() { c::g(); }"),
        ("c.rs", "fn g() { log!(\"{}\", crate::d::h()); } #[cfg(test)] mod tests { use crate::b; }"),
        ("d.rs", "use serde::Serialize; #[derive(thiserror::Error)] struct E; // use crate::a::Own"),
    ];
    let tree = Tree::of(sources.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())));
    let imports: BTreeSet<(String, String)> = tree
        .imports()
        .map(|(from, to)| (tree.files[from].path.display().to_string(), tree.files[to].path.display().to_string()))
        .collect();
    let expected = [
        ("a/deep.rs", "a/inner.rs"),
        ("a/deep.rs", "a/mod.rs"),
        ("b.rs", "a/inner.rs"),
        ("b.rs", "a/mod.rs"),
        ("b.rs", "c.rs"),
        ("c.rs", "d.rs"),
    ];
    assert_eq!(imports, expected.map(|(from, to)| (from.to_owned(), to.to_owned())).into());
    let foreign: Vec<&str> = tree.files.iter().flat_map(|file| file.foreign.iter().map(String::as_str)).collect();
    assert!(foreign.contains(&"serde") && foreign.contains(&"thiserror"), "{foreign:?}");
    assert!(tree.circles().is_empty());

    let circle =
        [("lib.rs", ""), ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::a::A;")];
    let tree = Tree::of(circle.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())));
    assert_eq!(tree.circles().len(), 1);
}

/// Whether an entry of [`EDGES`] names this module.
fn covers(entry: &str, module: &str) -> bool {
    match entry.strip_suffix("::*") {
        Some(half) => module.strip_prefix(half).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")),
        None => entry == module,
    }
}
