//! A TOML reader that collects every problem of a file, each with its line and what to write instead.
//!
//! Promises: an unknown key is a problem. A value of the wrong type is a problem that says what to write. Reading goes
//! on after a problem, so that one run reports all of them. A value that stands in for a bad one is never used: a file
//! with problems yields no configuration.

mod section;
mod toml_file;
mod values;

pub(crate) use self::{
    section::Section,
    toml_file::{Parsed, TomlFile},
};

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let parsed = Section::read(TomlFile::new(Path::new("t.toml"), text.into()), |top| {
            top.required("name", "x");
            top.number("count", 1, 1, 10);
            top.duration("wait", Duration::from_secs(1));
            if let Some(inner) = top.section("inner") {
                inner.boolean("on", true);
                inner.finish();
            }
            for item in top.sections("item") {
                item.required("id", "a");
                item.finish();
            }
        });
        let problems = parsed.problems;
        let found: Vec<String> = problems.iter().map(|p| format!("{}:{}", p.line, p.key)).collect();
        assert_eq!(found, expected, "{problems:?}");
    }

    #[test]
    fn every_problem_is_found_at_once_with_its_line() {
        check("name = \"x\"", &[]);
        check("", &["1:name"]);
        check("name = 3\ncount = 99\nwait = \"soon\"", &["1:name", "2:count", "3:wait"]);
        check("name = \"x\"\n[inner]\non = 1\noff = 2", &["3:inner.on", "4:inner.off"]);
        check("name = \"x\"\n[[item]]\nid = \"a\"\n[[item]]\nidd = \"b\"", &["4:item[1].id", "5:item[1].idd"]);
    }
}
