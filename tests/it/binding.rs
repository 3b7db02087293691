//! Sender-constrained tokens: bound to a client certificate (RFC 8705) or to a DPoP key (RFC 9449).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    certificates::listen,
    refusals::{refused, seen},
    support::{
        Answer, Gate, Harness,
        call::{Call, Connector},
        clients::{CertificateAuthority, Draft},
        eventually,
        harness::PAGE,
        issuer::Key,
        peers::{Client, OidcProvider, OidcSettings},
        program::run,
        proof::{Prover, URL},
    },
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";

/// A gate that knows its own URL, with these lines in its `[gate]` besides.
async fn harness(more: &str) -> Harness {
    Harness::new().await.more("gate", format!("url = \"{URL}\"\n{more}"))
}

/// GET of the exporter's page with a token in the DPoP scheme and these proofs.
fn shown(gate: &Gate, token: &str, proofs: &[&str]) -> Call {
    proofs.iter().fold(gate.get(PROTECTED_PATH).header("authorization", &format!("DPoP {token}")), |call, proof| {
        call.header("dpop", proof)
    })
}

fn challenges(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_is_accepted_on_its_connections_only() {
    let authority = CertificateAuthority::new();
    let own = authority.issue(Draft::new());
    let other = authority.issue(Draft::new());
    let alone = Draft::new().self_signed();
    let stranger = Draft::new().self_signed();
    let verified = "client_certificates = \"optional\", client_ca = \"clients.pem\"";
    for (clients, own, other) in [(verified, &own, &other), ("client_certificates = \"any\"", &alone, &stranger)] {
        let harness = Harness::new().await.section("listen", listen(clients));
        authority.write(&harness.directory, "clients.pem");
        let gate = harness.start().await;
        let token = gate.token_builder("scrape").claim("cnf", json!({"x5t#S256": own.thumbprint()})).mint();
        let room = |door| Call::new(door, Method::GET, PROTECTED_PATH).bearer(&token);
        let url = format!("https://localhost:{}{PROTECTED_PATH}", gate.address().port());
        let http2 = |door| Call::new(door, Method::GET, &url).http2().bearer(&token);
        // the second and third time it is remembered: its signature is not looked at, its binding is
        for _ in 0..2 {
            let answer = room(own.door(&gate, b"http/1.1")).send().await;
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE), "{answer:?}");
            assert_eq!(http2(own.door(&gate, b"h2")).send().await.status, StatusCode::OK);
            refused(&gate, room(other.door(&gate, b"http/1.1")), 401, "token_binding").await;
            refused(&gate, room(gate.door(0, b"http/1.1")), 401, "token_binding").await;
            refused(&gate, http2(other.door(&gate, b"h2")), 401, "token_binding").await;
        }
    }
}

#[tokio::test]
async fn a_token_with_an_unknown_confirmation_is_refused() {
    let gate = harness("").await.start().await;
    let thumbprint = Prover::ec().thumbprint();
    for cnf in [
        json!({}),
        json!({"jwk": Key::ec("ec").jwk}),
        json!({"kid": "one"}),
        json!({"x5t": thumbprint}),
        json!({"x5c": []}),
        json!({"jku": "https://idp.example/keys"}),
        json!({"jkt": ""}),
        json!({"jkt": thumbprint, "kid": "one"}),
        json!({"osc": {}}),
    ] {
        let token = gate.token_builder("scrape").claim("cnf", cnf.clone()).mint();
        let (answer, _) = refused(&gate, gate.get(PROTECTED_PATH).bearer(&token), 401, "token_binding").await;
        assert!(challenges(&answer)[0].contains("invalid_token"), "{cnf}: {answer:?}");
    }
    for cnf in [json!([]), json!("jkt"), json!(true), json!({"jkt": 1})] {
        let token = gate.token_builder("scrape").claim("cnf", cnf).mint();
        refused(&gate, gate.get(PROTECTED_PATH).bearer(&token), 401, "token_claims").await;
    }
}

