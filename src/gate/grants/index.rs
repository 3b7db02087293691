//! All grants that are known, for reading: an immutable map, made anew at each change. Pure.
//!
//! Promises: what is granted to a principal is found without looking at others' grants, and whoever asks for one that
//! has ended gets nothing. A grant that stays in force stays the same [`Active`] from one book to the next, so that
//! what stands on it goes on; for one that does not, [`Book::lost`] says whom to tell.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Grant, Scope, State};
use crate::{
    clock::{self, Timestamp},
    gate::policy::Resource,
};

/// Grants of one principal that have ended and are remembered all the same; the oldest go first.
const ENDED_EACH: usize = 200;

/// What the store says of a grant.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) grant: Arc<Grant>,
    /// Counts up with each change of the store.
    pub(super) revision: u64,
}

/// Entries by the grant's id.
pub(super) type Entries = HashMap<Uuid, Entry>;

/// A grant that counts.
#[derive(Debug)]
pub(crate) struct Active {
    /// The grant's id.
    pub id: Uuid,
    /// From here on it counts no longer.
    pub until: Timestamp,
    /// Cancelled when it stops counting before that.
    pub ended: CancellationToken,
    role: Arc<str>,
    scope: Scope,
}

/// What a principal is granted on one resource.
#[derive(Debug, Default)]
pub(crate) struct GrantedRoles {
    /// The grants; of several that give the same role, the one that lasts longest.
    pub grants: Vec<Arc<Active>>,
    /// The role of each.
    pub roles: Vec<Arc<str>>,
}

/// The map.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) entries: Entries,
    active: HashMap<Arc<str>, Vec<Arc<Active>>>,
}

impl Book {
    /// A book of these entries. Nothing counts in it unless the store is `trusted` to have told all there is.
    pub(super) fn new(entries: Entries, trusted: bool, before: &Self, now: Timestamp) -> Self {
        let mut active: HashMap<Arc<str>, Vec<Arc<Active>>> = HashMap::new();
        for grant in entries.values().map(|entry| &entry.grant).filter(|_| trusted) {
            let (State::Approved, Some(approval)) = (grant.state(now), &grant.approved) else { continue };
            let same = |known: &&Arc<Active>| known.id == grant.id && known.until == approval.until;
            let known = before.of(&grant.asker.name).iter().find(same).cloned();
            let one = known.unwrap_or_else(|| {
                let role = grant.role.clone();
                let scope = grant.resource.clone();
                Arc::new(Active { id: grant.id, until: approval.until, ended: CancellationToken::new(), role, scope })
            });
            active.entry(grant.asker.name.clone()).or_default().push(one);
        }
        Self { entries, active }
    }

