//! The import rules of `src/`: which module may import which, the layers of four folders, no circle of files, and where
//! each foreign library may be named.
//!
//! The lists are allow-lists, and they are exact: an import that is not listed fails, and so does an entry that no file
//! uses. A new entry is a decision. Code under `#[cfg(test)]` is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, MetaList, UseTree, Visibility,
    visit::{self, Visit},
};

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

/// The files of `src/`, by module path.
struct Tree {
    files: Vec<File>,
    by_module: BTreeMap<Vec<String>, usize>,
}

/// One source file, without its test code.
struct File {
    /// Below `src/`.
    path: PathBuf,
    /// `gate/proxy/mod.rs` is `["gate", "proxy"]`; `lib.rs` is empty.
    module: Vec<String>,
    text: String,
    /// Names that `use` brings in, with the path that each stands for.
    uses: Vec<Use>,
    /// Paths in code that start at the crate, at this module or at its parent.
    paths: Vec<Vec<String>>,
    /// Every identifier outside `use`.
    identifiers: BTreeSet<String>,
    /// First segments of every other path: foreign crates among them.
    foreign: BTreeSet<String>,
}

struct Use {
    name: String,
    path: Vec<String>,
    /// A re-export is an import only if the file itself uses the name.
    exported: bool,
}

impl Tree {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = Vec::new();
        let mut open = vec![root.clone()];
        while let Some(directory) = open.pop() {
            for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                    sources.push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
                }
            }
        }
        assert!(sources.len() > 200, "the tree was not found");
        Self::of(sources.into_iter())
    }

    fn of(sources: impl Iterator<Item = (PathBuf, String)>) -> Self {
        let files: Vec<File> = sources.map(|(path, text)| File::parse(path, text)).collect();
        // `main.rs` has the library's own module path and is imported by none
        let by_module = files
            .iter()
            .enumerate()
            .filter(|(_, file)| file.path != Path::new("main.rs"))
            .map(|(at, file)| (file.module.clone(), at))
            .collect();
        Self { files, by_module }
    }

    /// Every pair (importing file, imported file) once.
    fn imports(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut pairs = BTreeSet::new();
        for (from, file) in self.files.iter().enumerate() {
            let used = file.uses.iter().filter(|one| !one.exported || file.identifiers.contains(&one.name));
            for path in used.map(|one| &one.path).chain(&file.paths) {
                if let Some(to) = self.resolve(path, 0).filter(|to| *to != from) {
                    pairs.insert((from, to));
                }
            }
        }
        pairs.into_iter()
    }

    /// The file that defines what this path from the crate's root names, re-exports followed.
    fn resolve(&self, path: &[String], depth: usize) -> Option<usize> {
        let known = (0..=path.len()).rev().find(|n| self.by_module.contains_key(&path[..*n]))?;
        let at = *self.by_module.get(&path[..known])?;
        let Some(name) = path.get(known) else { return Some(at) };
        let reexported = self.files[at].uses.iter().find(|one| one.exported && one.name == *name);
        match reexported {
            Some(one) if depth < 8 => self.resolve(&one.path, depth + 1).or(Some(at)),
            _ => Some(at),
        }
    }

    /// One circle for each file that can reach itself, each circle once.
    fn circles(&self) -> Vec<Vec<usize>> {
        let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, to) in self.imports() {
            next.entry(from).or_default().push(to);
        }
        let mut circles: Vec<Vec<usize>> = Vec::new();
        for start in 0..self.files.len() {
            if circles.iter().any(|circle| circle.contains(&start)) {
                continue;
            }
            // breadth first, so that the circle that is shown is a shortest one
            let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
            let mut queue = std::collections::VecDeque::from([start]);
            while let Some(at) = queue.pop_front() {
                for to in next.get(&at).into_iter().flatten() {
                    if *to == start {
                        let mut circle = vec![start, at];
                        while circle[circle.len() - 1] != start {
                            circle.push(came_from[&circle[circle.len() - 1]]);
                        }
                        circle.reverse();
                        circles.push(circle);
                        queue.clear();
                        break;
                    }
                    if !came_from.contains_key(to) {
                        came_from.insert(*to, at);
                        queue.push_back(*to);
                    }
                }
            }
        }
        circles
    }
}

