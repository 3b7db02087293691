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
            file("ca.pem"),
            file(&format!("tokens/{role}.jwt"))
        )
    };
    let predict = format!(
        "-H 'content-type: application/json' -d '{{\"instances\":[{{\"input\":[10,20,31,19,11,20,30,21,9,21,30,20],\"horizon\":4}}]}}' \
         https://{gate}/v1/projects/{PROJECT}/locations/{LOCATION}/endpoints/{ENDPOINT}:predict"
    );
    let late = if forecast { "" } else { " (it is late: try again in a moment)" };
    format!(
        "\n\
         the gate:       https://{gate}\n\
         its metrics:    http://{admin}/metrics\n\
         its own files:  {directory}\n\n\
         Scrape the exporter. The gate knows its password; the caller shows a token:\n  \
         {scrape} https://{gate}/exporters/{EXPORTER}/metrics\n\n\
         Without a token it is refused:\n  \
         curl --cacert {ca} https://{gate}/exporters/{EXPORTER}/metrics\n\n\
         Who may ingest may not infer, and is told why:\n  \
         {ingest} {predict}\n\n\
         Who may infer gets a prediction from Vertex, and never sees a Google credential:\n  \
         {infer} {predict}\n\n\
         Google's own log names the caller, not the gate:\n  \
         grep 'Vertex was asked' {log} | tail -n 2\n\n\
         Every request is in the audit log, each line chained to the one before:\n  \
         tail -n 4 {audit}\n\n\
         The forecast of the live metric for the next minute, as metrics{late}:\n  \
         {scrape} https://{gate}/metrics/predictions\n\n\
         What the gate says of itself:\n  \
         curl http://{admin}/metrics\n\n\
         Ctrl-C stops it.",
        directory = environment.directory.path().display(),
        scrape = as_role("scrape"),
        ingest = as_role("ingest"),
        infer = as_role("infer"),
        ca = file("ca.pem"),
        audit = file("audit.jsonl"),
        log = file("wicketgate.log"),
    )
}

/// A path as a shell reads it back.
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