#[tokio::test]
async fn a_dpop_bound_token_needs_a_proof_for_each_request() {
    let gate = harness("").await.start().await;
    for prover in [Prover::ec(), Prover::ed(), Prover::rsa()] {
        let token = prover.token(&gate, "scrape");
        // remembered the second time, and still a proof is needed
        for _ in 0..2 {
            let proof = prover.proof(PROTECTED_PATH, &token).sign();
            let answer = shown(&gate, &token, &[&proof]).send().await;
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE), "{answer:?}");
            let at_upstream = gate.app.last();
            assert_eq!((at_upstream.header("dpop"), at_upstream.header("authorization")), ("", ""), "{at_upstream:?}");
            assert_eq!(gate.record(&answer.id()).await["principal"], "corp:tester");
            refused(&gate, shown(&gate, &token, &[]), 401, "dpop_missing").await;
            refused(&gate, shown(&gate, &token, &[&proof]), 401, "dpop_replayed").await;
        }
        let url = format!("https://localhost:{}{PROTECTED_PATH}?a=b", gate.address().port());
        let call = Call::new(gate.door(0, b"h2"), Method::GET, &url).http2();
        let proof = prover.proof(PROTECTED_PATH, &token).sign();
        let answer = call.header("authorization", &format!("dpop {token}")).header("dpop", &proof).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

