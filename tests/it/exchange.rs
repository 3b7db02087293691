//! Token exchange and the gate as an issuer: an accepted token becomes a short-lived token of the gate, which is
//! accepted in turn.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gate, Harness,
    call::Call,
    clients::Draft,
    google::claims,
    issuer::Key,
    peers::{Client, OidcProvider, jose},
    proof::Prover,
    sdk::vertex_sdk,
    upstream::{self, Upstream},
};

pub(crate) const PROTECTED_PATH: &str = "/exporters/app/metrics";
pub(crate) const URL: &str = "https://gate.example";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const FORM: &str = "application/x-www-form-urlencoded";

/// A gate that issues tokens for itself and for `ledger`.
pub(crate) async fn harness() -> Harness {
    Harness::new()
        .await
        .section("gate", format!("[gate]\nurl = \"{URL}\"\nworkers = 2\ndrain = \"5s\""))
        .section("token_issuer", "[token_issuer]\nkeys = \"keys\"\naudiences = [\"ledger\"]")
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// The parameters of a good exchange for this audience.
pub(crate) fn good<'a>(token: &'a str, audience: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![("grant_type", GRANT), ("subject_token", token), ("subject_token_type", ACCESS), ("audience", audience)]
}

pub(crate) fn ask(gate: &Gate, fields: &[(&str, &str)]) -> Call {
    gate.post("/oauth2/token").header("content-type", FORM).body(form(fields))
}

/// Exchanges `token` and gives the answer's JSON.
pub(crate) async fn exchanged(gate: &Gate, token: &str, audience: &str) -> (Answer, Value) {
    let answer = ask(gate, &good(token, audience)).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    (answer, body)
}

/// The header of a token.
pub(crate) fn header(token: &str) -> Value {
    claims(&format!(".{token}"))
}

#[tokio::test]
async fn an_exchanged_token_has_the_same_access() {
    let gate = harness().await.start().await;
    let shown = gate.token("scrape");
    let (answer, given) = exchanged(&gate, &shown, URL).await;
    assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
    assert_eq!((&given["token_type"], &given["issued_token_type"]), (&"Bearer".into(), &ACCESS.into()), "{given}");
    let token = given["access_token"].as_str().unwrap();
    let claims = claims(token);
    assert_eq!((&claims["iss"], &claims["aud"]), (&URL.into(), &URL.into()), "{claims}");
    assert_eq!((&claims["sub"], &claims["roles"]), (&"corp:tester".into(), &json!(["scrape"])), "{claims}");
    let lives = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!((lives > 0 && lives <= 600, &given["expires_in"]), (true, &lives.into()), "{claims}");

    // in the audit log, before it left
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["action"], &record["resource"]), (&"Token.Exchange".into(), &URL.into()), "{record}");
    assert_eq!((&record["principal"], &record["decision"]), (&"corp:tester".into(), &"allow".into()), "{record}");
    assert_eq!((&record["roles"], &claims["jti"]), (&json!(["scrape"]), &record["id"]), "{record}");
    assert!(gate.permitted(&answer.id()), "the token left without a permit");
    assert!(!record.to_string().contains(token) && !record.to_string().contains(&shown), "{record}");

    let scraped = gate.get(PROTECTED_PATH).bearer(token).send().await;
    assert_eq!(scraped.status, 200, "{scraped:?}");
    let record = gate.record(&scraped.id()).await;
    assert_eq!((&record["principal"], &record["issuer"]), (&"corp:tester".into(), &"corp".into()), "{record}");
    assert_eq!(record["roles"], json!(["scrape"]), "{record}");
    assert!(gate.metric("wicketgate_signing_keys").await >= 1.0);
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused_at_the_gate() {
    let gate = harness().await.start().await;
    let (_, given) = exchanged(&gate, &gate.token("scrape"), "ledger").await;
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["aud"], "ledger");
    let answer = gate.get(PROTECTED_PATH).bearer(token).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &"token_audience".into()), "{answer:?}");
    // nor can it be exchanged for one that is
    let answer = ask(&gate, &good(token, URL)).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &"token_audience".into()), "{answer:?}");
}

