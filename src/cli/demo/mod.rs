//! `wicketgate demo`: the whole of it on one machine, with nothing to install and nobody to ask.
//!
//! Promises: everything is on loopback; what it prints works as printed; a taken port is said before anything is
//! started; Ctrl-C and SIGTERM end it cleanly, and its directory stays.

mod caller;
mod progress;

use std::{
    fmt,
    fs::File,
    io::{IsTerminal, stdout},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use super::{WRONG, complain, say};
use crate::{
    app::App,
    demo::{
        directory::Directory,
        environment::{EXPORTER, Ports, World},
        google::{ENDPOINT, LOCATION, PROJECT},
    },
    telemetry::chain,
};
use caller::Caller;
use progress::Progress;

/// What has not come by then does not hold the instructions back.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `wicketgate demo` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The gate's port on 127.0.0.1
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// The admin listener's port on 127.0.0.1
    #[arg(long, default_value_t = 9464)]
    admin_port: u16,
    /// Where certificates, tokens, configuration and audit log go [default: a fresh temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Why there is no demo.
#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

pub(super) fn demo(options: &Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("background").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(WRONG)
        }
    }
}

/// Runs until it is told to stop.
async fn run(options: &Options) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    free("--port", options.port).await?;
    free("--admin-port", options.admin_port).await?;
    let directory = match &options.dir {
        Some(path) => Directory::at(path).await?,
        None => Directory::temporary().await?,
    };
    let path = directory.path().display().to_string();
    say(&format!("directory: {path}"));
    log_to_file(&directory)?;
    let running = tokio::select! {
        started = start(directory, options) => Some(started?),
        () = stop.told() => None,
    };
    if let Some((world, app)) = running {
        stop.told().await;
        app.stop().await;
        world.stop().await;
    }
    say(&format!("stopped; {path} stays"));
    Ok(())
}

async fn start(directory: Directory, options: &Options) -> Result<(World, App), Failure> {
    let mut progress = Progress::new(4);
    progress.step("starting an identity provider, an emulator of Google and an exporter");
    let world = World::start(directory, Ports { gate: options.port, admin: options.admin_port }).await?;
    progress.step("starting the gate");
    let app = App::start(&world.directory.join("wicketgate.toml")).await?;
    let gate = app.gate_addresses().first().map(|(address, _)| *address);
    let gate = gate.ok_or_else(|| Failure("the gate has no listener".to_owned()))?;
    progress.step("sending it ten minutes of the exporter's history by remote write");
    let caller = Caller::new(&world, gate)?;
    caller.send_history(&world, PATIENCE).await?;
    progress.step("waiting for the first forecast");
    let forecast = caller.first_forecast(&world, PATIENCE).await;
    progress.end();
    say(&instructions(&world, gate, app.admin_address(), forecast));
    Ok((world, app))
}

/// What the gate says while it runs goes to a file: the terminal is for the instructions.
fn log_to_file(directory: &Directory) -> Result<(), Failure> {
    let file = File::create(directory.join("wicketgate.log"))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // an error means that a logger is set already
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(Mutex::new(file))
        .with_env_filter(filter)
        .try_init();
    Ok(())
}

/// Whether a port can be had; the one who holds it is another demo more often than not.
async fn free(option: &str, port: u16) -> Result<(), Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    match TcpListener::bind(address).await {
        Ok(_) => Ok(()),
        Err(cause) => {
            Err(Failure(format!("cannot listen on `{address}`: {cause}; choose another port with `{option}`")))
        }
    }
}

fn instructions(world: &World, gate: SocketAddr, admin: SocketAddr, forecast: bool) -> String {
    let file = |name: &str| quoted(&world.directory.join(name).display().to_string());
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
        directory = world.directory.path().display(),
        scrape = as_role("scrape"),
        ingest = as_role("ingest"),
        infer = as_role("infer"),
        ca = file("ca.pem"),
        audit = file("audit.jsonl"),
        log = file("wicketgate.log"),
    )
}

/// A path as a shell reads it back.
fn quoted(path: &str) -> String {
    if path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

/// The signals that end the demo: Ctrl-C, SIGTERM, and on a terminal its closing. Elsewhere SIGHUP is the gate's.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: stdout().is_terminal().then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            Some(()) = async { self.hang_up.as_mut()?.recv().await } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted("/tmp/a-b_c.d"), "/tmp/a-b_c.d");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }

    #[tokio::test]
    async fn a_taken_port_names_the_option() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let problem = free("--port", port).await.unwrap_err().to_string();
        assert!(problem.contains("`--port`") && problem.contains(&port.to_string()), "{problem}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_demo_forecasts_the_live_metric_and_does_so_again_in_the_same_directory() {
        crate::client::share_cryptography();
        let path = Directory::temporary().await.unwrap().path().to_owned();
        for run in ["first", "second"] {
            let directory = Directory::at(&path).await.unwrap();
            // the second knows its port, and so its URL, in advance
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let port = if run == "first" { 0 } else { free };
            let (world, app) = start(directory, &Options { port, admin_port: 0, dir: None }).await.unwrap();
            let caller = Caller::new(&world, app.gate_addresses()[0].0).unwrap();
            assert!(caller.first_forecast(&world, PATIENCE).await, "no forecast within {PATIENCE:?} in the {run} run");
            let asked = world.google.server().seen();
            let predict = asked.iter().find(|seen| seen.path.ends_with("/endpoints/1001:predict")).unwrap();
            let token = predict.header("authorization").unwrap().trim_start_matches("Bearer ");
            assert_eq!(world.google.account_of(token).unwrap(), "wicketgate-infer@demo.iam.gserviceaccount.com");
            let named = if run == "first" { "wicketgate" } else { "wicketgate:forecast" };
            assert_eq!(world.google.subject_of(token).unwrap(), named);
            app.stop().await;
            world.stop().await;
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
