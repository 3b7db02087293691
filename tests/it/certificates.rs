//! Client certificates: which names are principals, which handshakes fail, and when an open connection is refused.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    refusals::{is_refusal, refused, seen},
    support::{
        Gate, Harness,
        call::Call,
        clients::{CertificateAuthority, ClientCertificate, Draft, Line, handshake_fails},
        eventually,
        harness::PAGE,
        program::run,
    },
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const NODE: &str = "spiffe://example.org/ns/prod/sa/node";

/// `[[listen]]` with these keys in its `tls` besides certificate and key.
pub(crate) fn listen(clients: &str) -> String {
    format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"certs/gate.pem\", key = \"certs/gate.key\", {clients} }}"
    )
}

const OPTIONAL: &str = "client_certificates = \"optional\", client_ca = \"clients.pem\"";
const REQUIRED: &str = "client_certificates = \"required\", client_ca = \"clients.pem\"";
const WITH_CRL: &str =
    "client_certificates = \"optional\", client_ca = \"clients.pem\", client_crls = [\"clients.crl\"]";

const RULES: &str = "
[[certificate]]
name = \"mesh\"
spiffe = \"spiffe://example.org/ns/prod/*\"

[[certificate]]
name = \"hosts\"
dns = \"*.exporters.example.org\"
";

/// A gate that accepts client certificates of this authority; those of `mesh` and `hosts` may scrape.
async fn harness(authority: &CertificateAuthority, clients: &str) -> Harness {
    let harness = Harness::new().await.section("listen", listen(clients)).more("issuer", RULES);
    authority.write(&harness.directory, "clients.pem");
    authority.revoke(&harness.directory, "clients.crl", &[], 3600);
    let roles = std::fs::read_to_string(harness.directory.join("policies/roles.toml")).unwrap();
    let rule = |issuer: &str, claim: &str, value: &str| {
        format!("\n[[rule]]\nrole = \"scrape\"\nissuers = [\"{issuer}\"]\nclaim = \"{claim}\"\nvalue = \"{value}\"\n")
    };
    let rules = rule("mesh", "spiffe_id", NODE) + &rule("hosts", "dns_names", "a.exporters.example.org");
    harness.directory.write("policies/roles.toml", rules + &roles);
    harness
}

fn room(gate: &Gate, shown: &ClientCertificate) -> Call {
    Call::new(shown.door(gate, b"http/1.1"), Method::GET, PROTECTED_PATH)
}

#[tokio::test]
async fn a_certificate_alone_is_a_principal() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE));
    let host = authority.issue(Draft::new().dns("other.example.org").dns("a.exporters.example.org"));
    for (shown, name, issuer) in
        [(&node, format!("mesh:{NODE}"), "mesh"), (&host, "hosts:a.exporters.example.org".into(), "hosts")]
    {
        let url = format!("https://localhost:{}{PROTECTED_PATH}", gate.address().port());
        let http2 = Call::new(shown.door(&gate, b"h2"), Method::GET, &url).http2();
        for call in [room(&gate, shown), http2] {
            let answer = call.send().await;
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE), "{answer:?}");
            let record = gate.record(&answer.id()).await;
            assert_eq!(record["principal"], name.as_str(), "{record}");
            assert_eq!(record["issuer"], issuer, "{record}");
            assert_eq!(record["roles"], json!(["scrape"]), "{record}");
        }
    }
    // authentication does not imply authorization
    let other = authority.issue(Draft::spiffe("spiffe://example.org/ns/prod/sa/other"));
    let (_, record) = refused(&gate, room(&gate, &other), 403, "not_permitted").await;
    assert_eq!(record["principal"], "mesh:spiffe://example.org/ns/prod/sa/other", "{record}");
}

