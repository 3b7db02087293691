//! What the process serves: the parts that live as long as it does, and the current gate, which a reload replaces.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;

use super::{background::Background, data::DataPath};
use crate::{
    client::Clients,
    clock,
    gate::{
        audit::Log,
        credentials::CallerMetrics,
        grants::Grants,
        listen,
        proxy::{Gate, Metrics},
    },
    telemetry::Telemetry,
};

/// What every task and worker shares.
pub(super) struct Shared {
    /// The configuration file.
    pub(super) file: PathBuf,
    pub(super) clients: Clients,
    pub(super) process: Process,
    pub(super) serving: ArcSwap<Serving>,
}

/// The parts that live as long as the process, whatever a reload changes.
pub(super) struct Process {
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) caller_metrics: CallerMetrics,
    pub(super) audit: Arc<Log>,
    pub(super) data: Option<DataPath>,
    pub(super) grants: Option<Arc<Grants>>,
}

/// One configuration, built: it is served whole and never patched.
pub(super) struct Serving {
    pub(super) gate: Gate,
    /// The TLS settings of the listeners, in order.
    pub(super) tls: Vec<Option<listen::Tls>>,
    pub(super) background: Background,
    /// The files and folders that the configuration was read from.
    pub(super) files: Vec<PathBuf>,
    pub(super) read_at: clock::Timestamp,
}
