//! Limits on metric senders: a limited sender retries while its data waits, and loses nothing.

use std::time::Duration;

use http::StatusCode;
use wicketgate::internals::clock;

use crate::{
    limits::retry_after,
    refusals::is_refusal,
    support::{Harness, eventually, peers::Prometheus, wire::remote_write},
};

#[tokio::test]
async fn a_limited_sender_loses_no_sample() {
    let gate = Harness::new()
        .await
        .keeping("kept_*")
        .section("limit", "[[limit]]\nname = \"writes\"\nper = \"principal\"\nroutes = [\"write\"]\nrequests = \"2/s\"")
        .start()
        .await;
    let token = gate.token("ingest");
    let mut told_to_wait = 0;
    for batch in 0..6 {
        let body = || remote_write(&[("__name__", "kept_total")], &[(1000 + batch, 1.0)]);
        loop {
            let answer = gate.write(&token, body()).send().await;
            if answer.status == StatusCode::NO_CONTENT {
                break;
            }
            // 429 would make Prometheus drop the batch
            is_refusal(&gate, &answer, 503, "limit_requests").await;
            told_to_wait += 1;
            let said = clock::monotonic();
            let wait = Duration::from_secs(retry_after(&answer));
            eventually("as long as was said", || async { (said.elapsed() >= wait).then_some(()) }).await;
        }
    }
    assert!(told_to_wait > 0, "the limit never held");
    assert_eq!(gate.metric("wicketgate_ingest_samples_accepted_total").await, 6.0);
}

#[tokio::test]
async fn a_real_prometheus_at_a_limit_loses_nothing() {
    let limit = "[[limit]]\nname = \"writes\"\nper = \"principal\"\nroutes = [\"write\"]\n\
                 requests = { rate = \"30/m\", burst = \"1\" }";
    let gate = Harness::new().await.keeping("up").section("limit", limit).start().await;
    let directory = gate.directory.join("peer");
    std::fs::create_dir_all(&directory).unwrap();
    let at = gate.address().port();
    let app = gate.app.address;
    let ca = gate.directory.join("ca.pem");
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n- {{job_name: app, static_configs: [{{targets: ['{app}']}}]}}\n\
         remote_write:\n- url: https://localhost:{at}/api/v1/write\n  authorization: {{credentials: {}}}\n  \
         tls_config: {{ca_file: {}}}\n  queue_config: {{batch_send_deadline: 500ms, max_shards: 1}}\n",
        gate.token("ingest"),
        ca.display()
    );
    let prometheus = Prometheus::start(&directory, &config).await;
    let refusals = || gate.metric("wicketgate_limit_refused_total{limit=\"writes\",quantity=\"requests\"}");
    eventually("Prometheus to be told to wait", || async { (refusals().await >= 2.0).then_some(()) }).await;
    // all that it had to send then has come, and none was given up
    let sent = remote_storage(&prometheus, "samples_total").await;
    eventually("its samples", || async {
        let kept = gate.metric("wicketgate_ingest_samples_accepted_total").await;
        (kept > 0.0 && remote_storage(&prometheus, "samples_total").await > sent).then_some(())
    })
    .await;
    assert_eq!(remote_storage(&prometheus, "samples_failed_total").await, 0.0);
    assert!(remote_storage(&prometheus, "samples_retried_total").await > 0.0, "it was never refused");
}

async fn remote_storage(prometheus: &Prometheus, name: &str) -> f64 {
    let text = prometheus.get("/metrics").await.text();
    let prefix = format!("prometheus_remote_storage_{name}{{");
    let line = text.lines().find(|line| line.starts_with(&prefix));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}
