//! What the gate signs for Google.

use super::*;
use crate::{
    gate::signing::{Schedule, Settings},
    pipeline::testing::Directory,
};

#[test]
fn a_name_that_google_would_not_take_is_told_of_and_never_cut() {
    let directory = Directory::new("minter");
    let hour = Duration::from_secs(3600);
    let schedule = Schedule { rotate: hour * 24, overlap: hour };
    let signing = Arc::new(Signing::open(Settings { directory: directory.0.clone(), schedule }));
    let minter = Minter { url: "https://gate.test".into(), signing };
    let check = |bytes: usize, expected: bool| {
        let minted = minter.mint(&"x".repeat(bytes), "//iam", "infer");
        assert_eq!(minted.is_ok(), expected, "{bytes} bytes");
        assert!(expected || matches!(minted, Err(CredentialError::Subject(found)) if found == bytes));
    };
    check(127, true);
    check(128, false);
}
