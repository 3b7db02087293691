//! Writing and reading of key files.

use super::*;
use crate::{clock, pipeline::testing::Directory};

#[test]
fn a_key_is_read_only_from_a_private_file_with_its_own_name() {
    let directory = Directory::new("signing-key");
    std::fs::create_dir_all(&directory.0).unwrap();
    let generated = SigningKey::generate(&directory.0, clock::now()).unwrap();
    assert!(names(&directory.0).unwrap().iter().eq([&generated]));
    let path = directory.0.join(file_name(&generated));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(SigningKey::read(&directory.0, &generated).unwrap().kid, generated.kid);

    let other = KeyName { kid: "A".repeat(43), ..generated.clone() };
    std::fs::copy(&path, directory.0.join(file_name(&other))).unwrap();
    assert!(matches!(SigningKey::read(&directory.0, &other), Err(KeyError::Misnamed(_))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(SigningKey::read(&directory.0, &generated), Err(KeyError::WorldAccessible(_))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, format!("{BEGIN}\nAAAA\n{END}\n")).unwrap();
    let error = SigningKey::read(&directory.0, &generated).err().unwrap();
    assert!(matches!(error, KeyError::Malformed(_)) && !error.to_string().contains("AAAA"));
    assert!(parse_name("20261122T201452Z-short.pem").is_none() && parse_name("notes.txt").is_none());
}
