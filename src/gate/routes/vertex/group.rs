//! Groups of Vertex methods. Policies and service accounts are assigned by group.

/// A group of actions. Each Vertex method is in one group, and each group has its own service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Writes data.
    Ingest,
    /// Runs inference on a model.
    Infer,
    /// Trains models.
    Train,
    /// Reads resources.
    Observe,
    /// Everything else.
    Administer,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Infer, Self::Train, Self::Observe, Self::Administer];

    /// The group's name in policies and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Infer => "infer",
            Self::Train => "train",
            Self::Observe => "observe",
            Self::Administer => "administer",
        }
    }
}
