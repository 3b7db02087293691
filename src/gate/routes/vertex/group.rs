//! Groups of Vertex methods; policies and downstream service accounts are by group.

/// A group of actions. Each Vertex method is in one, and each has a service account of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Writes data.
    Ingest,
    /// Asks a model.
    Infer,
    /// Makes models.
    Train,
    /// Looks at resources.
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
