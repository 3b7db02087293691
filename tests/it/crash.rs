//! Durability: an acknowledged sample reaches Vertex over any crash of the gate.

use serde_json::Value;
use wicketgate::internals::clock;

use crate::support::{Gate, Harness, eventually, wire::remote_write};

const FORECAST: &str = "[[forecast]]\nname = \"load\"\nmetric = \"kept_load\"\n\
    endpoint = \"projects/p/locations/us-central1/endpoints/1\"\nstep = \"1s\"\ncontext = 64\nmin_context = 8\n\
    horizon = 30\ninterval = \"1s\"\n";

/// The inputs of every instance that Vertex was sent.
fn inputs(gate: &Gate) -> Vec<Vec<f64>> {
    let bodies = gate.google.vertex().into_iter().map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap());
    bodies
        .flat_map(|body| body["instances"].as_array().cloned().unwrap_or_default())
        .map(|instance| instance["input"].as_array().unwrap().iter().filter_map(Value::as_f64).collect())
        .collect()
}

#[tokio::test]
async fn an_acknowledged_sample_outlives_kill_9() {
    let mut gate = Harness::new().await.keeping("kept_*").section("forecast", FORECAST).start().await;
    let token = gate.token("ingest");
    let now = clock::now().as_millisecond();
    // one point short of what a forecast needs: nothing can be on its way to Vertex
    for point in 0..7 {
        let body = remote_write(&[("__name__", "kept_load")], &[(now - 8000 + point * 1000, 100.0 + point as f64)]);
        let answer = gate.write(&token, body).send().await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    gate.kill_and_restart().await;
    assert!(gate.google.vertex().is_empty(), "Vertex was asked too early");

    let body = remote_write(&[("__name__", "kept_load")], &[(now - 1000, 107.0)]);
    assert_eq!(gate.write(&token, body).send().await.status, 204);
    let expected: Vec<f64> = (0..8).map(|point| 100.0 + f64::from(point)).collect();
    eventually("every acknowledged point at Vertex", || async {
        inputs(&gate).iter().any(|input| input.windows(8).any(|window| window == expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_closes_the_spool_and_the_next_start_finds_every_sample() {
    let mut gate = Harness::new().await.keeping("kept_*").section("forecast", FORECAST).start().await;
    let token = gate.token("ingest");
    let now = clock::now().as_millisecond();
    for point in 0..7 {
        let body = remote_write(&[("__name__", "kept_load")], &[(now - 8000 + point * 1000, 100.0 + point as f64)]);
        assert_eq!(gate.write(&token, body).send().await.status, 204);
    }
    gate.program.signal("TERM").await;
    gate.program.ended().await;
    eventually("the spool to be closed", || async {
        gate.program.lines().iter().any(|line| line.contains("the spool is closed")).then_some(())
    })
    .await;

    gate.restart().await;
    let body = remote_write(&[("__name__", "kept_load")], &[(now - 1000, 107.0)]);
    assert_eq!(gate.write(&token, body).send().await.status, 204);
    let expected: Vec<f64> = (0..8).map(|point| 100.0 + f64::from(point)).collect();
    eventually("every acknowledged point at Vertex", || async {
        inputs(&gate).iter().any(|input| input.windows(8).any(|window| window == expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn writes_that_run_into_kill_9_are_acknowledged_or_not_there() {
    let mut gate = Harness::new().await.keeping("kept_*").section("forecast", FORECAST).start().await;
    let token = gate.token("ingest");
    let now = clock::now().as_millisecond();
    // kept apart by value: the points of the last second before the kill
    for point in 0..40_i64 {
        let body = remote_write(&[("__name__", "kept_load")], &[(now + (point - 40) * 1000, point as f64)]);
        assert_eq!(gate.write(&token, body).send().await.status, 204);
        if point % 10 == 9 {
            gate.kill_and_restart().await;
        }
    }
    eventually("all forty points at Vertex", || async {
        inputs(&gate).iter().any(|input| (0..40).all(|point| input.contains(&f64::from(point)))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn forecasts_come_back_as_metrics() {
    let gate = Harness::new().await.keeping("kept_*").section("forecast", FORECAST).start().await;
    let now = clock::now().as_millisecond();
    let samples: Vec<_> = (0..16).map(|point| (now - 16_000 + point * 1000, 5.0)).collect();
    let body = remote_write(&[("__name__", "kept_load"), ("host", "a")], &samples);
    assert_eq!(gate.write(&gate.token("ingest"), body).send().await.status, 204);
    let token = gate.token("scrape");
    let line = eventually("the forecast", || async {
        let page = gate.get("/metrics/predictions").bearer(&token).send().await;
        assert_eq!(page.status, 200, "{page:?}");
        let text = page.text();
        let line =
            text.lines().find(|line| line.starts_with("wicketgate_forecast{") && line.contains("quantile=\"0.5\""));
        line.map(str::to_owned)
    })
    .await;
    for part in ["forecast=\"load\"", "model_version=\"3\"", "horizon=\"", "kept_load", "host=\"a\""] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let value = line.rsplit(' ').find_map(|word| word.parse::<f64>().ok());
    assert_eq!(value, Some(5.0), "{line}");
    let seen = gate.google.vertex().pop().unwrap();
    assert!(seen.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", seen.headers);
    // a caller without `scrape` does not see them
    assert_eq!(gate.get("/metrics/predictions").bearer(&gate.token("ingest")).send().await.status, 403);
}

#[tokio::test]
async fn every_sample_is_counted_once_as_accepted_or_dropped() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let token = gate.token("ingest");
    let kept = remote_write(&[("__name__", "kept_load")], &[(1, 1.0), (2, 2.0)]);
    let other = remote_write(&[("__name__", "other_load")], &[(1, 1.0), (2, 2.0), (3, 3.0)]);
    assert_eq!(gate.write(&token, kept).send().await.status, 204);
    assert_eq!(gate.write(&token, other).send().await.status, 204);
    assert_eq!(gate.metric("wicketgate_ingest_samples_accepted_total").await, 5.0);
    assert_eq!(gate.metric("wicketgate_ingest_samples_dropped_total{reason=\"not_kept\"}").await, 3.0);
}
