//! A real Prometheus with the gate: OAuth, discovery, scrape, remote write, and the forecasts back.

use std::path::Path;

use crate::support::{
    Gate, Harness, eventually,
    peers::{Client, NodeExporter, OidcProvider, Prometheus},
};

const SCRAPER: Client = Client { id: "prometheus-scrape", secret: "scrape-secret-of-this-test", role: "scrape" };
const WRITER: Client = Client { id: "prometheus-write", secret: "write-secret-of-this-test", role: "ingest" };

/// Prometheus' configuration: everything it does goes through the gate, with tokens of the provider.
fn config(gate: &Gate, ca: &Path, provider: &OidcProvider) -> String {
    let at = format!("localhost:{}", gate.address().port());
    let login = |client: &Client| {
        format!(
            "{{client_id: {}, client_secret: {}, token_url: {}/token, endpoint_params: {{resource: {}}}}}",
            client.id,
            client.secret,
            provider.issuer,
            OidcProvider::RESOURCE
        )
    };
    let scraper = login(&SCRAPER);
    let writer = login(&WRITER);
    let tls = format!("{{ca_file: {}}}", ca.display());
    format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n\
         - job_name: gate\n  \
           scheme: https\n  \
           oauth2: {scraper}\n  \
           tls_config: {tls}\n  \
           http_sd_configs:\n  \
           - url: https://{at}/sd\n    \
             refresh_interval: 1s\n    \
             oauth2: {scraper}\n    \
             tls_config: {tls}\n\
         - job_name: predictions\n  \
           scheme: https\n  \
           metrics_path: /metrics/predictions\n  \
           honor_labels: true\n  \
           oauth2: {scraper}\n  \
           tls_config: {tls}\n  \
           static_configs: [{{targets: ['{at}']}}]\n\
         remote_write:\n\
         - url: https://{at}/api/v1/write\n  \
           oauth2: {writer}\n  \
           tls_config: {tls}\n  \
           queue_config: {{batch_send_deadline: 1s}}\n"
    )
}

#[tokio::test]
async fn prometheus_discovers_scrapes_writes_and_gets_the_forecast_back() {
    let provider = OidcProvider::start(&[SCRAPER, WRITER]).await;
    let node = NodeExporter::start().await;
    let harness = Harness::new().await;
    let issuer = format!("[[issuer]]\nname = \"idp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]", provider.issuer);
    let exporter = format!("[[exporter]]\nname = \"node\"\nurl = \"http://{}\"", node.address);
    let gate = harness
        .more("issuer", issuer)
        .section("exporter", exporter)
        .keeping("node_load1")
        .section(
            "forecast",
            "[[forecast]]\nname = \"load\"\nmetric = \"node_load1\"\n\
             endpoint = \"projects/p/locations/us-central1/endpoints/1\"\nstep = \"1s\"\ncontext = 64\n\
             min_context = 4\nhorizon = 30\ninterval = \"1s\"\n",
        )
        .start()
        .await;
    let directory = gate.directory.join("peer");
    std::fs::create_dir_all(&directory).unwrap();
    let prometheus = Prometheus::start(&directory, &config(&gate, &gate.directory.join("ca.pem"), &provider)).await;

    // discovered through /sd and scraped through the gate
    let load = prometheus.vector("node_load1{job=\"gate\"}").await;
    assert_eq!(load.len(), 1, "{load:?}");
    let up = prometheus.vector("up{job=\"gate\"}").await;
    assert_eq!(up[0]["value"][1], "1", "{up:?}");

    // remote-written through the gate, forecast by Vertex, scraped back
    let forecast = prometheus.vector("wicketgate_forecast{forecast=\"load\",quantile=\"0.5\"}").await;
    assert_eq!(forecast[0]["metric"]["model_version"], "3", "{forecast:?}");
    eventually("Prometheus to have lost nothing", || async {
        let failed = prometheus.get("/metrics").await.text();
        let lost = failed
            .lines()
            .find(|line| line.starts_with("prometheus_remote_storage_samples_failed_total{"))
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        (lost == Some(0.0)).then_some(())
    })
    .await;

    // the audit log names the principals as the provider does
    let audit = gate.audit();
    for (principal, action) in [
        ("idp:prometheus-scrape", "Exporter.Discover"),
        ("idp:prometheus-scrape", "Exporter.Scrape"),
        ("idp:prometheus-write", "RemoteWrite.Write"),
        ("idp:prometheus-scrape", "Predictions.Scrape"),
    ] {
        let done = audit
            .iter()
            .any(|line| line["principal"] == principal && line["action"] == action && line["decision"] == "allow");
        assert!(done, "no record of {principal} doing {action}");
    }
    let denied: Vec<_> = audit.iter().filter(|line| line["decision"] == "deny").collect();
    assert!(denied.is_empty(), "{denied:?}");
}
