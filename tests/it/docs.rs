//! What the pages and comments of the repository name: each file and each test exists.
//!
//! In Markdown a path in backticks or a link is relative to the repository's root or to its page. A test is written
//! `it::module::name` (a function of that file in `tests/it/`) or `lib::path::tests::name` (a unit test). In comments of
//! Rust sources, a file name in backticks is the end of some file's path.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn every_file_that_a_page_names_exists() {
    let files = files();
    let mut missing = Vec::new();
    for page in files.iter().filter(|file| file.ends_with(".md")) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let text = prose(&text);
        let folder = Path::new(page).parent().unwrap();
        for name in quoted(&text).filter(|name| is_path(name)) {
            if !exists(&files, Path::new(""), name) && !exists(&files, folder, name) {
                missing.push(format!("{page}: `{name}`"));
            }
        }
        for target in links(&text) {
            if !exists(&files, folder, target) {
                missing.push(format!("{page}: link to {target}"));
            }
        }
    }
    assert!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
}

#[test]
fn every_test_that_a_page_names_exists() {
    let files = files();
    let mut missing = Vec::new();
    let mut seen = 0;
    for page in files.iter().filter(|file| file.ends_with(".md")) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let text = prose(&text);
        for name in quoted(&text).filter(|name| name.starts_with("it::") || name.starts_with("lib::")) {
            seen += 1;
            if !is_test(name) {
                missing.push(format!("{page}: `{name}`"));
            }
        }
    }
    assert!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
    assert!(seen > 20, "ARCHITECTURE.md names a test for each invariant");
}

#[test]
fn every_source_that_a_comment_names_exists() {
    let files = files();
    let mut missing = Vec::new();
    for source in files.iter().filter(|file| file.ends_with(".rs")) {
        let text = fs::read_to_string(root().join(source)).unwrap();
        for (number, line) in text.lines().enumerate() {
            let Some((_, comment)) = line.split_once("//") else { continue };
            for name in quoted(comment).filter(|name| name.ends_with(".rs") && !name.contains([' ', ':', '*'])) {
                let end = format!("/{name}");
                if !files.iter().any(|file| file == name || file.ends_with(&end)) {
                    missing.push(format!("{source}:{}: `{name}`", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
}

#[test]
fn the_architecture_page_stays_short() {
    let length = fs::metadata(root().join("ARCHITECTURE.md")).unwrap().len();
    assert!(length <= 12 * 1024, "ARCHITECTURE.md has {length} bytes; decisions and bounds have pages of their own");
}

#[test]
fn the_reader_of_pages_finds_paths_links_and_tests() {
    let text = "See `src/a.rs`, [b](docs/b.md#part) and [c](https://example.com).\n```\n`src/no.rs`\n```\n`it::a::b`";
    let text = prose(text);
    assert_eq!(quoted(&text).collect::<Vec<_>>(), ["src/a.rs", "it::a::b"]);
    assert_eq!(links(&text), ["docs/b.md"]);
    assert!(is_path("src/a.rs") && is_path("docs/") && !is_path("application/json") && !is_path("/login"));
    assert!(is_test("it::docs::the_reader_of_pages_finds_paths_links_and_tests"));
    assert!(
        !is_test("it::docs::no_such_test") && !is_test("it::no_such_file::x") && !is_test("lib::gate::no::tests::x")
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository, by its path from the root; what is built or installed is left out.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            match name.as_str() {
                "target" | "node_modules" | ".git" => {}
                _ if entry.file_type().unwrap().is_dir() => open.push(path),
                _ => drop(found.insert(path.to_str().unwrap().to_owned())),
            }
        }
    }
    found
}

/// The page without its code blocks.
fn prose(text: &str) -> String {
    let mut outside = true;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            outside = !outside;
        } else if outside && !line.starts_with("    ") {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// What stands between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|quoted| !quoted.contains('\n'))
}

/// The targets of links within the repository, without anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let own = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    own.map(|target| target.split('#').next().unwrap_or(target)).collect()
}

/// Whether the text names a file or folder of the repository: it starts at one of its folders.
fn is_path(name: &str) -> bool {
    let folders = ["src/", "tests/", "docs/", "benches/", "fuzz/", ".ci/"];
    folders.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '*', '{', '<', '…'])
}

fn exists(files: &BTreeSet<String>, folder: &Path, name: &str) -> bool {
    let mut path = PathBuf::new();
    for part in folder.join(name).components() {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    let path = path.to_str().unwrap();
    let below = format!("{path}/");
    files.contains(path) || files.iter().any(|file| file.starts_with(&below))
}

/// Whether `it::module::name` or `lib::path::tests::name` is a function of that file.
fn is_test(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some((function, path)) = parts.split_last() else { return false };
    let declared = format!("fn {function}(");
    let candidates: Vec<PathBuf> = match path {
        ["it", module] => vec![root().join("tests/it").join(module).with_extension("rs")],
        ["lib", modules @ ..] => {
            let file = modules.iter().fold(root().join("src"), |path, part| path.join(part));
            let parent = file.parent().unwrap().to_owned();
            [file.with_extension("rs"), file.join("mod.rs"), parent.with_extension("rs"), parent.join("mod.rs")].into()
        }
        _ => return false,
    };
    candidates.iter().any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(&declared)))
}
