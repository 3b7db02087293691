//! `wicketgate policy prove`: the shipped policies are proved; each leaky set is refuted with a request that shows the
//! leak.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Output, time::Duration};

use crate::support::{Directory, program::wicketgate};

/// The solver may share its core with the rest of the suite.
const DEADLINE: Duration = Duration::from_secs(240);

/// A copy of the shipped policies.
fn shipped() -> Directory {
    let directory = Directory::new();
    copy(&directory, "policies");
    directory
}

fn copy(directory: &Directory, name: &str) {
    std::fs::create_dir(directory.join(name)).unwrap();
    for file in ["roles.toml", "wicketgate.cedar", "wicketgate.cedarschema"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(file);
        std::fs::copy(from, directory.join(name).join(file)).unwrap();
    }
}

/// What `prove` says of the directory, and how it ends.
async fn prove(directory: &Directory, more: &[&str]) -> (Option<i32>, String, String) {
    let policies = directory.join("policies");
    let arguments = [&["policy", "prove", "--policies", policies.to_str().unwrap()], more].concat();
    told(output(wicketgate(&arguments)).await)
}

async fn output(mut command: tokio::process::Command) -> Output {
    tokio::time::timeout(DEADLINE, command.kill_on_drop(true).output()).await.expect("it does not end").unwrap()
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What is said below the line that names the statement.
fn below<'a>(said: &'a str, statement: &str) -> &'a str {
    let (_, rest) = said.split_once(statement).unwrap_or_else(|| panic!("nothing of `{statement}` in:\n{said}"));
    rest.split("\nproved ").next().unwrap().split("\nNOT PROVED ").next().unwrap()
}

/// A policy beside the shipped ones breaks this statement, and the request shown says these.
async fn caught(leak: &str, statement: &str, shown: &[&str]) {
    let directory = shipped();
    directory.write("policies/leak.cedar", format!("@id(\"leak\")\n{leak}\n"));
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!(code, Some(1), "{leak}\n{said}{errors}");
    let example = below(&said, &format!("NOT PROVED {statement}"));
    for part in shown {
        assert!(example.contains(part), "{leak}: no `{part}` in:\n{example}");
    }
    assert!(!said.contains("CAUTION"), "{said}");
}

const APART: &str = "no principal may both `ingest` and `infer`";

#[tokio::test]
async fn the_shipped_policies_are_proved() {
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/policies");
    let (code, said, errors) = told(output(wicketgate(&["policy", "prove", "--policies", policies])).await);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.lines().count() >= 6 && said.lines().all(|line| line.starts_with("proved ")), "{said}");
    assert!(said.contains(APART), "{said}");
    assert_eq!(errors, "");
}

#[tokio::test]
async fn an_ingest_role_with_a_broad_permit_is_caught() {
    let leak = "permit (principal in Role::\"ingest\", action, resource) when { context.method == \"POST\" };";
    caught(leak, APART, &["roles      `ingest`", "method: \"POST\"", "by `leak`", "leak.cedar"]).await;
}

