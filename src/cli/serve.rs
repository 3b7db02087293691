//! `wicketgate serve`: runs the gate until SIGINT or SIGTERM, then drains it.

use std::{path::Path, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::output::{USAGE_ERROR, print_error};
use crate::{app::App, telemetry::chain};

pub(super) fn serve(config: &Path) -> ExitCode {
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("background").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        // before the start: a signal without a handler ends the process at once
        let mut interrupt = handle(SignalKind::interrupt());
        let mut terminate = handle(SignalKind::terminate());
        match App::start(config).await {
            Ok(app) => {
                tokio::select! {
                    Some(()) = async { interrupt.as_mut()?.recv().await } => {}
                    Some(()) = async { terminate.as_mut()?.recv().await } => {}
                    else => std::future::pending().await,
                }
                app.stop().await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                print_error(&chain(&error));
                ExitCode::from(USAGE_ERROR)
            }
        }
    })
}

/// Logs JSON lines to standard error. `RUST_LOG` sets the filter; the default is `info`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // an error means that a logger is set already
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .try_init();
}

/// A handler for the signal; `None` if it cannot be installed.
fn handle(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .map_err(|error| tracing::warn!(%error, "a signal cannot be handled: it ends the process without a drain"))
        .ok()
}