    /// The grants that counted in this book and do not in `next`.
    pub(super) fn lost<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = &'b Active> {
        let all = self.active.iter().flat_map(|(asker, grants)| grants.iter().map(move |grant| (asker, grant)));
        all.filter(|(asker, grant)| !next.of(asker).iter().any(|kept| Arc::ptr_eq(kept, grant)))
            .map(|(_, grant)| &**grant)
    }

    /// What `asker` is granted on this resource. Allocates only where there is something.
    pub(super) fn active_grants(&self, asker: &str, resource: &Resource, now: Timestamp) -> GrantedRoles {
        let mut held = GrantedRoles::default();
        for grant in self.of(asker).iter().filter(|grant| now < grant.until && grant.scope.covers(resource)) {
            match held.roles.iter().position(|role| *role == grant.role).and_then(|at| held.grants.get_mut(at)) {
                Some(known) if known.until < grant.until => *known = grant.clone(),
                Some(_) => {}
                None => {
                    held.roles.push(grant.role.clone());
                    held.grants.push(grant.clone());
                }
            }
        }
        held
    }

    fn of(&self, asker: &str) -> &[Arc<Active>] {
        self.active.get(asker).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every grant, the newest first.
    pub(super) fn newest_first(&self) -> Vec<Arc<Grant>> {
        let mut all: Vec<Arc<Grant>> = self.entries.values().map(|entry| entry.grant.clone()).collect();
        all.sort_unstable_by_key(|grant| Reverse((grant.asked_at, grant.id)));
        all
    }

    /// How many are pending and how many count, of one principal or of all.
    pub(super) fn count(&self, asker: Option<&str>, now: Timestamp) -> (usize, usize) {
        let grants = self.entries.values().map(|entry| &entry.grant);
        let of = grants.filter(|grant| asker.is_none_or(|asker| *grant.asker.name == *asker));
        of.fold((0, 0), |(pending, approved), grant| match grant.state(now) {
            State::Pending => (pending + 1, approved),
            State::Approved => (pending, approved + 1),
            State::Ended(_) => (pending, approved),
        })
    }

    /// What need not be remembered any longer: what ended `keep` ago, and of each principal's more than 200 that have
    /// ended the oldest.
    pub(super) fn surplus(&self, keep: Duration, now: Timestamp) -> Vec<Uuid> {
        let mut ended: HashMap<&str, Vec<(Timestamp, Uuid)>> = HashMap::new();
        let mut surplus = Vec::new();
        for (id, entry) in &self.entries {
            match entry.grant.ended_at(now) {
                Some(at) if clock::after(at, keep) <= now => surplus.push(*id),
                Some(at) => ended.entry(&entry.grant.asker.name).or_default().push((at, *id)),
                None => {}
            }
        }
        for mut of_one in ended.into_values() {
            of_one.sort_unstable_by_key(|ended| Reverse(*ended));
            surplus.extend(of_one.into_iter().skip(ENDED_EACH).map(|(_, id)| id));
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        clock::after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    fn approved(id: u128, role: &str, scope: &str, seconds: u64) -> Grant {
        let role = role.into();
        let resource = Scope::parse(scope).unwrap();
        let asked = Grant { id: Uuid::from_u128(id), role, resource, seconds, ..Grant::test() };
        asked.approve(&"corp:lead".into(), None, at(0)).unwrap()
    }

    fn entries(grants: &[Grant]) -> Entries {
        let entry = |grant: &Grant| (grant.id, Entry { grant: Arc::new(grant.clone()), revision: 1 });
        grants.iter().map(entry).collect()
    }

    fn book(grants: &[Grant], before: &Book) -> Book {
        Book::new(entries(grants), true, before, at(0))
    }

    #[test]
    fn a_principal_holds_what_is_granted_there_until_it_ends() {
        let pending = Grant { id: Uuid::from_u128(3), ..Grant::test() };
        let grants = [approved(1, "infer", "exporter/*", 10), approved(2, "infer", "exporter/node", 20), pending];
        let book = book(&grants, &Book::default());
        let check = |asker: &str, name: &str, second: u64, expected: &[u128]| {
            let held = book.active_grants(asker, &Resource::Exporter(name.into()), at(second));
            let ids: Vec<u128> = held.grants.iter().map(|grant| grant.id.as_u128()).collect();
            assert_eq!(ids, expected, "{asker} on {name} at {second}");
            assert_eq!(held.roles.len(), held.grants.len());
        };
        check("corp:s", "node", 0, &[2]);
        check("corp:s", "other", 9, &[1]);
        check("corp:s", "other", 10, &[]);
        check("corp:s", "node", 20, &[]);
        check("corp:other", "node", 0, &[]);
        let untrusted = Book::new(entries(&grants), false, &Book::default(), at(0));
        assert!(untrusted.active_grants("corp:s", &Resource::Exporter("node".into()), at(0)).roles.is_empty());
    }

    #[test]
    fn what_stays_in_force_stays_the_same_and_what_does_not_is_named() {
        let one = approved(1, "infer", "exporter/a", 10);
        let two = approved(2, "infer", "exporter/b", 10);
        let first = book(&[one.clone(), two.clone()], &Book::default());
        let next = book(&[one.clone(), two.revoke(&"corp:lead".into(), at(1)).unwrap()], &first);
        assert_eq!(first.lost(&next).map(|grant| grant.id).collect::<Vec<_>>(), [two.id]);
        let held =
            |book: &Book| book.active_grants("corp:s", &Resource::Exporter("a".into()), at(1)).grants.pop().unwrap();
        assert!(Arc::ptr_eq(&held(&first), &held(&next)));
        let untrusted = Book::new(entries(&[one]), false, &next, at(1));
        assert_eq!(next.lost(&untrusted).count(), 1);
    }

    #[test]
    fn what_ended_long_ago_and_what_is_too_much_of_one_principals_is_forgotten() {
        let lasting: Vec<Grant> = (1..=250).map(|n| approved(n, "infer", "exporter/a", n as u64)).collect();
        let book = book(&lasting, &Book::default());
        let surplus = |keep, now| book.surplus(Duration::from_secs(keep), at(now)).len();
        assert_eq!(surplus(1000, 100), 0);
        assert_eq!(surplus(10, 100), 90);
        assert_eq!(surplus(1000, 249), 49);
        assert_eq!(book.count(None, at(100)), (0, 150));
    }
}
