//! Exporters behind the gate: the exporter's own page, negotiation and errors; it learns about its caller only what the
//! gate asserts.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;

use crate::support::{
    Harness,
    harness::{PAGE, PASSWORD},
    upstream,
};

#[tokio::test]
async fn a_scrape_is_the_exporters_own_response() {
    let gate = Harness::new().await.start().await;
    let answer = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE));
    assert_eq!(answer.header("x-exporter"), "app");
    assert_eq!(gate.app.last().target, "/metrics");
    assert_eq!(gate.app.last().header("host"), gate.app.address.to_string());

    let record = gate.record(&answer.id()).await;
    assert!(gate.permitted(&answer.id()), "no permit before forwarding");
    for (field, expected) in [
        ("decision", "allow"),
        ("principal", "corp:tester"),
        ("issuer", "corp"),
        ("action", "Exporter.Scrape"),
        ("resource", "app"),
        ("method", "GET"),
        ("path", "/exporters/app/metrics"),
    ] {
        assert_eq!(record[field], expected, "{field}: {record}");
    }
    assert_eq!(record["roles"], serde_json::json!(["scrape"]), "{record}");
    assert_eq!(record["policies"], serde_json::json!(["scrape"]), "{record}");
    assert_eq!(record["status"], 200, "{record}");
    assert_eq!(record["bytes_out"], PAGE.len(), "{record}");
    assert!(record["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1")), "{record}");
    assert!(record["duration_us"].is_u64() && record["route"].is_string(), "{record}");
}

#[tokio::test]
async fn path_and_query_reach_the_exporter_as_they_were_matched() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    let target = "/exporters/app/probe/deep%20er?module=a%2Fb&target=x;y&empty=";
    gate.get(target).bearer(&token).send().await;
    assert_eq!(gate.app.last().target, "/probe/deep%20er?module=a%2Fb&target=x;y&empty=");
    // an exporter may live below a path
    gate.get("/exporters/locked/metrics").bearer(&token).send().await;
    assert_eq!(gate.app.last().target, "/locked/metrics");
}

#[tokio::test]
async fn content_negotiation_is_between_prometheus_and_the_exporter() {
    let gate = Harness::new().await.start().await;
    gate.app.answer(|_| {
        Response::builder()
            .header("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            .header("content-encoding", "gzip")
            .header("etag", "\"7\"")
            .header("vary", "accept, accept-encoding")
            .body(Full::new(Bytes::from_static(b"\x1f\x8b not touched")))
            .unwrap()
    });
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let answer = gate
        .get("/exporters/app/metrics")
        .bearer(&gate.token("scrape"))
        .header("accept", accept)
        .header("accept-encoding", "gzip")
        .header("x-prometheus-scrape-timeout-seconds", "10")
        .header("user-agent", "Prometheus/2.42.0")
        .send()
        .await;
    let seen = gate.app.last();
    assert_eq!(seen.header("accept"), accept);
    assert_eq!(seen.header("accept-encoding"), "gzip");
    assert_eq!(seen.header("x-prometheus-scrape-timeout-seconds"), "10");
    assert_eq!(seen.header("user-agent"), "Prometheus/2.42.0");
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert_eq!(answer.header("etag"), "\"7\"");
    assert_eq!(answer.header("vary"), "accept, accept-encoding");
    assert_eq!(&answer.body[..], b"\x1f\x8b not touched");
}

#[tokio::test]
async fn an_exporter_that_switches_protocols_is_not_followed() {
    let gate = Harness::new().await.start().await;
    gate.app.answer(|_| {
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "other")
            .header("connection", "upgrade")
            .body(Full::new(Bytes::new()))
            .unwrap()
    });
    let call = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).header("upgrade", "other");
    let answer = call.header("connection", "upgrade").send().await;
    assert_eq!((answer.status, &answer.json()["reason"]), (StatusCode::BAD_GATEWAY, &"upstream_switched".into()));
    assert_eq!(gate.app.last().header("upgrade"), "");
}

#[tokio::test]
async fn the_exporters_errors_are_passed_on() {
    let gate = Harness::new().await.start().await;
    gate.app.answer(|_| upstream::reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "collecting"));
    let answer = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "collecting"));
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["decision"], &record["status"]), (&"allow".into(), &503.into()), "{record}");
}

#[tokio::test]
async fn an_exporter_that_is_away_is_a_bad_gateway_with_a_record() {
    // a released port: nothing listens there
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let harness = Harness::new().await;
    let harness = harness.more("exporter", format!("[[exporter]]\nname = \"away\"\nurl = \"http://{unused}\""));
    let gate = harness.start().await;
    let answer = gate.get("/exporters/away/metrics").bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{answer:?}");
    assert!(!answer.text().contains(&unused.port().to_string()), "the answer tells where the exporter is: {answer:?}");
    assert_eq!(gate.record(&answer.id()).await["status"], 502);
}

