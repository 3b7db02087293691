//! What is said of rules that cannot be meant so, and of rules that do nothing.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::{
    config::{
        problem::Problem,
        reader::{Section, TomlFile},
    },
    gate::policy::PolicyFile,
};

/// Reads rules for the issuers `corp` and `jobs`, all of whose tokens have the tenant `t-1`, and the certificates
/// `mesh`; policies speak of the roles `scrape` and `train`. Gives problems and warnings.
fn read(text: &str) -> (Vec<Problem>, Vec<Problem>) {
    let file = |text: &str| PolicyFile { path: "policies".into(), text: text.into() };
    let schema = "entity Role; entity Principal in [Role]; entity Exporter;
                  action scrape appliesTo { principal: Principal, resource: Exporter };";
    let policies = "permit (principal in Role::\"scrape\", action, resource);
                    permit (principal in Role::\"train\", action, resource);";
    let policy = Policy::new(Roles::default(), &file(schema), &[file(policies)], std::iter::empty()).unwrap();
    let saying = |name: &str, fixed: Value| IssuerClaims { name: name.into(), fixed, only: None };
    let claims = KnownClaims(vec![
        saying("corp", json!({ "iss": "https://idp.example" })),
        saying("jobs", json!({ "iss": "https://jobs.example", "tenant": "t-1" })),
        IssuerClaims { name: "mesh".into(), fixed: Value::Null, only: Some(["spiffe_id", "x5t#S256"]) },
    ]);
    let file = TomlFile::new(Path::new("roles.toml"), text.into());
    let parsed = Section::read(file, |top| roles(top, Some(&claims), Some(&policy)));
    (parsed.problems, parsed.warnings)
}

fn rule(rest: &str) -> String {
    format!("[[rule]]\nrole = \"scrape\"\nissuers = [\"*\"]\n{rest}\n")
}

#[test]
fn a_rule_that_cannot_be_meant_so_is_a_problem_with_what_to_write() {
    let from = |issuer: &str, rest: &str| rule(rest).replacen('*', issuer, 1);
    let apart = |rest: &str| {
        let train = rule("claim = \"a\"\nvalue = \"c\"").replace("scrape", "train");
        format!("{}{train}[separation_of_duty]\n{rest}\n", rule("claim = \"a\"\nvalue = \"b\""))
    };
    for (text, place, remedy) in [
        (rule("claim = \"a\""), ":1: `rule[0].value`", "write one of"),
        (rule("claim = \"a\"\nvalue = \"b\"\nprefix = \"b\""), ":6: `rule[0].prefix`", "write one of"),
        (rule("claim = \"a\"\nvalue = \"b\"\ncidr = \"10.0.0.0/8\""), ":6: `rule[0].cidr`", "write one of"),
        (rule("claim = \"a\"\nvalue = 1.5"), ":5: `rule[0].value`", "whole number"),
        (rule("claim = \"a\"\nvalue = \"\""), ":5: `rule[0].value`", "not empty"),
        (rule("claim = \"a\"\nvalue = [\"b\"]"), ":5: `rule[0].value`", "whole number"),
        (rule("claim = \"a\"\nprefix = \"\""), ":5: `rule[0].prefix`", "not empty"),
        (rule("claim = \"a\"\ncidr = \"10.0.0.0/33\""), ":5: `rule[0].cidr`", "`10.0.0.0/8`"),
        (rule("claim = \"a\"\ncidr = \"10.1.0.0/8\""), ":5: `rule[0].cidr`", "write `10.0.0.0/8`"),
        (rule("claim = \"/a~b\"\nvalue = \"b\""), ":4: `rule[0].claim`", "`~0`"),
        (rule("all = []"), ":4: `rule[0].all`", "write the conditions"),
        (rule("claim = \"a\"\nall = [ { claim = \"a\", value = \"b\" } ]"), ":4: `rule[0].claim`", "not both"),
        (rule("all = [ { claim = \"a\" } ]"), ":4: `rule[0].all[0].value`", "write one of"),
        (rule("all = [ { claim = \"a\", valeu = \"b\" } ]"), ":4: `rule[0].all[0].valeu`", "unknown key"),
        (
            rule("all = [ { claim = \"a\", value = 1 }, { claim = \"a\", value = 1 } ]"),
            ":4: `rule[0].all[1].claim`",
            "twice",
        ),
        (rule("claim = \"exp\"\nvalue = 1"), ":4: `rule[0].claim`", "token to token"),
        (rule("claim = \"iss\"\nvalue = \"https://elsewhere.example\""), ":4: `rule[0].claim`", "can ever meet"),
        (from("jobs", "claim = \"iss\"\nprefix = \"http://\""), ":4: `rule[0].claim`", "can ever meet"),
        (from("jobs", "claim = \"tenant\"\nvalue = \"t-2\""), ":4: `rule[0].claim`", "can ever meet"),
        (from("mesh", "claim = \"tenant\"\nvalue = \"t-1\""), ":4: `rule[0].claim`", "can ever meet"),
        (
            from("jobs", "all = [ { claim = \"a\", value = 1 }, { claim = \"tenant\", value = true } ]"),
            ":4: `rule[0].all`",
            "can ever meet",
        ),
        (from("nobody", "claim = \"a\"\nvalue = \"b\""), ":3: `rule[0].issuers`", "no issuer is called `nobody`"),
        (from("*\", \"corp", "claim = \"a\"\nvalue = \"b\""), ":3: `rule[0].issuers`", "`*` is every issuer"),
        (
            "[[rule]]\nrole = \"scrape\"\nissuers = []\nclaim = \"a\"\nvalue = \"b\"".into(),
            ":3: `rule[0].issuers`",
            "list",
        ),
        (rule("claim = \"a\"\nvalue = \"b\"").replace("scrape", "a b"), ":2: `rule[0].role`", "characters"),
        (apart("static = [[\"scrape\"]]"), ":12: `separation_of_duty.static`", "two roles"),
        (apart("dynamic = [[\"scrape\", \"scrape\"]]"), ":12: `separation_of_duty.dynamic`", "twice"),
        (
            apart("dynamic = [[\"scrape\", \"trian\"]]"),
            ":12: `separation_of_duty.dynamic`",
            "no rule gives the role `trian`",
        ),
        (
            apart("static = [[\"scrape\", \"train\"]]\ndynamic = [[\"train\", \"scrape\"]]"),
            ":13: `separation_of_duty.dynamic`",
            "`static` keeps them apart",
        ),
    ] {
        let (problems, _) = read(&text);
        let found = problems
            .iter()
            .map(ToString::to_string)
            .any(|said| said.contains(&format!("roles.toml{place}")) && said.contains(remedy));
        assert!(found, "nothing of {place} and `{remedy}` for\n{text}\nin\n{problems:?}");
    }
}

#[test]
fn a_rule_without_effect_is_warned_of() {
    let plain = rule("claim = \"a\"\nvalue = \"b\"");
    let wide = rule("claim = \"ip\"\ncidr = \"10.0.0.0/8\"");
    let long = |prefix: &str| rule(&format!("claim = \"r\"\nprefix = \"{prefix}\""));
    for (text, place, remedy) in [
        (plain.repeat(2), ":7: `rule[1].role`", "`rule[0]` gives `scrape`"),
        (format!("{plain}{}", plain.replace('*', "corp")), ":7: `rule[1].role`", "`rule[0]` gives"),
        (format!("{}{plain}", plain.replace('*', "corp")), ":2: `rule[0].role`", "`rule[1]` gives"),
        (format!("{wide}{}", wide.replace("10.0.0.0/8", "10.7.0.0/16")), ":7: `rule[1].role`", "`rule[0]` gives"),
        (format!("{}{}", long("a"), long("ab")), ":7: `rule[1].role`", "`rule[0]` gives"),
        (plain.replace("scrape", "janitor"), ":2: `rule[0].role`", "no policy mentions the role `janitor`"),
        (
            format!("{plain}[separation_of_duty]\nstatic = [[\"scrape\", \"train\"]]\n"),
            ":7: `separation_of_duty.static`",
            "unless it is granted",
        ),
    ] {
        let (problems, warnings) = read(&text);
        assert_eq!(problems, [], "{text}");
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(place) && said[0].contains(remedy), "{text}\n{said:?}");
    }
    let more = plain.replace("scrape", "train");
    assert_eq!(read(&format!("{plain}{more}{}", long("a"))), (vec![], vec![]));
}
