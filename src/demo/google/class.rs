//! Classes of Vertex methods, one for each service account of the demo.

/// A group of methods that one service account may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Writing data.
    Ingest,
    /// Asking models.
    Infer,
    /// Making models.
    Train,
    /// Reading.
    Observe,
    /// Everything else.
    Administer,
}

impl Class {
    /// Its name in lower case.
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
