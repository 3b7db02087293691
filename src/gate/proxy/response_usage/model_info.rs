//! What a response says of the model that produced it.

/// Longest value that is read, in bytes.
pub(super) const MAX_VALUE: usize = 1024;

/// The model that responded, and the tokens that it counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelInfo {
    pub(super) model: Option<String>,
    pub(super) deployed_model: Option<String>,
    pub(super) version: Option<String>,
    pub(super) tokens: Option<u64>,
}

/// The fields of a response that are read: `model`, `model_version_id` and `deployed_model_id` of PredictResponse,
/// `deployed_model_id` of ExplainResponse, `model_version` of GenerateContentResponse, and its `usage_metadata`, which has
/// the tokens of request and response together. In a stream the last `usage_metadata` counts all messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageField {
    Model,
    DeployedModel,
    Version,
    Usage,
}

impl ModelInfo {
    pub(super) fn set(&mut self, field: UsageField, text: String) {
        let slot = match field {
            UsageField::Model => &mut self.model,
            UsageField::DeployedModel => &mut self.deployed_model,
            UsageField::Version => &mut self.version,
            // an object, not a string
            UsageField::Usage => return,
        };
        *slot = Some(text).filter(|text| !text.is_empty());
    }
}
