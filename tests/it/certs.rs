//! `wicketgate certs`: what `init` makes is served and trusted, overwrites nothing, and `ls` finds what does not fit.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::process::Command;

use crate::support::{Directory, Harness, eventually, harness::PAGE, program::run};

/// Makes a CA and a certificate in `{directory}/certs`.
async fn init(directory: &Directory) -> Output {
    let certs = directory.join("certs");
    run(&["certs", "init", "--dir", certs.to_str().unwrap(), "--name", "localhost", "--name", "127.0.0.1"]).await
}

async fn list(directory: &Path) -> (Option<i32>, String) {
    let output = run(&["certs", "ls", "--dir", directory.to_str().unwrap()]).await;
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_gate_serves_what_init_made_and_replaced_files_without_a_restart() {
    let harness = Harness::new().await.section("listen", "[[listen]]\naddress = \"127.0.0.1:0\"");
    std::fs::remove_dir_all(harness.directory.join("certs")).unwrap();
    let made = init(&harness.directory).await;
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stdout).contains("ca.pem"), "{made:?}");
    let gate = harness.start().await;
    let token = gate.token("scrape");
    let url = format!("https://localhost:{}/exporters/app/metrics", gate.address().port());
    let ca = gate.directory.join("certs/ca.pem");
    let curl = || async {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(&ca).arg(&url);
        command.args(["-H", &format!("Authorization: Bearer {token}")]).kill_on_drop(true);
        command.output().await.expect("curl is not installed: run `tests/run`, which installs the suite's peers")
    };
    let first = curl().await;
    assert!(first.status.success(), "{first:?}");
    assert_eq!(text(&first.stdout), PAGE);

    // another CA: curl trusts it only if the gate serves the new certificate
    std::fs::rename(gate.directory.join("certs"), gate.directory.join("old")).unwrap();
    assert!(init(&gate.directory).await.status.success());
    eventually("curl to trust the gate by the new CA", || async { curl().await.status.success().then_some(()) }).await;
}

#[tokio::test]
async fn init_overwrites_nothing_and_keys_are_for_their_owner_only() {
    let directory = Directory::new();
    assert!(init(&directory).await.status.success());
    let certs = directory.join("certs");
    let mode = |name: &str| std::fs::metadata(certs.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("ca.key"), mode("gate.key")], [0o600, 0o600]);
    let before = std::fs::read(certs.join("gate.pem")).unwrap();
    std::fs::remove_file(certs.join("ca.key")).unwrap();

    let again = init(&directory).await;
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(text(&again.stderr).contains("ca.pem") && text(&again.stderr).contains("nothing was written"), "{again:?}");
    assert_eq!(std::fs::read(certs.join("gate.pem")).unwrap(), before);
    assert!(!certs.join("ca.key").exists(), "a file of an attempt that failed stays");
}

#[tokio::test]
async fn init_refuses_what_is_no_host() {
    let directory = Directory::new();
    for name in ["https://gate.example.com", "two words", ""] {
        let output = run(&["certs", "init", "--dir", directory.join("certs").to_str().unwrap(), "--name", name]).await;
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
        assert!(!directory.join("certs").exists(), "{name}");
    }
}

#[tokio::test]
async fn ls_shows_what_fits() {
    let directory = Directory::new();
    init(&directory).await;
    let (code, output) = list(&directory.join("certs")).await;
    assert_eq!(code, Some(0), "{output}");
    for part in ["localhost, 127.0.0.1", "days left", "gate.key matches", "ca.key matches", "ca.pem accept it"] {
        assert!(output.contains(part), "no {part} in\n{output}");
    }
    // the same by a configuration that names no file
    directory.write("wicketgate.toml", "[[listen]]\naddress = \"127.0.0.1:8443\"\n");
    let config = directory.join("wicketgate.toml");
    let output = run(&["certs", "ls", "--config", config.to_str().unwrap()]).await;
    assert!(output.status.success() && text(&output.stdout).contains("gate.key matches"), "{output:?}");
}

#[tokio::test]
async fn ls_names_an_expired_certificate_and_a_key_that_does_not_fit() {
    let directory = Directory::new();
    init(&directory).await;
    let certs = directory.join("certs");
    std::fs::write(certs.join("gate.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let (code, output) = list(&certs).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("gate.key` is not the key of"), "{output}");

    let mut old = CertificateParams::new(vec!["old.example.com".into()]).unwrap();
    old.not_before = date_time_ymd(2020, 1, 1);
    old.not_after = date_time_ymd(2021, 1, 1);
    let old = old.self_signed(&KeyPair::generate().unwrap()).unwrap();
    std::fs::write(certs.join("old.pem"), old.pem()).unwrap();
    let (code, output) = list(&certs).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("old.pem` has expired on 2021-01-01"), "{output}");
}
