//! Rust sources as an import graph: which file imports which, with re-exports followed, and which foreign crates it names.
//!
//! Code under `#[cfg(test)]`, `tests.rs` and `testing.rs` are left out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, MetaList, UseTree, Visibility,
    visit::{self, Visit},
};

/// The files of `src/`, by module path.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    by_module: BTreeMap<Vec<String>, usize>,
}

/// One source file, without its test code.
pub(crate) struct File {
    /// Below `src/`.
    pub(crate) path: PathBuf,
    /// `gate/proxy/mod.rs` is `["gate", "proxy"]`; `lib.rs` is empty.
    module: Vec<String>,
    pub(crate) text: String,
    /// Names that `use` brings in, with the path that each stands for.
    uses: Vec<Use>,
    /// Paths in code that start at the crate, at this module or at its parent.
    paths: Vec<Vec<String>>,
    /// Every identifier outside `use`.
    identifiers: BTreeSet<String>,
    /// First segments of every other path: foreign crates among them.
    pub(crate) foreign: BTreeSet<String>,
}

struct Use {
    name: String,
    path: Vec<String>,
    /// A re-export is an import only if the file itself uses the name.
    exported: bool,
}

impl Tree {
    pub(crate) fn read() -> Self {
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

    pub(crate) fn of(sources: impl Iterator<Item = (PathBuf, String)>) -> Self {
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
    pub(crate) fn imports(&self) -> impl Iterator<Item = (usize, usize)> {
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
    pub(crate) fn circles(&self) -> Vec<Vec<usize>> {
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
            let mut queue = VecDeque::from([start]);
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
    pub(crate) fn area(&self) -> String {
        match self.module.as_slice() {
            [] => self.path.with_extension("").display().to_string(),
            [half, part, ..] if matches!(half.as_str(), "gate" | "pipeline") => format!("{half}::{part}"),
            [first, ..] => first.clone(),
        }
    }

    /// The child of this folder (`gate/proxy`) that the file is or belongs to; `mod` for its `mod.rs`.
    pub(crate) fn child_of(&self, folder: &str) -> Option<&str> {
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
