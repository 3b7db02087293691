//! The text that the demo prints when it is up: addresses, and commands to copy.

use std::net::SocketAddr;

use crate::demo::{
    environment::{EXPORTER, Environment},
    google::{ENDPOINT, LOCATION, PROJECT},
};

pub(super) fn instructions(environment: &Environment, gate: SocketAddr, admin: SocketAddr, forecast: bool) -> String {
    let file = |name: &str| shell_quoted(&environment.directory.join(name).display().to_string());
    let as_role = |role: &str| {
        format!(
            "curl --cacert {} -H \"Authorization: Bearer $(cat {})\"",
            file("certs/ca.pem"),
            file(&format!("tokens/{role}.jwt"))
        )
    };
    let predict = format!(
        "-H 'content-type: application/json' -d '{{\"instances\":[{{\"input\":[10,20,31,19,11,20,30,21,9,21,30,20],\"horizon\":4}}]}}' \
         https://{gate}/v1/projects/{PROJECT}/locations/{LOCATION}/endpoints/{ENDPOINT}:predict"
    );
    let late = if forecast { "" } else { " (not ready yet: try again in a few seconds)" };
    format!(
        "\n\
         gate:           https://{gate}\n\
         its metrics:    http://{admin}/metrics\n\
         files:          {directory}\n\n\
         Scrape the exporter with a token of the role `scrape`. The gate sends the exporter's password:\n  \
         {scrape} https://{gate}/exporters/{EXPORTER}/metrics\n\n\
         The same without a token is 401:\n  \
         curl --cacert {ca} https://{gate}/exporters/{EXPORTER}/metrics\n\n\
         The role `ingest` must not infer. The refusal says why (403):\n  \
         {ingest} {predict}\n\n\
         The role `infer` gets a prediction from Vertex. The gate adds the Google credential; the caller never sees it:\n  \
         {infer} {predict}\n\n\
         Google's log names the caller, not the gate:\n  \
         grep 'Vertex request' {log} | tail -n 2\n\n\
         Every request is in the audit log. Each line holds the hash of the line before it:\n  \
         tail -n 4 {audit}\n\n\
         The forecast of the live metric for the next minute, as metrics{late}:\n  \
         {scrape} https://{gate}/metrics/predictions\n\n\
         The gate's own metrics:\n  \
         curl http://{admin}/metrics\n\n\
         Ctrl-C stops the demo.",
        directory = environment.directory.path().display(),
        scrape = as_role("scrape"),
        ingest = as_role("ingest"),
        infer = as_role("infer"),
        ca = file("certs/ca.pem"),
        audit = file("audit.jsonl"),
        log = file("wicketgate.log"),
    )
}

/// A path, quoted for a shell.
fn shell_quoted(path: &str) -> String {
    if path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(shell_quoted("/tmp/a-b_c.d"), "/tmp/a-b_c.d");
        assert_eq!(shell_quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }
}
