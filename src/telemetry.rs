//! Prometheus metrics and readiness of this process.
//!
//! Promises: metric names begin with `wicketgate_`, units are base units, and no label takes a value that a caller
//! can choose freely. It never holds a token, a claim or a credential.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus_client::registry::Registry;

type Hook = Box<dyn Fn() + Send + Sync>;

/// The registry of metrics and the components that are unhealthy.
#[derive(Default)]
pub struct Telemetry {
    registry: Mutex<Registry>,
    hooks: Mutex<Vec<Hook>>,
    unhealthy: Mutex<BTreeMap<String, Unhealthy>>,
}

#[derive(Clone, Debug)]
struct Unhealthy {
    blocks_readiness: bool,
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

    /// Runs `hook` before each exposition, for gauges whose value is read when it is asked for.
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

    /// Reports a problem of `component`. It makes the gate unready if it `blocks_readiness`; otherwise it is a warning
    /// that `/readyz` lists.
    pub fn set_unhealthy(&self, component: &str, blocks_readiness: bool, text: impl Into<String>) {
        let problem = Unhealthy { blocks_readiness, text: text.into() };
        self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner).insert(component.to_owned(), problem);
    }

    /// Removes the problem of `component`, if it has one.
    pub fn set_healthy(&self, component: &str) {
        self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner).remove(component);
    }

    /// Whether the gate is ready, and a line for each unhealthy component.
    #[must_use]
    pub fn readiness(&self) -> (bool, String) {
        let unhealthy = self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = !unhealthy.values().any(|problem| problem.blocks_readiness);
        let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
        for (component, problem) in unhealthy.iter() {
            let level = if problem.blocks_readiness { "error" } else { "warning" };
            text.push_str(&format!("{level}: {component}: {}\n", problem.text));
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