/// Every proof that proves nothing, and the reason it is refused with.
#[tokio::test]
async fn an_invalid_proof_is_refused() {
    let gate = harness("").await.start().await;
    let prover = Prover::ec();
    let other = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let good = || prover.proof(PROTECTED_PATH, &token);
    let now = wicketgate::internals::clock::now().as_second();
    let another = prover.token(&gate, "scrape");
    let signed = good().sign();
    let (message, _) = signed.rsplit_once('.').unwrap();
    let cases = [
        ("dpop_malformed", "nonsense".to_owned()),
        ("dpop_malformed", "a.b.c".into()),
        ("dpop_malformed", token.clone() + "."),
        ("dpop_malformed", good().claim("padding", "x".repeat(4096)).sign()),
        ("dpop_type", good().header("typ", Value::Null).sign()),
        ("dpop_type", good().header("typ", "JWT").sign()),
        ("dpop_type", token.clone()),
        ("dpop_algorithm", good().header("alg", "none").sign()),
        ("dpop_algorithm", good().header("alg", "HS256").sign()),
        ("dpop_algorithm", good().header("alg", "ES512").sign()),
        ("dpop_algorithm", good().header("alg", Value::Null).sign()),
        ("dpop_critical", good().header("crit", json!(["exp"])).sign()),
        ("dpop_key", good().header("jwk", Value::Null).sign()),
        ("dpop_key", good().header("alg", "RS256").sign()),
        ("dpop_key", good().header("jku", "https://evil.example/keys").sign()),
        ("dpop_key", good().jwk("d", "AA").sign()),
        ("dpop_key", good().jwk("k", "AA").sign()),
        ("dpop_key", good().jwk("kty", "oct").sign()),
        ("dpop_key", good().jwk("crv", "P-384").sign()),
        ("dpop_key", good().jwk("x", "AA").sign()),
        ("dpop_signature", good().sign_by(&other.key)),
        ("dpop_signature", format!("{message}.")),
        ("dpop_signature", format!("{message}.{}", "A".repeat(86))),
        ("dpop_other_key", other.proof(PROTECTED_PATH, &token).sign()),
        ("dpop_claims", good().claim("jti", Value::Null).sign()),
        ("dpop_claims", good().claim("jti", "").sign()),
        ("dpop_claims", good().claim("htm", Value::Null).sign()),
        ("dpop_claims", good().claim("htu", Value::Null).sign()),
        ("dpop_claims", good().claim("iat", Value::Null).sign()),
        ("dpop_claims", good().claim("iat", now.to_string()).sign()),
        ("dpop_claims", good().claim("ath", Value::Null).sign()),
        ("dpop_method", good().claim("htm", "POST").sign()),
        ("dpop_method", good().claim("htm", "get").sign()),
        ("dpop_url", good().claim("htu", format!("{URL}/exporters/locked/metrics")).sign()),
        ("dpop_url", good().claim("htu", format!("https://{}{PROTECTED_PATH}", gate.address())).sign()),
        ("dpop_url", good().claim("htu", format!("http://gate.example{PROTECTED_PATH}")).sign()),
        ("dpop_url", good().claim("htu", PROTECTED_PATH).sign()),
        ("dpop_url", good().claim("htu", format!("https://evil@gate.example{PROTECTED_PATH}")).sign()),
        ("dpop_time", good().claim("iat", now - 61).sign()),
        ("dpop_time", good().claim("iat", now + 3600).sign()),
        ("dpop_token", prover.proof(PROTECTED_PATH, &another).sign()),
        ("dpop_token", good().claim("ath", token.as_str()).sign()),
    ];
    for (reason, proof) in cases {
        let (answer, record) = refused(&gate, shown(&gate, &token, &[&proof]), 401, reason).await;
        let challenges = challenges(&answer);
        assert!(
            challenges[1].starts_with("DPoP ") && challenges[1].contains("error=\"invalid_dpop_proof\""),
            "{challenges:?}"
        );
        assert!(challenges[1].contains("algs=\"ES256 ES384 EdDSA PS256 RS256\""), "{challenges:?}");
        assert!(!record.to_string().contains(&proof), "{reason}: the record holds the proof");
        assert_eq!(record["principal"], Value::Null, "{reason}: an unproven name is in the record: {record}");
    }
    refused(&gate, shown(&gate, &token, &[&signed, &good().sign()]), 401, "dpop_several").await;
    // nothing of all that has spoilt the one good proof
    assert_eq!(shown(&gate, &token, &[&signed]).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_is_accepted_in_its_own_scheme_only() {
    let gate = harness("").await.start().await;
    let prover = Prover::ec();
    let bound = prover.token(&gate, "scrape");
    let plain = gate.token("scrape");
    let proof = prover.proof(PROTECTED_PATH, &bound).sign();
    let (answer, _) = refused(&gate, gate.get(PROTECTED_PATH).bearer(&bound), 401, "token_binding").await;
    assert!(challenges(&answer)[1].contains("error=\"invalid_token\""), "{answer:?}");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&bound).header("dpop", &proof), 401, "token_binding").await;
    refused(&gate, shown(&gate, &plain, &[&prover.proof(PROTECTED_PATH, &plain).sign()]), 401, "token_binding").await;
    let both = gate
        .get(PROTECTED_PATH)
        .bearer(&bound)
        .header("authorization", &format!("DPoP {bound}"))
        .header("dpop", &proof);
    refused(&gate, both, 400, "two_identities").await;
    let answer = gate.get(PROTECTED_PATH).bearer(&plain).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn a_token_bound_twice_needs_both() {
    let authority = CertificateAuthority::new();
    let harness = harness("").await.section("listen", listen("client_certificates = \"any\""));
    let gate = harness.start().await;
    let own = authority.issue(Draft::new());
    let prover = Prover::ec();
    let cnf = json!({"jkt": prover.thumbprint(), "x5t#S256": own.thumbprint()});
    let token = gate.token_builder("scrape").claim("cnf", cnf).mint();
    let call = |door, proved: bool| {
        let call = Call::new(door, Method::GET, PROTECTED_PATH).header("authorization", &format!("DPoP {token}"));
        if proved { call.header("dpop", &prover.proof(PROTECTED_PATH, &token).sign()) } else { call }
    };
    assert_eq!(call(own.door(&gate, b"http/1.1"), true).send().await.status, StatusCode::OK);
    refused(&gate, call(own.door(&gate, b"http/1.1"), false), 401, "dpop_missing").await;
    refused(&gate, call(gate.door(0, b"http/1.1"), true), 401, "token_binding").await;
}

#[tokio::test]
async fn a_used_proof_stays_used_over_a_reload() {
    let gate = harness("").await.start().await;
    let prover = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let proof = prover.proof(PROTECTED_PATH, &token).sign();
    assert_eq!(shown(&gate, &token, &[&proof]).send().await.status, StatusCode::OK);
    let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    // another way in, so that all of them are made anew
    let other = "[dpop]\nnonces = \"required\"\nmax_age = \"5m\"";
    gate.directory.write("wicketgate.toml", format!("{config}\n{other}\n"));
    let nonce = eventually("the new configuration", || async {
        let answer = shown(&gate, &token, &[&prover.proof(PROTECTED_PATH, &token).sign()]).send().await;
        (answer.status == StatusCode::UNAUTHORIZED).then(|| answer.header("dpop-nonce").to_owned())
    })
    .await;
    gate.directory.write("wicketgate.toml", config);
    eventually("the old configuration", || async {
        let answer =
            shown(&gate, &token, &[&prover.proof(PROTECTED_PATH, &token).claim("nonce", "any").sign()]).send().await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(!nonce.is_empty());
    refused(&gate, shown(&gate, &token, &[&proof]), 401, "dpop_replayed").await;
}

#[tokio::test]
async fn required_nonces_must_be_issued_by_the_gate() {
    let gate = harness("\n[dpop]\nnonces = \"required\"").await.start().await;
    let prover = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let proof = || prover.proof(PROTECTED_PATH, &token);
    let mut nonce = String::new();
    for bad in [proof().sign(), proof().claim("nonce", "").sign(), proof().claim("nonce", "A".repeat(22)).sign()] {
        let (answer, _) = refused(&gate, shown(&gate, &token, &[&bad]), 401, "dpop_nonce").await;
        let challenges = challenges(&answer);
        assert!(challenges[1].contains("error=\"use_dpop_nonce\""), "{challenges:?}");
        assert!(!challenges[0].contains("error="), "{challenges:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        nonce = answer.header("dpop-nonce").to_owned();
        assert!(!nonce.is_empty(), "{answer:?}");
    }
    let good = proof().claim("nonce", nonce.as_str()).sign();
    let answer = shown(&gate, &token, &[&good]).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    // what a nonce was for is still for one request
    refused(&gate, shown(&gate, &token, &[&good]), 401, "dpop_replayed").await;
    // another process has another key
    let other = harness("\n[dpop]\nnonces = \"required\"").await.start().await;
    let token = prover.token(&other, "scrape");
    let foreign = prover.proof(PROTECTED_PATH, &token).claim("nonce", nonce).sign();
    refused(&other, shown(&other, &token, &[&foreign]), 401, "dpop_nonce").await;
}

#[tokio::test]
async fn without_a_url_proofs_are_refused_with_the_reason() {
    let gate = Harness::new().await.start().await;
    let prover = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let call = shown(&gate, &token, &[&prover.proof(PROTECTED_PATH, &token).sign()]);
    let (answer, _) = refused(&gate, call, 401, "dpop_not_configured").await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("`url`"), "{answer:?}");
    // and DPoP is not offered
    assert_eq!(challenges(&answer).len(), 1, "{answer:?}");
}

#[tokio::test]
async fn a_route_that_requires_binding_refuses_a_bearer_token() {
    let open = "[[exporter]]\nname = \"open\"\nurl = \"http://APP\"\ntoken_binding = \"optional\"";
    let authority = CertificateAuthority::new();
    let harness = harness("token_binding = \"required\"").await.keeping("kept_*");
    authority.write(&harness.directory, "clients.pem");
    let rules = "[[certificate]]\nname = \"hosts\"\ndns = \"*.example.org\"";
    let open = open.replace("APP", &harness.app.address.to_string());
    let roles = std::fs::read_to_string(harness.directory.join("policies/roles.toml")).unwrap();
    let rule = "[[rule]]\nrole = \"scrape\"\nissuers = [\"hosts\"]\nclaim = \"dns_names\"\nvalue = \"a.example.org\"\n";
    harness.directory.write("policies/roles.toml", format!("{rule}\n{roles}"));
    let clients = "client_certificates = \"optional\", client_ca = \"clients.pem\"";
    let gate = harness.section("listen", listen(clients)).more("exporter", open).more("issuer", rules).start().await;
    let plain = gate.token("scrape");
    for target in [PROTECTED_PATH, "/sd"] {
        let (answer, record) = refused(&gate, gate.get(target).bearer(&plain), 401, "token_not_bound").await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("RFC 9449"), "{answer:?}");
        assert_eq!(record["principal"], "corp:tester", "{record}");
    }
    refused(&gate, gate.write(&gate.token("ingest"), Vec::new()), 401, "token_not_bound").await;
    let predict = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
    refused(&gate, gate.post(predict).bearer(&gate.token("infer")), 401, "token_not_bound").await;

    assert_eq!(gate.get("/exporters/open/metrics").bearer(&plain).send().await.status, StatusCode::OK);
    let prover = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let answer = shown(&gate, &token, &[&prover.proof(PROTECTED_PATH, &token).sign()]).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let host = authority.issue(Draft::new().dns("a.example.org"));
    let room = || Call::new(host.door(&gate, b"http/1.1"), Method::GET, PROTECTED_PATH);
    assert_eq!(room().send().await.status, StatusCode::OK);
    let token = gate.token_builder("scrape").claim("cnf", json!({"x5t#S256": host.thumbprint()})).mint();
    assert_eq!(room().bearer(&token).send().await.status, StatusCode::OK);
    // a certificate beside a plain token does not bind it
    refused(&gate, room().bearer(&plain), 401, "token_not_bound").await;
}

#[tokio::test]
async fn binding_is_required_for_each_route() {
    let harness = harness("").await.keeping("kept_*").more("vertex", "token_binding = \"required\"");
    let exporter =
        format!("[[exporter]]\nname = \"close\"\nurl = \"{}\"\ntoken_binding = \"required\"", harness.app.url());
    let ingest = "[ingest]\ntoken_binding = \"required\"\n[[ingest.keep]]\nmetric = \"kept_*\"";
    let gate = harness.more("exporter", exporter).section("ingest", ingest).start().await;
    let plain = gate.token("scrape");
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&plain).send().await.status, StatusCode::OK);
    refused(&gate, gate.get("/exporters/close/metrics").bearer(&plain), 401, "token_not_bound").await;
    refused(&gate, gate.write(&gate.token("ingest"), Vec::new()), 401, "token_not_bound").await;
    let predict = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
    refused(&gate, gate.post(predict).bearer(&gate.token("infer")), 401, "token_not_bound").await;
}