#[tokio::test]
async fn a_certificate_without_a_matching_section_is_refused() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    for (draft, reason) in [
        (Draft::spiffe("spiffe://example.org/ns/dev/sa/node"), "certificate_unknown"),
        (Draft::spiffe("spiffe://elsewhere.example/ns/prod/sa/node"), "certificate_unknown"),
        // an X.509-SVID has one URI name
        (Draft::spiffe(NODE).uri("spiffe://example.org/ns/prod/sa/other"), "certificate_unknown"),
        (Draft::new().dns("a.b.exporters.example.org"), "certificate_unknown"),
        (Draft::new().dns("a.Exporters.example.org"), "certificate_unknown"),
        (Draft::new().dns("*.exporters.example.org"), "certificate_unknown"),
        (Draft::new(), "certificate_unknown"),
        // names that a careless reader would cut or trim
        (Draft::new().dns("a.exporters.example.org\0.evil.example"), "certificate_odd"),
        (Draft::spiffe("spiffe://example.org/ns/prod/sa/node\0/evil"), "certificate_odd"),
        (Draft::spiffe("spiffe://example.org/ns/prod/sa/node\n"), "certificate_odd"),
        (Draft::spiffe(NODE).dns("a.exporters.example.org "), "certificate_odd"),
    ] {
        let shown = authority.issue(draft);
        let (answer, record) = refused(&gate, room(&gate, &shown), 401, reason).await;
        assert_eq!(record["principal"], Value::Null, "{record}");
        assert!(!answer.header("www-authenticate").contains("error="), "{answer:?}");
    }
    // without a certificate a token is asked for, and a certificate is named as another way
    let (answer, _) = refused(&gate, gate.get(PROTECTED_PATH), 401, "no_token").await;
    assert!(answer.text().contains("certificate"), "{answer:?}");
}

#[tokio::test]
async fn an_unverifiable_certificate_fails_the_handshake() {
    let authority = CertificateAuthority::new();
    let other = CertificateAuthority::new();
    let revoked = authority.issue(Draft::spiffe(NODE));
    let bad = [
        ("of another CA", other.issue(Draft::spiffe(NODE))),
        ("self-signed", Draft::spiffe(NODE).self_signed()),
        ("expired", authority.issue(Draft::spiffe(NODE).ends(-10))),
        ("revoked", revoked),
    ];
    let good = authority.issue(Draft::spiffe(NODE));
    let gate = harness(&authority, WITH_CRL).await;
    authority.revoke(&gate.directory, "clients.crl", &[&bad[3].1], 3600);
    let gate = gate.start().await;
    for alpn in [&b"http/1.1"[..], b"h2"] {
        for (what, shown) in &bad {
            assert!(handshake_fails(&shown.door(&gate, alpn)).await, "{what}");
        }
        assert!(!handshake_fails(&good.door(&gate, alpn)).await);
        // one without is not
        assert!(!handshake_fails(&gate.door(0, alpn)).await);
    }
    assert!(gate.app.requests() <= 2, "a refused client reached the upstream");
}

#[tokio::test]
async fn a_required_certificate_cannot_be_left_out() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, REQUIRED).await.start().await;
    assert!(handshake_fails(&gate.door(0, b"http/1.1")).await);
    let node = authority.issue(Draft::spiffe(NODE));
    assert_eq!(room(&gate, &node).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_expired_or_uncovering_crl_refuses() {
    let authority = CertificateAuthority::new();
    let other = CertificateAuthority::new();
    let node = authority.issue(Draft::spiffe(NODE));
    // past its nextUpdate; of another CA
    for list in [(&authority, -10), (&other, 3600)] {
        let harness = harness(&authority, WITH_CRL).await;
        list.0.revoke(&harness.directory, "clients.crl", &[], list.1);
        let gate = harness.start().await;
        assert!(handshake_fails(&node.door(&gate, b"http/1.1")).await);
    }
}

#[tokio::test]
async fn a_token_beside_a_certificate_is_the_identity() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE));
    let answer = room(&gate, &node).bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["principal"], "corp:tester");
    // and a bad token is not saved by a good certificate
    refused(&gate, room(&gate, &node).bearer("nonsense"), 401, "token_malformed").await;
    let infer = gate.token("infer");
    refused(&gate, room(&gate, &node).bearer(&infer), 403, "not_permitted").await;
}