#[tokio::test]
async fn a_token_of_the_gate_is_exchanged_without_gaining_anything() {
    let gate = harness().await.start().await;
    let now = wicketgate::internals::clock::now().as_second();
    let shown = gate.token_builder("scrape").claim("exp", now + 100).mint();
    let (_, first) = exchanged(&gate, &shown, URL).await;
    let first = first["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&first)["exp"], now + 100, "it outlives the token that it was given for");
    let (_, second) = exchanged(&gate, &first, URL).await;
    let second = claims(second["access_token"].as_str().unwrap());
    assert_eq!(second["exp"], now + 100, "{second}");
    assert_eq!((&second["sub"], &second["roles"]), (&"corp:tester".into(), &json!(["scrape"])), "{second}");
}

#[tokio::test]
async fn no_subject_becomes_a_principal_of_another_issuer() {
    let gate = harness().await.start().await;
    let sly = gate.issuer.token("idp:root", &["scrape"]).mint();
    let (_, given) = exchanged(&gate, &sly, URL).await;
    let answer = gate.get(PROTECTED_PATH).bearer(given["access_token"].as_str().unwrap()).send().await;
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["principal"], &record["issuer"]), (&"corp:idp:root".into(), &"corp".into()), "{record}");
}

#[tokio::test]
async fn the_confirmation_of_a_token_survives_its_exchange() {
    let gate = harness().await.start().await;
    let prover = Prover::ec();
    let thief = Prover::ec();
    let bound = prover.token(&gate, "scrape");
    let proof = |by: &Prover| by.proof("/oauth2/token", &bound).claim("htm", "POST").claim("ath", Value::Null).sign();
    let ask = |proof: Option<&str>| {
        proof.iter().fold(ask(&gate, &good(&bound, "ledger")), |call, proof| call.header("dpop", proof))
    };
    for (proof, reason) in [
        (None, "dpop_missing"),
        (Some(proof(&thief)), "dpop_other_key"),
        (Some(prover.proof("/oauth2/token", &bound).sign()), "dpop_method"),
        (Some(prover.proof(PROTECTED_PATH, &bound).claim("htm", "POST").sign()), "dpop_url"),
    ] {
        let answer = ask(proof.as_deref()).send().await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]),
            (400, &"invalid_dpop_proof".into()),
            "{answer:?}"
        );
        let record = gate.record(&answer.id()).await;
        assert_eq!((&record["reason"], &record["decision"]), (&reason.into(), &"deny".into()), "{record}");
        assert!(!gate.permitted(&answer.id()), "{record}");
    }
    let good = proof(&prover);
    let given = ask(Some(&good)).send().await.json();
    assert_eq!(given["token_type"], "DPoP", "{given}");
    let claims = claims(given["access_token"].as_str().unwrap());
    assert_eq!(claims["cnf"]["jkt"], prover.thumbprint(), "{claims}");
    assert_eq!(ask(Some(&good)).send().await.json()["reason"], "dpop_replayed");
}

#[tokio::test]
async fn a_certificate_bound_token_is_exchanged_on_its_connections_only() {
    let harness = harness().await.section("listen", crate::certificates::listen("client_certificates = \"any\""));
    let gate = harness.start().await;
    let own = Draft::new().self_signed();
    let bound = gate.token_builder("scrape").claim("cnf", json!({"x5t#S256": own.thumbprint()})).mint();
    let ask = |door| {
        let call = Call::new(door, Method::POST, "/oauth2/token").header("content-type", FORM);
        call.body(form(&good(&bound, "ledger"))).send()
    };
    let given = ask(own.door(&gate, b"http/1.1")).await.json();
    let claims = claims(given["access_token"].as_str().unwrap());
    assert_eq!(claims["cnf"]["x5t#S256"], own.thumbprint(), "{claims}");
    for door in [gate.door(0, b"http/1.1"), Draft::new().self_signed().door(&gate, b"http/1.1")] {
        let answer = ask(door).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &"token_binding".into()), "{answer:?}");
    }
}

