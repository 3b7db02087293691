//! Guardrails: the obligations of a permit apply to the content of requests and responses.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    refusals::{is_refusal, refused},
    support::{
        Answer, Gate, Harness,
        harness::PAGE,
        peers::{NodeExporter, Prometheus},
        program::run,
        upstream::{self, Reply},
        wire::remote_write,
    },
};

const APP: &str = "/exporters/app/metrics";
const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";

/// A harness with one more permit beside the shipped policies; it obliges its role to this guardrail.
async fn guarded(role: &str, kind: &str, rules: &str) -> Harness {
    let harness = Harness::new().await;
    let permit = format!(
        "@id(\"guarded\") @oblige(\"g\") permit (principal in Role::\"{role}\", action in Action::\"{role}\", resource);"
    );
    harness.directory.write("policies/guarded.cedar", permit);
    harness.directory.write("mask.key", "a key of this test, longer than thirty-two bytes");
    let guardrails = format!("mask_key = \"../mask.key\"\n[{kind}.g]\n{rules}\n");
    harness.directory.write("policies/guardrails.toml", guardrails);
    harness
}

fn page(kind: &'static str, text: &'static str) -> impl Fn(&upstream::Seen) -> Reply + Send + 'static {
    move |_| upstream::reply(StatusCode::OK, kind, text)
}

const TEXT: &str = "text/plain; version=0.0.4";

/// The names of a page's samples.
fn metrics(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

/// The gate's answer with its record, which says that the guardrail was applied.
async fn held(gate: &Gate, answer: &Answer) -> Value {
    let record = gate.record(&answer.id()).await;
    assert_eq!(record["obligations"], json!(["g"]), "{record}");
    record
}

#[tokio::test]
async fn hidden_families_are_removed_from_a_real_exporters_page() {
    let node = NodeExporter::start().await;
    let exporter = format!("[[exporter]]\nname = \"node\"\nurl = \"http://{}\"", node.address);
    let rules = "hide_families = [\"go_*\", \"node_memory_MemFree_bytes\", \"promhttp_metric_handler_requests\"]";
    let gate = guarded("scrape", "scrape", rules).await.section("exporter", exporter).start().await;
    let open = Harness::new().await;
    let open = open.section("exporter", format!("[[exporter]]\nname = \"node\"\nurl = \"http://{}\"", node.address));
    let open = open.start().await;
    for accept in ["text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0", "*/*"] {
        let ask = |gate: &Gate| {
            let call = gate.get("/exporters/node/metrics").bearer(&gate.token("scrape"));
            call.header("accept", accept).header("accept-encoding", "gzip").send()
        };
        // the gate's own scrapes change what the exporter counts: names are compared
        let whole = open.get("/exporters/node/metrics").bearer(&open.token("scrape")).header("accept", accept).send();
        let whole = whole.await;
        let answer = ask(&gate).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let hidden = |name: &String| {
            name.starts_with("go_")
                || name == "node_memory_MemFree_bytes"
                || name.starts_with("promhttp_metric_handler_requests_total")
        };
        let expected: BTreeSet<String> = metrics(&whole.text()).into_iter().filter(|name| !hidden(name)).collect();
        assert!(expected.contains("node_load1") && expected.len() < metrics(&whole.text()).len(), "{accept}");
        assert_eq!(metrics(&answer.text()), expected, "{accept}");
        assert!(!answer.text().contains(" go_"), "what is said of a hidden family was passed on: {accept}");
        assert_eq!(answer.text().ends_with("# EOF\n"), whole.text().ends_with("# EOF\n"), "{accept}");
        let record = held(&gate, &answer).await;
        assert_eq!(record["policies"], json!(["guarded", "scrape"]), "{record}");
        assert_eq!(record["bytes_out"], answer.body.len(), "{record}");
    }
}

#[tokio::test]
async fn the_caller_cannot_choose_name_escaping_or_part_of_the_page() {
    let gate = guarded("scrape", "scrape", "hide_families = [\"app_secret\"]").await.start().await;
    gate.app.answer(|_| {
        Response::builder()
            .header("content-type", TEXT)
            .header("etag", "\"7\"")
            .header("last-modified", "Tue, 24 Nov 2026 00:00:00 GMT")
            .header("x-page", "app_secret 1")
            .body(Full::new(Bytes::from_static(b"app_secret 1\napp_up 1\n")))
            .unwrap()
    });
    let call = gate.get(APP).bearer(&gate.token("scrape"));
    let call = call.header("accept", "text/plain;version=1.0.0;escaping=dots,application/vnd.google.protobuf");
    let call = call.header("accept-encoding", "gzip").header("range", "bytes=0-10").header("if-none-match", "\"7\"");
    let answer = call.send().await;
    let seen = gate.app.last();
    assert_eq!(seen.header("accept"), "text/plain;version=0.0.4;escaping=underscores");
    assert_eq!(seen.header("accept-encoding"), "identity");
    assert_eq!((seen.header("range"), seen.header("if-none-match")), ("", ""));
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "app_up 1\n"));
    for name in ["etag", "last-modified", "x-page", "content-length", "accept-ranges"] {
        assert_eq!(answer.header(name), "", "{answer:?}");
    }
    assert_eq!(answer.header("content-type"), TEXT);
    assert_eq!(answer.header("cache-control"), "private, no-store");

    let call = gate.get(APP).bearer(&gate.token("scrape"));
    call.header("accept", "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5").send().await;
    let accept = gate.app.last().header("accept").to_owned();
    assert!(accept.starts_with("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"), "{accept}");

    let head = gate.call(Method::HEAD, APP).bearer(&gate.token("scrape")).send().await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, ""), "{head:?}");
    assert_eq!(gate.record(&head.id()).await["reason"], Value::Null);
}

