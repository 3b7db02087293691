//! `wicketgate demo`: the gate and emulators of its peers on one machine; nothing to install or configure.
//!
//! Promises: everything is on loopback; what it prints works as printed; a taken port is said before anything is
//! started; Ctrl-C and SIGTERM end it cleanly, and its directory stays.

mod client;
mod error;
mod instructions;
mod progress;
mod shutdown;

use std::{fs::File, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Mutex, time::Duration};

use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use super::output::{USAGE_ERROR, print_error, print_line};
use crate::{
    app::App,
    demo::{
        directory::Directory,
        environment::{Environment, Ports},
    },
};
use client::DemoClient;
use error::StartError;
use instructions::instructions;
use progress::Progress;
use shutdown::ShutdownSignals;

/// What has not come by then does not hold the instructions back.
const TIMEOUT: Duration = Duration::from_secs(15);

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

pub(super) fn demo(options: &Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("background").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_error(&failure.to_string());
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// Runs until it is told to stop.
async fn run(options: &Options) -> Result<(), StartError> {
    let mut stop = ShutdownSignals::new()?;
    check_port("--port", options.port).await?;
    check_port("--admin-port", options.admin_port).await?;
    let directory = match &options.dir {
        Some(path) => Directory::at(path).await?,
        None => Directory::temporary().await?,
    };
    let path = directory.path().display().to_string();
    print_line(&format!("directory: {path}"));
    log_to_file(&directory)?;
    let running = tokio::select! {
        started = start(directory, options) => Some(started?),
        () = stop.received() => None,
    };
    if let Some((environment, app)) = running {
        stop.received().await;
        app.stop().await;
        environment.stop().await;
    }
    print_line(&format!("stopped; {path} stays"));
    Ok(())
}

async fn start(directory: Directory, options: &Options) -> Result<(Environment, App), StartError> {
    let mut progress = Progress::new(4);
    progress.step("starting an identity provider, an emulator of Google and an exporter");
    let environment = Environment::start(directory, Ports { gate: options.port, admin: options.admin_port }).await?;
    progress.step("starting the gate");
    let app = App::start(&environment.directory.join("wicketgate.toml")).await?;
    let gate = app.gate_addresses().first().map(|(address, _)| *address);
    let gate = gate.ok_or_else(|| StartError("the gate has no listener".to_owned()))?;
    progress.step("sending it ten minutes of the exporter's history by remote write");
    let client = DemoClient::new(&environment, gate)?;
    client.send_history(&environment, TIMEOUT).await?;
    progress.step("waiting for the first forecast");
    let forecast = client.first_forecast(&environment, TIMEOUT).await;
    progress.end();
    print_line(&instructions(&environment, gate, app.admin_address(), forecast));
    Ok((environment, app))
}

/// What the gate says while it runs goes to a file: the terminal is for the instructions.
fn log_to_file(directory: &Directory) -> Result<(), StartError> {
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

/// Fails if a port is taken, usually by another demo.
async fn check_port(option: &str, port: u16) -> Result<(), StartError> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    match TcpListener::bind(address).await {
        Ok(_) => Ok(()),
        Err(cause) => {
            Err(StartError(format!("cannot listen on `{address}`: {cause}; choose another port with `{option}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_the_option() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let problem = check_port("--port", port).await.unwrap_err().to_string();
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
            let (environment, app) = start(directory, &Options { port, admin_port: 0, dir: None }).await.unwrap();
            let client = DemoClient::new(&environment, app.gate_addresses()[0].0).unwrap();
            assert!(
                client.first_forecast(&environment, TIMEOUT).await,
                "no forecast within {TIMEOUT:?} in the {run} run"
            );
            let requests = environment.google.server().requests();
            let predict = requests.iter().find(|request| request.path.ends_with("/endpoints/1001:predict")).unwrap();
            let token = predict.header("authorization").unwrap().trim_start_matches("Bearer ");
            assert_eq!(environment.google.account_of(token).unwrap(), "wicketgate-infer@demo.iam.gserviceaccount.com");
            let named = if run == "first" { "wicketgate" } else { "wicketgate:forecast" };
            assert_eq!(environment.google.subject_of(token).unwrap(), named);
            app.stop().await;
            environment.stop().await;
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
