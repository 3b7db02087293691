//! `wicketgate check`.

use std::{path::Path, process::ExitCode};

use super::{WRONG, complain, say};
use crate::{client::Clients, config};

pub(super) fn check(file: &Path) -> ExitCode {
    match config::load(file, &Clients::default()) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
            say(&format!(
                "{}: good: {} listeners, {} issuers, {} exporters, Vertex {}",
                file.display(),
                config.listeners.len(),
                config.issuers.len(),
                config.exporters.len(),
                if config.vertex.is_some() { "fronted" } else { "not fronted" },
            ));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            complain(&problems.to_string());
            ExitCode::from(WRONG)
        }
    }
}