/// Everything that is asked wrongly or by the wrong one: OAuth's error, the gate's reason, the form.
fn hostile(gate: &Gate, token: &str) -> Vec<(&'static str, &'static str, String)> {
    let now = wicketgate::internals::clock::now().as_second();
    let impostor = Key::rsa("rsa");
    let both = gate.issuer.token("both", &["ingest", "infer"]).mint();
    let nobody = gate.issuer.token("nobody", &[]).mint();
    let forged = gate.token_builder("scrape").signed_by(&impostor, "RS256").mint();
    let own = |key: &str| gate.token_builder("scrape").claim("iss", URL).claim("aud", URL).header("kid", key).mint();
    let late = gate.token_builder("scrape").claim("exp", now - 30).mint();
    let over = gate.token_builder("scrape").claim("exp", now - 61).mint();
    let elsewhere = gate.token_builder("scrape").claim("aud", "elsewhere").mint();
    let stranger = gate.token_builder("scrape").claim("iss", "https://stranger.example").mint();
    let unsigned = gate.token_builder("scrape").mint_unsigned();
    let early = gate.token_builder("scrape").claim("nbf", now + 300).mint();
    let all = good(token, URL);
    let without = |name: &str| all.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    let twice = |name: &'static str, value: &'static str| [all.clone(), vec![(name, value)]].concat();
    let of = |token: &str| form(&good(token, URL));
    let saml = "urn:ietf:params:oauth:token-type:saml2";
    vec![
        ("invalid_request", "parameter_missing", form(&without("grant_type"))),
        ("invalid_request", "parameter_missing", form(&without("subject_token"))),
        ("invalid_request", "parameter_missing", form(&without("subject_token_type"))),
        ("invalid_request", "parameter_missing", form(&with("subject_token", ""))),
        ("invalid_request", "one_audience", form(&without("audience"))),
        ("invalid_request", "one_audience", form(&with("resource", URL))),
        ("invalid_request", "parameter_twice", form(&twice("audience", "ledger"))),
        ("invalid_request", "parameter_twice", form(&twice("subject_token", "x"))),
        ("invalid_request", "parameter_twice", form(&twice("grant_type", GRANT))),
        ("invalid_request", "parameter_twice", format!("{}&x=1&x=2", form(&all))),
        ("unsupported_grant_type", "unsupported_grant", form(&with("grant_type", "client_credentials"))),
        ("unsupported_grant_type", "unsupported_grant", form(&with("grant_type", "Token-Exchange"))),
        ("invalid_request", "subject_token_type", form(&with("subject_token_type", saml))),
        ("invalid_request", "requested_token_type", form(&with("requested_token_type", saml))),
        ("invalid_request", "delegation_refused", form(&with("actor_token", "x"))),
        ("invalid_scope", "scope_refused", form(&with("scope", "everything"))),
        ("invalid_client", "client_refused", form(&with("client_secret", "x"))),
        ("invalid_client", "client_refused", form(&with("client_assertion", "x"))),
        ("invalid_target", "unknown_audience", form(&with("audience", "vault"))),
        ("invalid_target", "unknown_audience", form(&with("audience", "LEDGER"))),
        ("invalid_target", "unknown_audience", form(&with("audience", "https://gate.example/"))),
        ("invalid_target", "not_permitted", of(&nobody)),
        ("invalid_request", "separation_of_duty", of(&both)),
        ("invalid_request", "token_malformed", of("not-a-token")),
        ("invalid_request", "token_signature", of(&forged)),
        ("invalid_request", "token_algorithm", of(&unsigned)),
        ("invalid_request", "token_expired", of(&over)),
        ("invalid_request", "subject_at_its_end", of(&late)),
        ("invalid_request", "token_not_yet_valid", of(&early)),
        ("invalid_request", "token_audience", of(&elsewhere)),
        ("invalid_request", "token_issuer", of(&stranger)),
        ("invalid_request", "token_unknown_key", of(&own("rsa"))),
    ]
}

#[tokio::test]
async fn unsupported_exchange_parameters_are_refused() {
    let gate = harness().await.start().await;
    let token = gate.token("scrape");
    let all = good(&token, URL);
    let refused = async |answer: Answer, error: &str, reason: &str, status: u16| {
        assert_eq!(answer.status.as_u16(), status, "{reason}: {answer:?}");
        assert_eq!((answer.header("cache-control"), answer.header("content-type")), ("no-store", "application/json"));
        let body = answer.json();
        assert_eq!((&body["error"], &body["reason"]), (&error.into(), &reason.into()), "{body}");
        assert!(body["error_description"].as_str().is_some_and(|text| text.len() > 10), "{body}");
        assert!(body.get("access_token").is_none(), "{body}");
        let record = gate.record(&answer.id()).await;
        assert_eq!((&record["decision"], &record["reason"]), (&"deny".into(), &reason.into()), "{record}");
        assert!(!gate.permitted(&answer.id()), "{reason}: a refused exchange has a permit");
        assert!(!record.to_string().contains(&token), "{reason}: the record holds the token");
    };
    for (error, reason, body) in hostile(&gate, &token) {
        let answer = gate.post("/oauth2/token").header("content-type", FORM).body(body).send().await;
        refused(answer, error, reason, 400).await;
    }
    let typed = |kind: &str| gate.post("/oauth2/token").header("content-type", kind).body(form(&all));
    refused(typed("application/json").send().await, "invalid_request", "not_a_form", 400).await;
    refused(typed(FORM).header("authorization", "Basic eDp5").send().await, "invalid_client", "client_refused", 400)
        .await;
    // said to be larger than any form: refused before it is sent
    let head = format!(
        "POST /oauth2/token HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-type: {FORM}\r\n\
         content-length: {}\r\n\r\n",
        (64 << 10) + 1
    );
    let huge = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    refused(huge, "invalid_request", "body_too_large", 413).await;
    // the page takes POST alone, and the token not from the query
    assert_eq!(gate.get("/oauth2/token").send().await.status, 404);
    let query = format!("/oauth2/token?{}", form(&all));
    let answer = gate.post(&query).header("content-type", FORM).send().await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(gate.app.requests() == 0, "an upstream was touched");
}

