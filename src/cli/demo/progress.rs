//! Progress display of the demo's start: a bar on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::print_error;

/// The display. Dropping it takes the bar away.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    step: u64,
    steps: u64,
}

impl Progress {
    /// A display for this many steps.
    pub(super) fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{spinner:.green} [{pos}/{len}] {msg} ({elapsed})");
        let bar = style.ok().filter(|_| stderr().is_terminal()).map(|style| {
            let bar = ProgressBar::new(steps).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self { bar, step: 0, steps }
    }

    /// The next step has begun.
    pub(super) fn step(&mut self, what: &'static str) {
        self.step += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.step);
                bar.set_message(what);
            }
            None => print_error(&format!("[{}/{}] {what}", self.step, self.steps)),
        }
    }

    /// All is done.
    pub(super) fn end(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