#[tokio::test]
async fn a_certificate_without_a_verified_chain_is_no_principal() {
    let harness = Harness::new().await.section("listen", listen("client_certificates = \"any\""));
    let gate = harness.start().await;
    let authority = CertificateAuthority::new();
    for shown in [Draft::spiffe(NODE).self_signed(), authority.issue(Draft::spiffe(NODE))] {
        refused(&gate, room(&gate, &shown), 401, "no_token").await;
        let answer = room(&gate, &shown).bearer(&gate.token("scrape")).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

/// Waits until a request on an open connection is refused, and holds the gate to a whole refusal.
async fn is_refused_now(gate: &Gate, line: &mut Line, headers: &[(&str, &str)], reason: &str) {
    let line = tokio::sync::Mutex::new(line);
    let answer = eventually(reason, || async {
        let answer = line.lock().await.get(PROTECTED_PATH, headers).await.unwrap();
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    is_refusal(gate, &answer, 401, reason).await;
    let before = seen(gate);
    assert_eq!(line.lock().await.get(PROTECTED_PATH, headers).await.unwrap().status, StatusCode::UNAUTHORIZED);
    assert_eq!(seen(gate), before, "an upstream saw a refused request");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_open_connections() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, WITH_CRL).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE));
    let other = authority.issue(Draft::spiffe(NODE));
    let mut lines = Vec::new();
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let mut line = Line::open(&node.door(&gate, alpn)).await.unwrap();
        assert_eq!(line.get(PROTECTED_PATH, &[]).await.unwrap().status, StatusCode::OK);
        lines.push(line);
    }
    let mut innocent = Line::open(&other.door(&gate, b"h2")).await.unwrap();
    authority.revoke(&gate.directory, "clients.crl", &[&node], 3600);
    is_refused_now(&gate, &mut lines[0], &[], "certificate_distrusted").await;
    is_refused_now(&gate, &mut lines[1], &[], "certificate_distrusted").await;
    // a token does not help: the connection is not what it was
    let token = format!("Bearer {}", gate.token("scrape"));
    let answer = lines[1].get(PROTECTED_PATH, &[("authorization", &token)]).await.unwrap();
    is_refusal(&gate, &answer, 401, "certificate_distrusted").await;
    assert!(handshake_fails(&node.door(&gate, b"http/1.1")).await);
    assert_eq!(innocent.get(PROTECTED_PATH, &[]).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_removed_ca_is_refused_on_open_connections() {
    let authority = CertificateAuthority::new();
    let next = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE));
    let mut line = Line::open(&node.door(&gate, b"http/1.1")).await.unwrap();
    assert_eq!(line.get(PROTECTED_PATH, &[]).await.unwrap().status, StatusCode::OK);
    next.write(&gate.directory, "clients.pem");
    is_refused_now(&gate, &mut line, &[], "certificate_distrusted").await;
    assert_eq!(room(&gate, &next.issue(Draft::spiffe(NODE))).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_open_connections() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE).ends(4));
    let mut line = Line::open(&node.door(&gate, b"h2")).await.unwrap();
    assert_eq!(line.get(PROTECTED_PATH, &[]).await.unwrap().status, StatusCode::OK);
    is_refused_now(&gate, &mut line, &[], "certificate_expired").await;
}

#[tokio::test]
async fn a_new_certificate_requirement_applies_to_open_connections() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let token = format!("Bearer {}", gate.token("scrape"));
    let mut line = Line::open(&gate.door(0, b"http/1.1")).await.unwrap();
    assert_eq!(line.get(PROTECTED_PATH, &[("authorization", &token)]).await.unwrap().status, StatusCode::OK);
    let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    gate.directory.write("wicketgate.toml", config.replace("\"optional\"", "\"required\""));
    is_refused_now(&gate, &mut line, &[("authorization", &token)], "certificate_missing").await;
}

#[tokio::test]
async fn tls_resumption_is_off_if_certificates_are_requested() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, OPTIONAL).await.start().await;
    let door = authority.issue(Draft::spiffe(NODE)).door(&gate, b"http/1.1");
    for _ in 0..3 {
        let mut line = Line::open(&door).await.unwrap();
        // the session's tickets come with the first answer
        assert_eq!(line.get(PROTECTED_PATH, &[]).await.unwrap().status, StatusCode::OK);
        assert!(line.whole, "a session was resumed, and its certificate not looked at");
    }
}