#[tokio::test]
async fn labels_are_masked_or_dropped_and_series_are_removed() {
    let rules =
        "mask_labels = [\"user\"]\ndrop_labels = [\"customer\"]\nhide_series = [{ label = \"tenant\", value = \"x\" }]";
    let gate = guarded("scrape", "scrape", rules).await.start().await;
    gate.app.answer(page(
        TEXT,
        "a{user=\"ada\",customer=\"c\"} 1\na{user=\"bob\"} 2\nb{tenant=\"x\"} 3\nb{tenant=\"y\"} 4\nc{customer=\"c\"} 5\n",
    ));
    let scrape = async || {
        let answer = gate.get(APP).bearer(&gate.token("scrape")).send().await;
        held(&gate, &answer).await;
        answer.text()
    };
    let text = scrape().await;
    let lines: Vec<&str> = text.lines().collect();
    let mask = |line: &str| line.strip_prefix("a{user=\"").unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].ends_with("\"} 1") && lines[1].ends_with("\"} 2"), "{text}");
    assert_eq!(&lines[2..], ["b{tenant=\"y\"} 4", "c 5"], "{text}");
    assert!(mask(lines[0]).len() == 16 && mask(lines[0]) != mask(lines[1]), "{text}");
    assert_eq!(scrape().await, text, "a mask changes");
}

#[tokio::test]
async fn only_the_metrics_page_of_a_guarded_exporter_is_readable() {
    let gate = guarded("scrape", "scrape", "hide_families = [\"go_*\"]").await.start().await;
    let token = gate.token("scrape");
    for target in
        ["/exporters/app/", "/exporters/app/debug/pprof/heap", "/exporters/app/metrics/", "/exporters/app/x?metrics"]
    {
        let (answer, record) = refused(&gate, gate.get(target).bearer(&token), 403, "guardrail").await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("`g`"), "{answer:?}");
        assert_eq!((&record["decision"], &record["obligations"]), (&"deny".into(), &json!(["g"])), "{record}");
        assert!(!gate.permitted(&answer.id()), "a permit was written: {record}");
    }
    let answer = gate.get("/exporters/app/metrics?collect[]=x").bearer(&token).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE));
}

#[tokio::test]
async fn an_unreadable_response_is_not_forwarded() {
    let gate = guarded("scrape", "scrape", "hide_families = [\"go_*\"]").await.start().await;
    let token = gate.token("scrape");
    let protobuf = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    for kind in [protobuf, "text/html; charset=utf-8", "text/plain; version=0.0.4; escaping=values", "application/json"]
    {
        gate.app.answer(page(kind, "go_goroutines 1\n"));
        let answer = gate.get(APP).bearer(&token).send().await;
        let record = is_refusal(&gate, &answer, 502, "guardrail").await;
        assert!(!answer.text().contains("go_goroutines"), "{answer:?}");
        assert!(record["detail"].as_str().unwrap().contains(kind), "{record}");
    }
    gate.app.answer(|_| {
        let answer = Response::builder().header("content-type", TEXT).header("content-encoding", "gzip");
        answer.body(Full::new(Bytes::from_static(b"\x1f\x8b"))).unwrap()
    });
    is_refusal(&gate, &gate.get(APP).bearer(&token).send().await, 502, "guardrail").await;

    gate.app.answer(|_| upstream::reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "go_goroutines 1"));
    let answer = gate.get(APP).bearer(&token).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::INTERNAL_SERVER_ERROR, ""), "{answer:?}");
}