impl File {
    fn parse(path: PathBuf, text: String) -> Self {
        let mut module: Vec<String> =
            path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut reader = Reader { at: module.clone(), ..Reader::default() };
        reader.visit_file(&parsed);
        let Reader { uses, paths, identifiers, foreign, .. } = reader;
        Self { path, module, text, uses, paths, identifiers, foreign }
    }

    /// The module that [`EDGES`] speak of: `gate::proxy` for a file of `gate/proxy/`, `cli` for one of `cli/`.
    fn area(&self) -> String {
        match self.module.as_slice() {
            [] => self.path.with_extension("").display().to_string(),
            [half, part, ..] if matches!(half.as_str(), "gate" | "pipeline") => format!("{half}::{part}"),
            [first, ..] => first.clone(),
        }
    }

    /// The child of this folder (`gate/proxy`) that the file is or belongs to; `mod` for its `mod.rs`.
    fn child_of(&self, folder: &str) -> Option<&str> {
        let below = self.path.strip_prefix(folder).ok()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

/// Collects what a file imports and names.
#[derive(Default)]
struct Reader {
    /// The module being read: the file's, and inline modules in it.
    at: Vec<String>,
    uses: Vec<Use>,
    paths: Vec<Vec<String>>,
    identifiers: BTreeSet<String>,
    foreign: BTreeSet<String>,
}

impl Reader {
    /// The path from the crate's root, if it leads into this crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" | "wicketgate" => Some(rest.to_vec()),
            "self" => Some([self.at.clone(), rest.to_vec()].concat()),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let kept = self.at.len().checked_sub(ups)?;
                Some([self.at[..kept].to_vec(), segments[ups..].to_vec()].concat())
            }
            _ => None,
        }
    }

    fn path(&mut self, segments: &[String]) {
        match self.absolute(segments) {
            Some(path) if segments.len() > 1 => self.paths.push(path),
            _ => self.foreign.extend(segments.first().filter(|_| segments.len() > 1).cloned()),
        }
        self.identifiers.extend(segments.first().cloned());
    }

    fn tree(&mut self, tree: &UseTree, before: &[String], exported: bool) {
        let with = |name: &syn::Ident| [before.to_vec(), vec![name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident), exported),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before, exported)),
            UseTree::Glob(_) => self.bring("*", before, exported),
            UseTree::Name(name) if name.ident == "self" => {
                self.bring(&before.last().cloned().unwrap_or_default(), before, exported);
            }
            UseTree::Name(name) => self.bring(&name.ident.to_string(), &with(&name.ident), exported),
            UseTree::Rename(rename) => self.bring(&rename.rename.to_string(), &with(&rename.ident), exported),
        }
    }

    fn bring(&mut self, name: &str, segments: &[String], exported: bool) {
        match self.absolute(segments) {
            Some(path) => self.uses.push(Use { name: name.to_owned(), path, exported }),
            None => self.foreign.extend(segments.first().cloned()),
        }
    }

    /// Paths and identifiers in the tokens of a macro or an attribute.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => {
                    path.push(name.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(name) => {
                    self.path(&std::mem::take(&mut path));
                    path.push(name.to_string());
                }
                TokenTree::Group(group) => {
                    self.path(&std::mem::take(&mut path));
                    self.tokens(group.stream());
                }
                _ => self.path(&std::mem::take(&mut path)),
            }
            colons = 0;
        }
        self.path(&path);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_cfg_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.at.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.at.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invoked: &'ast Macro) {
        self.visit_path(&invoked.path);
        self.tokens(invoked.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast MetaList) {
        self.visit_path(&list.path);
        self.tokens(list.tokens.clone());
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
}

/// Whether a file is compiled for tests only: `tests.rs` of a module, and what several of those share.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing")
}