#[tokio::test]
async fn resource_metadata_lists_the_token_bindings() {
    let metadata = |gate: &Gate| gate.get("/.well-known/oauth-protected-resource").send();
    let plain = Harness::new().await.start().await;
    let told = metadata(&plain).await.json();
    assert_eq!(told["tls_client_certificate_bound_access_tokens"], false, "{told}");
    assert!(told.get("dpop_signing_alg_values_supported").is_none(), "{told}");

    let gate = harness("token_binding = \"required\"").await.start().await;
    let told = metadata(&gate).await.json();
    assert_eq!(
        told["dpop_signing_alg_values_supported"],
        json!(["ES256", "ES384", "EdDSA", "PS256", "RS256"]),
        "{told}"
    );
    assert_eq!(told["dpop_bound_access_tokens_required"], true, "{told}");
    let (answer, _) = refused(&gate, gate.get(PROTECTED_PATH), 401, "no_token").await;
    let challenges = challenges(&answer);
    assert!(challenges[0].starts_with("Bearer realm="), "{challenges:?}");
    assert!(challenges[1].starts_with("DPoP realm=") && challenges[1].contains("algs=\"ES256 "), "{challenges:?}");
    assert!(challenges.iter().all(|c| !c.contains("error=") && c.contains("resource_metadata=")), "{challenges:?}");

    let gate = harness("").await.section("listen", listen("client_certificates = \"any\"")).start().await;
    let told = metadata(&gate).await.json();
    assert_eq!(told["tls_client_certificate_bound_access_tokens"], true, "{told}");
    assert_eq!(told["dpop_bound_access_tokens_required"], false, "{told}");
}