#[tokio::test]
async fn a_leak_through_one_model_and_network_is_caught() {
    let leak = "permit (principal, action == Action::\"PredictionService.Predict\", resource is Model) when {
        resource has version && resource.version like \"2*\" && context.peer.isInRange(ip(\"10.0.0.0/8\")) &&
        context has certificate && context.certificate.dns_names.contains(\"a.test\") };";
    let shown = ["PredictionService.Predict", "Model::", "version: \"2", "ip(\"10.", "a.test", "by `leak`"];
    caught(leak, APART, &shown).await;
}

#[tokio::test]
async fn a_third_role_with_both_permits_is_caught() {
    let leak = "permit (principal in Role::\"operator\", action in [Action::\"infer\", Action::\"ingest\"], resource);";
    caught(leak, APART, &["roles      `operator`", "request 1", "request 2", "by `leak`"]).await;
}

#[tokio::test]
async fn a_leak_by_the_issuer_without_any_role_is_caught() {
    let leak = "permit (principal, action in Action::\"infer\", resource) when { principal.issuer == \"corp\" };";
    caught(leak, APART, &["issuer: \"corp\"", "roles      `ingest`"]).await;
}

#[tokio::test]
async fn dynamic_separation_is_proved() {
    let directory = shipped();
    let roles = std::fs::read_to_string(directory.join("policies/roles.toml")).unwrap();
    let (rules, _) = roles.split_once("[separation_of_duty]").unwrap();
    directory
        .write("policies/roles.toml", format!("{rules}[separation_of_duty]\ndynamic = [[\"ingest\", \"infer\"]]\n"));
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    directory.write("policies/roles.toml", rules);
    let (code, said, _) = prove(&directory, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(below(&said, APART).contains("roles      `infer`, `ingest`"), "{said}");
}

#[tokio::test]
async fn statements_of_a_file_are_proved_or_refuted() {
    let directory = shipped();
    copy(&directory, "before");
    copy(&directory, "same");
    // an overflow is an error, and where any policy is one the gate denies
    let fails = "permit (principal, action == Action::\"Exporter.Scrape\", resource) when { context has size && \
                 context.size + 1 > 0 && false };";
    directory.write("policies/more.cedar", format!("@id(\"fails\")\n{fails}"));
    directory
        .write("before/more.cedar", "@id(\"extra\")\npermit (principal, action == Action::\"Gate.Home\", resource);");
    let scrapes = "principal in Role::\"scrape\" && action == Action::\"Exporter.Scrape\"";
    let proofs = format!(
        "[[never]]\nname = \"scrapers administer\"\nwhen = 'principal in Role::\"scrape\" && action in Action::\"administer\"'
[[never]]\nname = \"scrapers alone do not\"\nwhen = 'principal in Role::\"scrape\" && action in Action::\"administer\" && \
         !(principal in Role::\"administer\")'
[[always]]\nname = \"scrapes\"\nwhen = '{scrapes}'
[[always]]\nname = \"scrapes small ones\"\nwhen = '{scrapes} && context has size && context.size < 9'
[[separation]]\nname = \"train and scrape\"\ngroups = [\"train\", \"scrape\"]
[[equivalent]]\nname = \"as before\"\ndirectory = \"../before\"
[[at_most]]\nname = \"no more than before\"\ndirectory = \"../before\"
[[equivalent]]\nname = \"the same\"\ndirectory = \"../same\"\n"
    );
    directory.write("policies/proofs.toml", proofs);
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!(code, Some(1), "{said}{errors}");
    for proved in ["scrapers alone do not", "scrapes small ones", "no more than before", APART] {
        assert!(said.contains(&format!("proved {proved} (")), "{proved}:\n{said}");
    }
    for (broken, shown) in [
        ("scrapers administer", "roles      `administer`, `scrape`"),
        ("scrapes\n", "size: 9223372036854775807"),
        ("scrapes\n", "denied     since a policy fails"),
        ("train and scrape", "roles      `scrape`, `train`"),
        ("as before", "denied     in these policies, since a policy fails"),
        ("the same", "allowed    in `../same`, by `scrape`"),
    ] {
        let example = below(&said, &format!("NOT PROVED {broken}"));
        assert!(example.contains(shown), "{broken}: no `{shown}` in:\n{example}");
    }
    assert!(errors.contains("5 of 11 are not proved") && !said.contains("CAUTION"), "{errors}{said}");
}

#[tokio::test]
async fn without_a_solver_prove_names_the_package() {
    let directory = shipped();
    let (code, said, errors) = prove(&directory, &["--solver", "/nonexistent/cvc5"]).await;
    assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("install the Debian package cvc5") && errors.contains("/nonexistent/cvc5"), "{errors}");
    // by the variable too, and one that is none
    for (solver, said) in [("/nonexistent/cvc5", "install the Debian package cvc5"), ("/bin/true", "does not work")] {
        let policies = directory.join("policies");
        let mut command = wicketgate(&["policy", "prove", "--policies", policies.to_str().unwrap()]);
        command.env("CVC5", solver);
        let (code, _, errors) = told(output(command).await);
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
}

#[tokio::test]
async fn an_unknown_solver_result_is_no_proof() {
    let directory = shipped();
    // answers the first question, which asks whether it works, and knows nothing after
    let unknowing =
        "#!/bin/sh\necho sat\nwhile read -r line; do case \"$line\" in *check-sat*) echo unknown;; esac; done\n";
    directory.write("solver", unknowing);
    let solver = directory.join("solver");
    std::fs::set_permissions(&solver, PermissionsExt::from_mode(0o755)).unwrap();
    let (code, said, errors) = prove(&directory, &["--solver", solver.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}{errors}");
    assert!(said.contains(&format!("UNDECIDED {APART}")) && !said.contains(&format!("proved {APART}")), "{said}");
}

#[tokio::test]
async fn inconsistent_statements_are_reported_with_their_line() {
    let directory = shipped();
    let mut proofs = String::new();
    let mut expected = Vec::new();
    for (statement, line, key, remedy) in [
        ("[[never]]\nname = \"a\"\n", 1, "when", "missing"),
        ("[[never]]\nname = \"a\"\nwhen = 'principal is'\n", 3, "when", "no Cedar expression"),
        ("[[never]]\nname = \"a\"\nwhen = 'context.nothing'\n", 3, "when", "does not fit the schema"),
        (
            "[[always]]\nname = \"a\"\nwhen = 'action == Action::\"Gate.Home\" && action in Action::\"infer\"'",
            3,
            "when",
            "",
        ),
        ("[[separation]]\nname = \"a\"\ngroups = [\"ingest\", \"fly\"]\n", 3, "groups", "no action of the schema"),
        ("[[separation]]\nname = \"a\"\ngroups = [\"ingest\"]\n", 3, "groups", "two groups"),
        ("[[at_most]]\nname = \"a\"\ndirectory = \"../nowhere\"\n", 3, "directory", "nowhere"),
        ("[[nevr]]\nname = \"a\"\n", 1, "nevr", "known here: never, always, separation, equivalent, at_most"),
        ("\n[[never]]\nwhen = 'action in Action::\"infer\"'\n", 2, "name", "missing"),
        ("[[never]]\nname = \"a\"\nwhen = 'context.tls'\nif = 1\n", 4, "if", "unknown key"),
    ] {
        expected.push((proofs.lines().count() + line, key, remedy));
        proofs += &format!("{}\n", statement.trim_end());
    }
    directory.write("policies/proofs.toml", proofs);
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
    for (line, key, remedy) in expected {
        let place = format!("proofs.toml:{line}:");
        let told = errors.lines().any(|l| l.contains(&place) && l.contains(key) && l.contains(remedy));
        assert!(told, "nothing at {place} of `{key}` and `{remedy}` in:\n{errors}");
    }
}

#[tokio::test]
async fn a_schema_that_moves_an_action_out_of_its_group_is_refused() {
    let directory = shipped();
    let schema = std::fs::read_to_string(directory.join("policies/wicketgate.cedarschema")).unwrap();
    let schema = schema.replace(
        "action \"PredictionService.Predict\" in [infer]",
        "action \"PredictionService.Predict\" in [observe]",
    );
    directory.write("policies/wicketgate.cedarschema", schema);
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("PredictionService.Predict") && errors.contains("Action::\"infer\""), "{errors}");
}

#[tokio::test]
async fn a_schema_that_differs_from_the_gates_types_is_refused() {
    // to such a schema the policy never permits; the gate leaves out the size of what streams
    let leak = "@id(\"leak\")\npermit (principal in Role::\"ingest\", action in Action::\"infer\", resource) \
                unless { context has size };\n";
    let directory = shipped();
    directory.write("policies/leak.cedar", leak);
    let file = directory.join("policies/wicketgate.cedarschema");
    let schema = std::fs::read_to_string(&file).unwrap();
    directory.write("policies/wicketgate.cedarschema", schema.replace("size?: Long", "size: Long"));
    let (code, said, errors) = prove(&directory, &[]).await;
    assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("wicketgate.cedarschema") && errors.contains("take the shipped schema"), "{errors}");
}