#[tokio::test]
async fn identity_claims_of_a_client_never_reach_the_exporter() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    let spoofs = [
        "x-wicketgate-principal",
        "X-Wicketgate-Principal",
        "X-WICKETGATE-ROLES",
        "x_wicketgate_principal",
        "X_Wicketgate-Roles",
        "x-wicketgate_issuer",
        "x-wicketgate-anything",
        "Forwarded",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Cookie",
        "Proxy-Authorization",
        "X-HTTP-Method-Override",
    ];
    let claims: String = spoofs.iter().map(|name| format!("{name}: spoofed-value\r\n")).collect();
    let head = format!(
        "GET /exporters/app/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {token}\r\n{claims}\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let seen = gate.app.last();
    let told: Vec<_> = seen.headers.iter().filter(|(_, value)| value.as_bytes() == b"spoofed-value").collect();
    assert!(told.is_empty(), "the exporter was told {told:?}");
    let everything = format!("{:?}", seen.headers);
    assert!(!everything.contains(&token), "the exporter saw the caller's token");
    assert!(seen.headers.get("authorization").is_none(), "{everything}");
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    let head = format!(
        "GET /exporters/app/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close, x-mine\r\nx-mine: 1\r\n\
         keep-alive: timeout=5\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let seen = gate.app.last();
    for name in ["x-mine", "keep-alive"] {
        assert!(seen.headers.get(name).is_none(), "{name} travelled on: {:?}", seen.headers);
    }
}

#[tokio::test]
async fn the_exporter_credential_reaches_only_its_exporter() {
    let gate = Harness::new().await.start().await;
    let answer = gate.get("/exporters/locked/metrics").bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    // "gate:the-exporter-password"
    let expected = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("gate:{PASSWORD}"))
    };
    assert_eq!(gate.app.last().header("authorization"), format!("Basic {expected}"));
    let record = gate.record(&answer.id()).await;
    assert!(record["credential"].as_str().is_some_and(|name| name.contains("locked")), "{record}");
    assert_eq!(record["credential_generation"], 1, "{record}");

    let audit = std::fs::read_to_string(gate.audit_file()).unwrap();
    let metrics = gate.admin("/metrics").await.text();
    let log = gate.program.lines().join("\n");
    for (place, text) in [("audit log", &audit), ("metrics", &metrics), ("log", &log)] {
        assert!(!text.contains(PASSWORD) && !text.contains(&expected), "the {place} holds the password");
    }
}

#[tokio::test]
async fn a_changed_password_is_used_without_a_restart() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    gate.directory.write("exporter.password", "another-password");
    gate.program.signal("HUP").await;
    let expected = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode("gate:another-password")
    };
    crate::support::eventually("the new password", || async {
        let answer = gate.get("/exporters/locked/metrics").bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "a rotation failed a request: {answer:?}");
        (gate.app.last().header("authorization") == format!("Basic {expected}")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn service_discovery_lists_what_the_caller_may_scrape() {
    let gate = Harness::new().await.start().await;
    let answer = gate.get("/sd").bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/json"), "{answer:?}");
    let groups = answer.json();
    let group = |name: &str| {
        let path = format!("/exporters/{name}/metrics");
        groups.as_array().unwrap().iter().find(|group| group["labels"]["__metrics_path__"] == path.as_str()).cloned()
    };
    let app = group("app").unwrap_or_else(|| panic!("`app` is missing: {groups}"));
    assert_eq!(app["labels"]["team"], "platform", "{groups}");
    assert_eq!(app["targets"].as_array().map(Vec::len), Some(1), "{groups}");
    assert!(group("locked").is_some(), "{groups}");
    assert_eq!(gate.app.requests(), 0, "discovery asked the exporters");

    let other = gate.get("/sd").bearer(&gate.token("infer")).send().await;
    assert_eq!(other.status, StatusCode::FORBIDDEN, "{other:?}");
}

#[tokio::test]
async fn a_policy_on_one_exporter_applies_to_discovery_and_scrapes() {
    let harness = Harness::new().await;
    let forbid = "@id(\"closed\")\nforbid (principal, action == Action::\"Exporter.Scrape\", \
                  resource == Exporter::\"locked\");\n";
    harness.directory.write("policies/closed.cedar", forbid);
    let gate = harness.start().await;
    let token = gate.token("scrape");
    let names = gate.get("/sd").bearer(&token).send().await.text();
    assert!(names.contains("/exporters/app/") && !names.contains("/exporters/locked/"), "{names}");
    let answer = gate.get("/exporters/locked/metrics").bearer(&token).send().await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["policies"], serde_json::json!(["closed"]));
    assert_eq!(gate.app.requests(), 0);
}

#[tokio::test]
async fn a_method_other_than_get_and_head_is_refused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    for method in [Method::DELETE, Method::PUT, Method::PATCH] {
        let answer = gate.call(method.clone(), "/exporters/app/metrics").bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}: {answer:?}");
        assert_eq!(answer.header("allow"), "GET, HEAD", "{method}: {answer:?}");
    }
    assert_eq!(gate.app.requests(), 0);
}

#[tokio::test]
async fn an_exporter_cannot_set_the_model_in_a_record() {
    let gate = Harness::new().await.start().await;
    gate.app.intercept(|_| {
        let mut page = upstream::reply(StatusCode::OK, "text/plain", PAGE);
        page.headers_mut().insert("x-vertex-ai-deployed-model-id", "forged".parse().unwrap());
        Some(page)
    });
    let answer = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).send().await;
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["status"], &record["model"]), (&200.into(), &serde_json::Value::Null), "{record}");
}
