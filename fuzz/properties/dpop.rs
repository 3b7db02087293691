//! What holds for whatever is sent as a DPoP proof: nothing panics, nothing that was not signed is taken, and a URL
//! that was brought to its normal form is in its normal form.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use wicketgate::internals::{
    clock::Timestamp,
    dpop::{ExpectedProof, normalize_url, verify},
};

/// Takes `data` as a proof; as header and claims of one, with a zero between them; and as a URL.
pub(super) fn check(data: &[u8]) {
    let expected = ExpectedProof {
        method: "GET",
        url: "https://gate.example:443/",
        token: Some("token"),
        // no key has this thumbprint
        key: [0; 32],
        max_age: Duration::from_secs(60),
        now: Timestamp::UNIX_EPOCH,
    };
    let text = String::from_utf8_lossy(data);
    assert!(verify(&text, &expected).is_err(), "{text:?}");
    let mut parts = data.splitn(2, |byte| *byte == 0).map(|part| URL_SAFE_NO_PAD.encode(part));
    let header = parts.next().unwrap_or_default();
    let claims = parts.next().unwrap_or_default();
    for signature in [String::new(), URL_SAFE_NO_PAD.encode([1; 64])] {
        let proof = format!("{header}.{claims}.{signature}");
        assert!(verify(&proof, &expected).is_err(), "{text:?}");
    }
    if let Some(once) = normalize_url(&text) {
        assert_eq!(normalize_url(&once).as_deref(), Some(&*once), "{text:?}");
        let authority = once.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        assert!(!authority.is_empty() && !authority.contains('@'), "{text:?}");
        assert!(!once.contains(['?', '#', '\\', ' ']), "{text:?}");
    }
}