#[tokio::test]
async fn curl_authenticates_with_its_certificate() {
    let authority = CertificateAuthority::new();
    let gate = harness(&authority, REQUIRED).await.start().await;
    let node = authority.issue(Draft::spiffe(NODE));
    gate.directory.write("node.pem", &node.pem);
    gate.directory.write("node.key", &node.key_pem);
    let url = format!("https://localhost:{}{PROTECTED_PATH}", gate.address().port());
    let curl = |arguments: &'static [&'static str]| {
        let mut command = tokio::process::Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--cacert", "ca.pem"]).args(arguments).arg(&url);
        command.current_dir(gate.directory.path()).kill_on_drop(true);
        async move {
            command.output().await.expect("curl is not installed: run `tests/run`, which installs the suite's peers")
        }
    };
    for version in [
        &["--cert", "node.pem", "--key", "node.key", "--http1.1"][..],
        &["--cert", "node.pem", "--key", "node.key", "--http2"],
    ] {
        let output = curl(version).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), PAGE);
    }
    assert!(!curl(&[]).await.status.success(), "curl comes in without a certificate");
}

#[tokio::test]
async fn a_setting_without_effect_is_a_problem_with_its_remedy() {
    let authority = CertificateAuthority::new();
    for (from, to, key, remedy) in [
        (OPTIONAL, "client_certificates = \"optional\"", "tls.client_ca", "client_ca = "),
        (OPTIONAL, "client_ca = \"clients.pem\"", "tls.client_certificates", "\"required\""),
        (
            OPTIONAL,
            "client_certificates = \"any\", client_ca = \"clients.pem\"",
            "tls.client_certificates",
            "\"optional\"",
        ),
        (OPTIONAL, "client_certificates = \"maybe\"", "tls.client_certificates", "\"any\""),
        (OPTIONAL, "client_crls = [\"clients.crl\"]", "tls.client_crls", "client_ca"),
        ("\"clients.pem\"", "\"nothing.pem\"", "tls.client_ca", "nothing.pem"),
        ("\"clients.pem\"", "\"certs/gate.key\"", "tls.client_ca", "certs/gate.key"),
        (
            "client_ca = \"clients.pem\"",
            "client_ca = \"clients.pem\", client_crls = [\"certs/gate.pem\"]",
            "tls.client_crls",
            "certs/gate.pem",
        ),
        (OPTIONAL, "client_certificates = \"any\"", "certificate", "client_ca"),
        ("name = \"mesh\"", "name = \"corp\"", "certificate[0].name", "corp"),
        ("name = \"hosts\"", "name = \"mesh\"", "certificate[1].name", "mesh"),
        ("name = \"hosts\"", "name = \"wicketgate\"", "certificate[1].name", "own name"),
        ("spiffe = \"spiffe://example.org/ns/prod/*\"", "", "certificate[0].spiffe", "dns = "),
        ("ns/prod/*", "ns/*/node", "certificate[0].spiffe", "spiffe://example.org"),
        ("spiffe://example.org", "spiffe://*", "certificate[0].spiffe", "spiffe://example.org"),
        ("\"*.exporters.example.org\"", "\"*\"", "certificate[1].dns", "*.example.org"),
        ("dns = ", "spiffe = \"spiffe://a/b\"\ndns = ", "certificate[1].dns", "not both"),
    ] {
        let harness = harness(&authority, OPTIONAL).await;
        let config = harness.config();
        assert!(config.contains(from), "{from}");
        harness.directory.write("wicketgate.toml", config.replacen(from, to, 1));
        let file = harness.directory.join("wicketgate.toml");
        let output = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{to}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let told = said.lines().any(|line| line.contains(&format!("{key}`")) && line.contains(remedy));
        assert!(told, "`{key}` with {remedy} is missing for {to}:\n{said}");
    }
}
