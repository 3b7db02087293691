//! Directory with the demo's files: configuration, certificates, tokens and policies.
//!
//! Promises: files appear whole or not at all, and those with a secret in them are readable by their owner only. A
//! `wicketgate.toml` that this module did not write, or `policies` beside none, are never overwritten.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{fs, io::AsyncWriteExt};

use super::{error::DemoError, random::random_text};

/// The first line of every configuration written here; a file without it is not overwritten.
const MARK: &str = "# wicketgate.toml, written by `wicketgate demo`.";

/// The file that the demo locks while it runs in a directory.
const LOCK: &str = ".demo.lock";

/// Where the demo's files are.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// Locked for as long as a demo runs here: a second one would overwrite its certificates and tokens.
    _lock: Arc<File>,
}

/// The policies that this program ships with.
const POLICIES: [(&str, &str); 3] = [
    ("roles.toml", include_str!("../../policies/roles.toml")),
    ("wicketgate.cedar", include_str!("../../policies/wicketgate.cedar")),
    ("wicketgate.cedarschema", include_str!("../../policies/wicketgate.cedarschema")),
];

impl Directory {
    /// A new directory below the system's temporary directory, for its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn temporary() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("wicketgate-demo-{}", random_text(6)?));
        let failed = |cause| DemoError::File(path.clone(), cause);
        fs::DirBuilder::new().mode(0o700).create(&path).await.map_err(failed)?;
        Self::at(&path).await
    }

    /// The directory at this path; it is created if it does not exist.
    ///
    /// # Errors
    /// When it cannot be made, or holds a `wicketgate.toml` that is not a demo's.
    pub async fn at(path: &Path) -> Result<Self, DemoError> {
        let failed = |cause| DemoError::File(path.to_owned(), cause);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).await.map_err(failed)?;
        // commands are copied into other terminals, whose working directory is another
        let path = fs::canonicalize(path).await.map_err(failed)?;
        let config = path.join("wicketgate.toml");
        match fs::read_to_string(&config).await {
            Ok(text) if !text.starts_with(MARK) => return Err(DemoError::ForeignConfiguration(config)),
            // a demo that stopped before it wrote its configuration left its lock
            Err(_) if path.join("policies").exists() && !path.join(LOCK).exists() => {
                return Err(DemoError::ForeignConfiguration(path.join("policies")));
            }
            _ => {}
        }
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|_| DemoError::InUse(path.clone()))?;
        let directory = Self { path, _lock: Arc::new(lock) };
        for below in ["certs", "tokens", "policies"] {
            let path = directory.join(below);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).await;
            made.map_err(|cause| DemoError::File(path, cause))?;
        }
        Ok(directory)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) async fn write_policies(&self) -> Result<(), DemoError> {
        for (name, text) in POLICIES {
            self.write(&format!("policies/{name}"), text, 0o644).await?;
        }
        Ok(())
    }

    pub(super) async fn write_config(&self, text: &str) -> Result<(), DemoError> {
        self.write("wicketgate.toml", &format!("{MARK}\n{text}"), 0o644).await
    }

    /// Writes a file that every user may read.
    pub(super) async fn write_public(&self, name: &str, text: &str) -> Result<(), DemoError> {
        self.write(name, text, 0o644).await
    }

    /// Writes a file that only its owner may read.
    pub(super) async fn write_secret(&self, name: &str, text: &str) -> Result<(), DemoError> {
        self.write(name, text, 0o600).await
    }

    /// Writes beside and renames, so that a reader never sees half a file.
    async fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), DemoError> {
        let path = self.join(name);
        let fresh = self.join(&format!("{name}.new"));
        let written: io::Result<()> = async {
            // a leftover of a demo that was killed may have another mode
            match fs::remove_file(&fresh).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).await?;
            file.write_all(text.as_bytes()).await?;
            file.flush().await?;
            fs::rename(&fresh, &path).await
        }
        .await;
        written.map_err(|cause| DemoError::File(path, cause))
    }
}