#[tokio::test]
async fn a_malformed_page_is_cut_off() {
    let gate = guarded("scrape", "scrape", "drop_labels = [\"user\"]").await.start().await;
    let head = format!(
        "GET {APP} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        gate.token("scrape")
    );
    for (text, detail) in [
        ("app_up 1\nnot.a.metric 2\nafter 3\n", "line 100002"),
        ("a{user=\"ada\"} 1\na{user=\"bob\"} 2\nafter 3\n", "use `mask_labels` instead"),
    ] {
        // more than is sent in one piece, so that the head is on its way when the end comes
        let before: String = (0..100_000).map(|n| format!("before_{n} 1\n")).collect();
        gate.app.answer(move |_| upstream::reply(StatusCode::OK, TEXT, format!("{before}{text}")));
        let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
        let sent = answer.text();
        assert!(sent.contains("before_0 1") && !sent.contains("after"), "{}", sent.len());
        // RFC 9112 section 7.1: without the last chunk the client knows that it is not whole
        assert!(!sent.ends_with("0\r\n\r\n"), "{}", sent.len());
        let record = held(&gate, &answer).await;
        assert_eq!(record["reason"], "guardrail", "{record}");
        assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
    }
}

#[tokio::test]
async fn guardrails_apply_to_the_forecast_page() {
    let harness = guarded("scrape", "scrape", "show_families = [\"wicketgate_forecast_mean\"]").await.keeping("none");
    let gate = harness.start().await;
    let answer = gate.get("/metrics/predictions").bearer(&gate.token("scrape")).send().await;
    let expected = "# HELP wicketgate_forecast_mean Expected value of a series, by horizon\n\
                    # TYPE wicketgate_forecast_mean gauge\n";
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, expected));
    held(&gate, &answer).await;
    // discovery is no page of metrics: nothing is hidden of it
    let answer = gate.get("/sd").bearer(&gate.token("scrape")).send().await;
    assert!(answer.text().contains("/exporters/app/"), "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["obligations"], Value::Null);
}

#[tokio::test]
async fn remote_write_labels_are_set_to_the_senders_identity() {
    let rules = "force = { tenant = \"{issuer}-{claim:/team}\" }\nrefuse_labels = [\"tenant\"]\nrefuse_metrics = [\"app_secret\"]";
    let keep = "[ingest]\n[[ingest.keep]]\nmetric = \"app_*\"\nlabels = { tenant = \"corp-a\" }";
    let gate = guarded("ingest", "write", rules).await.keeping("app_*").section("ingest", keep).start().await;
    let token = gate.token_builder("ingest").claim("team", "a").mint();
    let stored = async || {
        let accepted = gate.metric("wicketgate_ingest_samples_accepted_total").await;
        accepted - gate.metric("wicketgate_ingest_samples_dropped_total{reason=\"not_kept\"}").await
    };
    let now = wicketgate::internals::clock::now().as_millisecond();
    let write = |labels: &[(&str, &str)]| gate.write(&token, remote_write(labels, &[(now, 1.0)]));
    // the keep-list takes the forced label's value alone, so what is kept has it
    for labels in [&[("__name__", "app_up")][..], &[("__name__", "app_up"), ("tenant", "corp-a")]] {
        let before = stored().await;
        let answer = write(labels).send().await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
        assert_eq!(stored().await - before, 1.0, "{labels:?} was not stored as the tenant's");
        held(&gate, &answer).await;
    }
    let before = stored().await;
    for (labels, named) in [
        (&[("__name__", "app_up"), ("tenant", "corp-b")][..], "`tenant`"),
        (&[("__name__", "app_secret")], "`app_secret`"),
    ] {
        let (answer, record) = refused(&gate, write(labels), 400, "guardrail").await;
        assert!(answer.json()["detail"].as_str().unwrap().contains(named), "{answer:?}");
        assert_eq!(record["obligations"], json!(["g"]), "{record}");
    }
    assert_eq!(gate.metric("wicketgate_ingest_samples_dropped_total{reason=\"guardrail\"}").await, 2.0);
    // a sender without a known team writes nothing
    let body = remote_write(&[("__name__", "app_up")], &[(now, 1.0)]);
    let (_, record) = refused(&gate, gate.write(&gate.token("ingest"), body), 403, "guardrail").await;
    assert_eq!(record["decision"], "deny", "{record}");
    assert_eq!(stored().await, before);
}

