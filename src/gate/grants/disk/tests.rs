use super::*;
use crate::pipeline::testing::Directory;

#[test]
fn what_is_written_is_there_when_it_is_opened_again() {
    let directory = Directory::new("grants");
    let grant = Grant::test();
    let other = Grant { id: Uuid::from_u128(2), ..Grant::test() };
    {
        let (file, entries) = File::open(&directory.0).unwrap();
        assert!(entries.is_empty());
        file.put(Some(&grant), &[]).unwrap();
        file.put(Some(&other), &[]).unwrap();
        file.put(None, &[other.id]).unwrap();
        assert!(matches!(File::open(&directory.0), Err(OpenError::InUse(_))));
    }
    let (_, entries) = File::open(&directory.0).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(*entries[&grant.id].grant, grant);
}

#[test]
fn a_grant_that_cannot_be_read_is_not_passed_over() {
    let directory = Directory::new("grants-broken");
    {
        let (file, _) = File::open(&directory.0).unwrap();
        let database = file.database.lock().unwrap().take().unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(GRANTS).unwrap().insert(1, b"{}".as_slice()).unwrap();
        transaction.commit().unwrap();
    }
    assert!(matches!(File::open(&directory.0), Err(OpenError::Broken(..))));
}