#[tokio::test]
async fn a_gate_without_an_issue_section_has_no_issuer_pages() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    assert_eq!(ask(&gate, &good(&token, URL)).send().await.status, 404);
    for page in ["openid-configuration", "oauth-authorization-server", "jwks.json"] {
        assert_eq!(gate.get(&format!("/.well-known/{page}")).send().await.status, 404, "{page}");
    }
}

#[tokio::test]
async fn an_unreachable_issuer_is_503_at_the_exchange() {
    let harness = harness().await;
    harness.issuer.set_down(true);
    let gate = harness.start_unready().await;
    let answer = ask(&gate, &good(&gate.token("scrape"), URL)).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (503, &"temporarily_unavailable".into()));
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_token_of_the_gate_needs_its_original_issuer_configured() {
    let mut gate = harness().await.start().await;
    let (_, given) = exchanged(&gate, &gate.token("scrape"), URL).await;
    let token = given["access_token"].as_str().unwrap().to_owned();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200);
    // a restart keeps it valid: the keys are in their directory
    gate.kill_and_restart().await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200, "a restart ends tokens");

    let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    gate.directory.write("wicketgate.toml", config.replace("name = \"corp\"", "name = \"renamed\""));
    let refused = || async {
        let answer = gate.get(PROTECTED_PATH).bearer(&token).send().await;
        (answer.status == 401).then_some(answer)
    };
    let answer = crate::support::eventually("the old issuer's principal to be refused", refused).await;
    assert_eq!(answer.json()["reason"], "token_issuer", "{answer:?}");
}

#[tokio::test]
async fn check_reports_what_the_issue_section_needs() {
    let harness = Harness::new().await.section("token_issuer", "[token_issuer]\nkeys = \"keys\"");
    let output = checked(&harness, |config| config).await;
    assert!(output.contains("`token_issuer`") && output.contains("[gate]"), "{output}");
    let harness = self::harness().await;
    let url = harness.issuer.url();
    let output = checked(&harness, |config| config.replace(&url, URL)).await;
    assert!(output.contains("the gate's own URL"), "{output}");
    let output =
        checked(&harness, |config| config.replace("keys = \"keys\"", "lifetime = \"2h\"\noverlap = \"1m\"")).await;
    assert!(output.contains("lifetime") && output.contains("overlap"), "{output}");
    let output = checked(&harness, |config| config.replace(URL, "https://gate.example/below")).await;
    assert!(output.contains("has a path"), "{output}");
    let output = checked(&harness, |config| config.replace("name = \"corp\"", "name = \"wicketgate\"")).await;
    assert!(output.contains("the gate's own name"), "{output}");
    // tokens for another purpose cannot be obtained by an exchange
    for (audience, remedy) in [
        ("//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/gate/providers/corp", "take it out"),
        ("exporter/node", "another name"),
        ("vertex", "another name"),
    ] {
        let output = checked(&harness, |config| config.replace("\"ledger\"", &format!("\"{audience}\""))).await;
        assert!(output.contains(audience) && output.contains(remedy), "{output}");
    }
    let asserting = Harness::new().await.section("token_issuer", "").more("vertex", "assertion = true");
    let output = checked(&asserting, |config| config).await;
    assert!(output.contains("`assertion = true` needs it"), "{output}");
}

