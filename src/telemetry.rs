//! Metrics and readiness: what this program says about itself.
//!
//! Promises: metric names begin with `wicketgate_`, units are base units, and no label takes a value that a caller
//! can choose freely. It never holds a token, a claim or a credential.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus_client::registry::Registry;

type Hook = Box<dyn Fn() + Send + Sync>;

/// The registry of metrics and the list of what stands in the way of being ready.
#[derive(Default)]
pub struct Telemetry {
    registry: Mutex<Registry>,
    hooks: Mutex<Vec<Hook>>,
    troubles: Mutex<BTreeMap<String, Trouble>>,
}

#[derive(Clone, Debug)]
struct Trouble {
    blocks: bool,
    text: String,
}

impl Telemetry {
    /// An empty registry with the `wicketgate_` prefix.
    #[must_use]
    pub fn new() -> Self {
        Self { registry: Mutex::new(Registry::with_prefix("wicketgate")), ..Self::default() }
    }

    /// Registers metrics; `register` runs at once.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `hook` run before each exposition, for gauges that are read off rather than counted.
    pub fn before_exposition(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Everything registered, in OpenMetrics text format.
    #[must_use]
    pub fn exposition(&self) -> String {
        for hook in self.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hook();
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // writing to a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    /// Says that `part` is in trouble: `blocks` makes the gate not ready, else it is a warning that `/readyz` shows.
    pub fn trouble(&self, part: &str, blocks: bool, text: impl Into<String>) {
        let trouble = Trouble { blocks, text: text.into() };
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).insert(part.to_owned(), trouble);
    }

    /// Says that `part` is well again.
    pub fn well(&self, part: &str) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    /// Whether the gate is ready, and a line for each part in trouble.
    #[must_use]
    pub fn readiness(&self) -> (bool, String) {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = !troubles.values().any(|trouble| trouble.blocks);
        let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
        for (part, trouble) in troubles.iter() {
            let kind = if trouble.blocks { "trouble" } else { "warning" };
            text.push_str(&format!("{kind}: {part}: {}\n", trouble.text));
        }
        (ready, text)
    }
}

/// An error and its causes on one line.
#[must_use]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