#[tokio::test]
async fn a_binding_that_no_client_can_meet_is_a_problem() {
    for (more, key, remedy) in [
        ("token_binding = \"required\"", "gate", "url = "),
        ("token_binding = \"always\"", "gate.token_binding", "\"required\""),
        ("[dpop]\nnonces = \"yes\"", "dpop.nonces", "\"off\""),
        ("[dpop]\nmax_age = \"10m\"", "dpop.max_age", "five minutes"),
    ] {
        let harness = Harness::new().await.more("gate", more);
        harness.directory.write("wicketgate.toml", harness.config());
        let file = harness.directory.join("wicketgate.toml");
        let output = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{more}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let told = said.lines().any(|line| line.contains(&format!("`{key}`")) && line.contains(remedy));
        assert!(told, "`{key}` with {remedy} is missing:\n{said}");
    }
}

#[tokio::test]
async fn one_proof_sent_in_parallel_is_accepted_once() {
    let gate = harness("").await.start().await;
    let prover = Prover::ec();
    let token = prover.token(&gate, "scrape");
    let proof = prover.proof(PROTECTED_PATH, &token).sign();
    let before = seen(&gate);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        calls.spawn(shown(&gate, &token, &[&proof]).send());
    }
    let answers = calls.join_all().await;
    let good = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!((good, seen(&gate).0 - before.0), (1, 1), "{answers:?}");
}