/// What `check` says of the harness's configuration, changed.
async fn checked(harness: &Harness, change: impl Fn(String) -> String) -> String {
    harness.directory.write("wicketgate.toml", change(harness.config()));
    let file = harness.directory.join("wicketgate.toml");
    let output = crate::support::program::run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn discovery_has_what_google_needs() {
    let gate = harness().await.start().await;
    for page in ["openid-configuration", "oauth-authorization-server"] {
        let answer = gate.call(Method::GET, &format!("/.well-known/{page}")).send().await;
        let document = answer.json();
        assert_eq!((&document["issuer"], answer.header("cache-control")), (&URL.into(), "public, max-age=600"));
        assert_eq!(document["jwks_uri"], format!("{URL}/.well-known/jwks.json"), "{document}");
        assert_eq!(document["token_endpoint"], format!("{URL}/oauth2/token"), "{document}");
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]), "{document}");
        for list in ["response_types_supported", "subject_types_supported"] {
            assert!(document[list].as_array().is_some_and(|items| !items.is_empty()), "{list}: {document}");
        }
    }
    let jwks = gate.get("/.well-known/jwks.json").send().await;
    assert_eq!(jwks.header("cache-control"), "public, max-age=600");
    let keys = jwks.json()["keys"].as_array().cloned().unwrap();
    assert_eq!(keys.len(), 1, "{jwks:?}");
    let mut members: Vec<&str> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"], "the key shows more than its public half");
    let resource = gate.get("/.well-known/oauth-protected-resource").send().await.json();
    assert!(resource["authorization_servers"].as_array().unwrap().contains(&URL.into()), "{resource}");
}

#[tokio::test]
async fn a_plain_oauth_client_exchanges_its_token_and_others_verify_the_result() {
    const CLIENT: Client = Client { id: "batch", secret: "secret-of-this-test", role: "scrape" };
    let provider = OidcProvider::start(&[CLIENT]).await;
    let issuer = format!("[[issuer]]\nname = \"idp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]", provider.issuer);
    let gate = harness().await.more("issuer", issuer).start().await;
    let shown = provider.client_credentials(&CLIENT).await;
    let (_, here) = exchanged(&gate, &shown, URL).await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(here["access_token"].as_str().unwrap()).send().await.status, 200);

    let (_, there) = exchanged(&gate, &shown, "ledger").await;
    let jwks = gate.get("/.well-known/jwks.json").send().await.json();
    let said = jose(there["access_token"].as_str().unwrap(), &jwks, URL, "ledger", "at+jwt").await;
    assert_eq!(
        (&said["payload"]["sub"], &said["payload"]["roles"]),
        (&"idp:batch".into(), &json!(["scrape"])),
        "{said}"
    );
    assert_eq!(said["payload"]["client_id"], "batch", "{said}");
    assert_eq!(said["header"]["kid"], jwks["keys"][0]["kid"], "{said}");
}

#[tokio::test]
async fn an_opaque_token_is_exchanged_for_a_jwt() {
    let exp = wicketgate::internals::clock::now().as_second() + 300;
    let told = json!({"active": true, "sub": "tester", "aud": "wicketgate", "exp": exp, "roles": ["scrape"]});
    let server = Upstream::start(move |_| upstream::json(&told)).await;
    let harness = harness().await;
    harness.directory.write("introspection.secret", "secret-of-this-test");
    let at = server.url();
    let issuer = format!(
        "[[issuer]]\nname = \"opaque\"\nissuer = \"{at}\"\naudiences = [\"wicketgate\"]\njwks = false\nintrospection = \
         {{ url = \"{at}/introspect\", client_id = \"gate\", client_secret = {{ file = \"introspection.secret\" }} }}"
    );
    let gate = harness.more("issuer", issuer).start().await;
    let (_, given) = exchanged(&gate, "an-opaque-token", URL).await;
    let token = given["access_token"].as_str().unwrap();
    assert_eq!((&claims(token)["sub"], &claims(token)["exp"]), (&"opaque:tester".into(), &exp.into()));
    let asked = server.requests();
    let answer = gate.get(PROTECTED_PATH).bearer(token).send().await;
    assert_eq!((answer.status.as_u16(), server.requests()), (200, asked), "its issuer was asked again: {answer:?}");
}

#[tokio::test]
async fn a_standard_client_gets_its_token() {
    let gate = harness().await.start().await;
    let at = format!("https://localhost:{}/oauth2/token", gate.address().port());
    let ca = gate.directory.join("ca.pem");
    let given = vertex_sdk("exchange.py", &ca, &[&at, &gate.token("scrape"), URL]).await;
    let token = given["access_token"].as_str().unwrap_or_else(|| panic!("{given}"));
    assert_eq!(gate.get(PROTECTED_PATH).bearer(token).send().await.status, 200);
    let refused = vertex_sdk("exchange.py", &ca, &[&at, &gate.token("scrape"), "vault"]).await;
    assert!(refused["error"].as_str().is_some_and(|text| text.contains("invalid_target")), "{refused}");
}
