//! Prometheus HTTP service discovery: the exporters that this caller may scrape.

use http::{HeaderValue, Response, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

use crate::gate::proxy::{
    authorize::{Permit, is_permitted},
    gate::Gate,
};
use crate::{gate::identity::AuthContext, http::Body};

/// The complete list in the format of Prometheus' `http_sd_config`. Each target is this gate, under the name that the
/// caller used; `__metrics_path__` is the exporter's path on the gate, and `instance` is the exporter's own address.
pub(in crate::gate::proxy) fn list(
    gate: &Gate,
    permit: &Permit<'_>,
    context: AuthContext<'_>,
    authority: &str,
) -> Response<Body> {
    let scheme = if context.peer.tls { "https" } else { "http" };
    let visible = gate.routes.exporters().into_iter().filter(|exporter| {
        let action = gate.routes.scrape();
        is_permitted(gate, permit, context, action, &exporter.resource)
    });
    let list: Vec<Value> = visible
        .map(|exporter| {
            let mut labels: Map<String, Value> =
                exporter.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            labels.insert("__scheme__".into(), scheme.into());
            labels.insert(
                "__metrics_path__".into(),
                format!("/exporters/{}{}", exporter.name, exporter.metrics_path).into(),
            );
            labels.insert("exporter".into(), (*exporter.name).into());
            labels.insert("instance".into(), exporter.upstream.authority().into());
            json!({ "targets": [authority], "labels": labels })
        })
        .collect();
    let mut response = Response::new(Body::from(Value::from(list).to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
