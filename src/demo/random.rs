//! Random text for keys, passwords and names.

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::error::DemoError;

/// `bytes` random bytes in base64url, which fits a header, a URL and a file name.
pub(crate) fn random_text(bytes: usize) -> Result<String, DemoError> {
    let mut filled = vec![0; bytes];
    rand::fill(&mut filled).map_err(|_| DemoError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(filled))
}