#[tokio::test]
async fn a_request_that_breaks_a_guardrail_never_reaches_the_model() {
    let rules = "max_instances = 2\nmax_bytes = 200\nrequire = [\"/parameters/seed\"]\nforbid = [\"/tools\"]\n\
                 max = { \"/parameters/maxTokens\" = 100 }";
    let gate = guarded("infer", "predict", rules).await.start().await;
    let token = gate.token("infer");
    let ask =
        |body: &str| gate.post(PREDICT).bearer(&token).header("content-type", "application/json").body(body.to_owned());
    let good = r#"{"instances":[{"input":[1]}],"parameters":{"seed":1,"maxTokens":100}}"#;
    let answer = ask(good).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    held(&gate, &answer).await;
    assert_eq!(&gate.google.vertex().pop().unwrap().body[..], good.as_bytes());

    for (body, status, says) in [
        (r#"{"instances":[1,2,3],"parameters":{"seed":1}}"#, 403, "2 instances"),
        (r#"{"instances":[1]}"#, 403, "`/parameters/seed`"),
        (r#"{"tools":[],"parameters":{"seed":1}}"#, 403, "`/tools`"),
        (r#"{"parameters":{"seed":1,"max_tokens":"101"}}"#, 403, "`/parameters/maxTokens`"),
        (r#"{"parameters":{"seed":1},"parameters":{"seed":2}}"#, 400, "without duplicate members"),
        (r#"[{"parameters":{"seed":1}}]"#, 400, "one JSON object"),
        ("", 403, "`/parameters/seed`"),
        (&format!("{{\"parameters\":{{\"seed\":1}},\"x\":\"{}\"}}", "y".repeat(200)), 403, "200 bytes"),
    ] {
        let (answer, record) = refused(&gate, ask(body), status, "guardrail").await;
        let problem = answer.json();
        assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
        // the error that Google's libraries know
        let class = if status == 403 { "PERMISSION_DENIED" } else { "INVALID_ARGUMENT" };
        assert_eq!(problem["error"]["status"], class, "{problem}");
        assert_eq!((&record["decision"], &record["obligations"]), (&"deny".into(), &json!(["g"])), "{record}");
    }
    // what is no JSON cannot be looked at, and the query could hold fields too
    let raw = gate.post(&PREDICT.replace(":predict", ":rawPredict")).bearer(&token);
    refused(&gate, raw.header("content-type", "application/octet-stream").body("x"), 403, "guardrail").await;
    let query = gate.post(&format!("{PREDICT}?tools=1")).bearer(&token).header("content-type", "application/json");
    refused(&gate, query.body(good), 403, "guardrail").await;
}

#[tokio::test]
async fn a_real_prometheus_scrapes_a_filtered_page() {
    let node = NodeExporter::start().await;
    let exporter = format!("[[exporter]]\nname = \"node\"\nurl = \"http://{}\"", node.address);
    let rules = "hide_families = [\"go_*\"]\nmask_labels = [\"version\"]";
    let gate = guarded("scrape", "scrape", rules).await.section("exporter", exporter).start().await;
    let directory = gate.directory.join("peer");
    std::fs::create_dir_all(&directory).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: gate\n  scheme: https\n  \
         metrics_path: /exporters/node/metrics\n  authorization: {{credentials: {}}}\n  \
         tls_config: {{ca_file: {}}}\n  static_configs: [{{targets: ['localhost:{}']}}]\n",
        gate.token("scrape"),
        gate.directory.join("ca.pem").display(),
        gate.address().port()
    );
    let prometheus = Prometheus::start(&directory, &config).await;
    let up = prometheus.vector("up{job=\"gate\"} == 1").await;
    assert_eq!(up.len(), 1, "{up:?}");
    assert_eq!(prometheus.vector("node_load1{job=\"gate\"}").await.len(), 1);
    let build = prometheus.vector("node_exporter_build_info{job=\"gate\"}").await;
    assert_eq!(build[0]["metric"]["version"].as_str().map(str::len), Some(16), "{build:?}");
    let names = prometheus.vector("count by (__name__) ({job=\"gate\"})").await;
    let hidden = names.iter().filter(|row| row["metric"]["__name__"].as_str().unwrap().starts_with("go_"));
    assert_eq!(hidden.count(), 0, "{names:?}");
}

#[tokio::test]
async fn the_shipped_example_is_a_good_one() {
    let harness = Harness::new().await;
    let shipped = std::fs::read_to_string(harness.directory.join("policies/guardrails.toml")).unwrap();
    let (_, example) = shipped.split_once("\n\n").expect("a head and an example");
    let example: String = example.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(""))).collect();
    harness.directory.write("policies/guardrails.toml", example);
    harness.directory.write("policies/mask.key", "a key of this test, longer than thirty-two bytes");
    let permit =
        "@id(\"guarded\") @oblige(\"no-runtime, no-users, tenant, small\") permit (principal, action, resource);";
    harness.directory.write("policies/guarded.cedar", permit);
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_role_without_the_guardrail_is_not_restricted() {
    let gate = guarded("infer", "predict", "max_instances = 0").await.start().await;
    let answer = gate.get(APP).bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE));
    assert_eq!(gate.record(&answer.id()).await["obligations"], Value::Null);
}

#[tokio::test]
async fn an_unused_guardrail_is_reported_with_its_line() {
    let harness = Harness::new().await;
    harness.directory.write("policies/short.key", "short");
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let check = async |cedar: &str, toml: &str, expected: &[(&str, &str)]| {
        harness.directory.write("policies/guarded.cedar", cedar);
        harness.directory.write("policies/guardrails.toml", toml);
        let output = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        for (place, says) in expected {
            assert!(said.lines().any(|line| line.contains(place) && line.contains(says)), "{place} {says} in:\n{said}");
        }
        assert_eq!(said.lines().filter(|line| line.contains("guard")).count(), expected.len(), "{said}");
    };
    let names = "a, b, c, d, e, nobdy";
    let all = format!("@oblige(\"{names}\") permit (principal, action, resource);\n");
    let toml = "mask_key = \"short.key\"\n\
                [scrape.a]\n[scrape.b]\nhide_famlies = [\"x\"]\nhide_families = [\"a*b\"]\n\
                [scrape.c]\nmask_labels = [\"user\"]\ndrop_labels = [\"le\"]\n\
                [scrape.nobody]\nhide_families = [\"x\"]\n\
                [write.d]\nforce = { tenant = \"{user}\" }\n\
                [predict.e]\nforbid = [\"tools\"]\nmax = { \"/a\" = \"1\" }\n\
                [wrte.f]\nforce = { a = \"b\" }\n\
                [predict.a]\nmax_bytes = 1\n";
    let expected = [
        ("guardrails.toml:1:", "32 bytes"),
        ("guardrails.toml:2:", "has no keys"),
        ("guardrails.toml:4:", "unknown key"),
        ("guardrails.toml:5:", "only at the end"),
        ("guardrails.toml:7:", "mask_key"),
        ("guardrails.toml:8:", "`le`"),
        ("guardrails.toml:9:", "no permit names it"),
        ("guardrails.toml:12:", "`{user}`"),
        ("guardrails.toml:14:", "JSON pointer"),
        ("guardrails.toml:15:", "table of numbers"),
        ("guardrails.toml:16:", "unknown key"),
        ("guardrails.toml:18:", "another guardrail"),
        ("guarded.cedar:1:", "`nobdy`, which guardrails.toml does not define"),
    ];
    check(&all, toml, &expected).await;

    let permits = "@id(\"x\") @oblige(\"a\")\npermit (principal, action in Action::\"scrape\", resource);\n\
                   @id(\"y\")\n@oblige(\"nothing\") permit (principal, action, resource);\n";
    let expected = [("guarded.cedar:1:", "can have no effect"), ("guarded.cedar:4:", "does not define")];
    check(permits, "[predict.a]\nmax_bytes = 1\n", &expected).await;
}
