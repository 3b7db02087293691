//! The settings that are fixed while the process runs, and the sockets that they bind.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use crate::{
    config::{Config, Problems},
    gate::{audit::AuditError, grants, listen},
    pipeline::spool,
};

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] Problems),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot listen on `{0}`: {1}")]
    Bind(SocketAddr, std::io::Error),
    #[error("cannot use the spool")]
    Spool(#[from] spool::OpenError),
    #[error(transparent)]
    Grants(#[from] grants::OpenError),
    #[error("cannot start a worker")]
    Worker(#[source] std::io::Error),
}

/// The settings that a reload cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FixedSettings {
    listeners: Vec<(SocketAddr, bool)>,
    admin: SocketAddr,
    audit: PathBuf,
    spool: Option<spool::Settings>,
    pub(super) grants: Option<grants::Settings>,
    workers: usize,
    pub(super) max_connections: usize,
    pub(super) drain: Duration,
}

impl FixedSettings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            listeners: config.listeners.iter().map(|l| (l.address, l.tls.is_some())).collect(),
            admin: config.admin,
            audit: config.audit.file.clone(),
            spool: config.data.as_ref().map(|data| data.spool.clone()),
            grants: config.grants.clone(),
            workers: config.gate.workers,
            max_connections: config.gate.max_connections,
            drain: config.gate.drain,
        }
    }

    pub(super) fn bind(&self) -> Result<Sockets, StartError> {
        let failed = |address| move |e| StartError::Bind(address, e);
        let mut gate: Vec<Vec<TcpListener>> = (0..self.workers).map(|_| Vec::new()).collect();
        let mut gate_addresses = Vec::new();
        for &(address, tls) in &self.listeners {
            if listen::is_taken(address) {
                return Err(StartError::Bind(address, std::io::ErrorKind::AddrInUse.into()));
            }
            let mut bound = address;
            for sockets in &mut gate {
                let socket = listen::bind(bound).map_err(failed(address))?;
                // port 0 is any free port, but the same one for every worker
                bound = socket.local_addr().map_err(failed(address))?;
                sockets.push(socket);
            }
            gate_addresses.push((bound, tls));
        }
        let admin = TcpListener::bind(self.admin).map_err(failed(self.admin))?;
        admin.set_nonblocking(true).map_err(failed(self.admin))?;
        let admin_address = admin.local_addr().map_err(failed(self.admin))?;
        Ok(Sockets { gate, gate_addresses, admin, admin_address })
    }
}

/// The bound sockets.
pub(super) struct Sockets {
    /// For each worker one for each listener.
    pub(super) gate: Vec<Vec<TcpListener>>,
    /// The listeners' addresses and whether they use TLS, in the configuration's order.
    pub(super) gate_addresses: Vec<(SocketAddr, bool)>,
    pub(super) admin: TcpListener,
    pub(super) admin_address: SocketAddr,
}