/// What a real provider binds is what the gate checks, in its JWTs and in what it answers of its opaque tokens:
/// `oidc-provider` over TLS, which knows both ways.
#[tokio::test]
async fn bound_tokens_of_oidc_provider_need_their_key() {
    let harness = harness("").await.section("listen", listen("client_certificates = \"any\""));
    let certificate = harness.directory.join("certs/gate.pem");
    let key = harness.directory.join("certs/gate.key");
    let provider = OidcSettings::new()
        .set("tls", json!({"certificate": certificate, "key": key}))
        .machine(&Client { id: "prover", secret: "a-secret-of-prover", role: "scrape" })
        .machine(&Client { id: "gate", secret: "a-secret-of-gate", role: "none" })
        .client(json!({
            "client_id": "holder", "client_secret": "a-secret-of-holder", "roles": ["scrape"],
            "grant_types": ["client_credentials"], "redirect_uris": [], "response_types": [],
            "tls_client_certificate_bound_access_tokens": true,
        }))
        .start(None)
        .await;
    let issuer = format!(
        "[[issuer]]\nname = \"real\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]\nca = \"ca.pem\"\n\
         introspection = {{ client_id = \"gate\", client_secret = {{ file = \"gate.secret\" }}, \
         subject_claim = \"client_id\" }}",
        provider.issuer
    );
    harness.directory.write("gate.secret", "a-secret-of-gate");
    let gate = harness.section("issuer", issuer).start().await;
    let own = Draft::new().self_signed();
    let prover = Prover::ec();
    let port: u16 = provider.issuer.rsplit(':').next().unwrap().parse().unwrap();
    let at_provider = |door: Connector, client: &str, resource: &str, proof: Option<String>| {
        let login = STANDARD.encode(format!("{client}:a-secret-of-{client}"));
        let door = Connector { address: ([127, 0, 0, 1], port).into(), ..door };
        let call = Call::new(door, Method::POST, "/token")
            .header("authorization", &format!("Basic {login}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("grant_type=client_credentials&resource={resource}"));
        let call = proof.iter().fold(call, |call, proof| call.header("dpop", proof));
        async move { call.send().await.json() }
    };

    for resource in [OidcProvider::RESOURCE, OidcProvider::OPAQUE_RESOURCE] {
        let proof = prover.proof("/token", "").claim("htm", "POST").claim("ath", Value::Null);
        let proof = proof.claim("htu", format!("https://127.0.0.1:{port}/token")).sign();
        let given = at_provider(gate.door(0, b"http/1.1"), "prover", resource, Some(proof)).await;
        assert_eq!(given["token_type"], "DPoP", "{given}");
        let token = given["access_token"].as_str().unwrap();
        assert_eq!(token.contains('.'), resource == OidcProvider::RESOURCE, "{token}");
        // known the second time
        for _ in 0..2 {
            let answer = shown(&gate, token, &[&prover.proof(PROTECTED_PATH, token).sign()]).send().await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            assert_eq!(gate.record(&answer.id()).await["principal"], "real:prover");
            let thief = Prover::ec();
            refused(&gate, shown(&gate, token, &[&thief.proof(PROTECTED_PATH, token).sign()]), 401, "dpop_other_key")
                .await;
            refused(&gate, gate.get(PROTECTED_PATH).bearer(token), 401, "token_binding").await;
        }

        let given = at_provider(own.door(&gate, b"http/1.1"), "holder", resource, None).await;
        let token = given["access_token"].as_str().unwrap_or_else(|| panic!("{given}"));
        let room = |door| Call::new(door, Method::GET, PROTECTED_PATH).bearer(token);
        assert_eq!(room(own.door(&gate, b"http/1.1")).send().await.status, StatusCode::OK);
        refused(&gate, room(gate.door(0, b"http/1.1")), 401, "token_binding").await;
    }
}
