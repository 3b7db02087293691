//! Policy slices: the policies that can apply to a request. Cedar's cost grows with the number of policies.
//!
//! Promises: a slice holds every policy whose scope can match the question's action, principal with its roles, and
//! resource; so evaluating it gives the same decision, the same deciding policies and the same errors as evaluating all:
//! a policy whose scope does not match is false before its conditions are looked at. Finding a slice takes no work that
//! grows with the number of policies.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{
    ActionConstraint, Entity, EntityTypeName, EntityUid, Policy, PolicySet, PolicySetError, PrincipalConstraint,
    ResourceConstraint,
};
use quick_cache::{Weighter, sync::Cache};

use super::context_attributes::ContextAttributes;

/// Policies in all the slices that are kept at once; the least used make room.
const MAX_CACHED_POLICIES: u64 = 50_000;

/// Policies to be evaluated together.
pub(super) struct Slice {
    pub(super) set: PolicySet,
    /// What any of them can read.
    pub(super) reads: ContextAttributes,
}

/// All policies, by their scopes.
pub(super) struct Index {
    policies: Vec<(Policy, ContextAttributes)>,
    /// For each action the policies that can apply to it; actions that no policy tells apart share them.
    actions: HashMap<EntityUid, Arc<PoliciesByScope>>,
    cached: Cache<Box<[usize]>, Arc<Slice>, SliceWeight>,
}

/// Policies by the principal, or what it is in, that they name; `None` where they name none.
type PoliciesByScope = HashMap<Option<EntityUid>, HashMap<ResourceScope, Vec<usize>>>;

/// The part of a scope that is about the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ResourceScope {
    Anywhere,
    /// Any resource of this type.
    Kind(EntityTypeName),
    /// This resource, and what is in it.
    Below(EntityUid),
}

#[derive(Clone)]
struct SliceWeight;

impl Weighter<Box<[usize]>, Arc<Slice>> for SliceWeight {
    fn weight(&self, which: &Box<[usize]>, _: &Arc<Slice>) -> u64 {
        which.len() as u64 + 1
    }
}

impl Index {
    /// Sorts policies by their scopes. `principal` is the type that all principals have; `actions` are those of the
    /// schema.
    pub(super) fn new<'a>(
        policies: impl Iterator<Item = &'a Policy>,
        principal: &EntityTypeName,
        actions: impl Iterator<Item = &'a Entity>,
        ancestors: impl Fn(&EntityUid) -> Vec<EntityUid>,
    ) -> Self {
        let policies: Vec<(Policy, ContextAttributes)> =
            policies.map(|policy| (policy.clone(), ContextAttributes::of(policy))).collect();
        let mut named: HashMap<EntityUid, Vec<usize>> = HashMap::new();
        let mut of_any = Vec::new();
        for (n, (policy, _)) in policies.iter().enumerate() {
            match policy.action_constraint() {
                ActionConstraint::Any => of_any.push(n),
                ActionConstraint::Eq(action) => named.entry(action).or_default().push(n),
                ActionConstraint::In(groups) => groups.into_iter().for_each(|g| named.entry(g).or_default().push(n)),
            }
        }
        let mut shared: HashMap<Vec<usize>, Arc<PoliciesByScope>> = HashMap::new();
        let mut by_action = HashMap::new();
        for action in actions.map(Entity::uid) {
            let mut reached = ancestors(&action);
            reached.push(action.clone());
            let mut which = of_any.clone();
            which.extend(reached.iter().filter_map(|uid| named.get(uid)).flatten());
            which.sort_unstable();
            which.dedup();
            let by_principal =
                shared.entry(which).or_insert_with_key(|which| Arc::new(by_scope(&policies, which, principal)));
            by_action.insert(action, by_principal.clone());
        }
        Self { policies, actions: by_action, cached: Cache::with_weighter(1000, MAX_CACHED_POLICIES, SliceWeight) }
    }

    /// The policies that can apply. `principal` and `resource` are each with what they are in.
    pub(super) fn slice(
        &self,
        action: Option<&EntityUid>,
        principal: impl Iterator<Item = EntityUid>,
        kind: &EntityTypeName,
        resource: &[EntityUid],
    ) -> Result<Arc<Slice>, Box<PolicySetError>> {
        let mut which = Vec::new();
        if let Some(by_principal) = action.and_then(|action| self.actions.get(action)) {
            let below = resource.iter().map(|uid| ResourceScope::Below(uid.clone()));
            let resource: Vec<ResourceScope> =
                [ResourceScope::Anywhere, ResourceScope::Kind(kind.clone())].into_iter().chain(below).collect();
            for here in std::iter::once(None).chain(principal.map(Some)).filter_map(|uid| by_principal.get(&uid)) {
                which.extend(resource.iter().filter_map(|scope| here.get(scope)).flatten().copied());
            }
            which.sort_unstable();
            which.dedup();
        }
        if let Some(slice) = self.cached.get(which.as_slice()) {
            return Ok(slice);
        }
        let slice = Arc::new(self.make(&which)?);
        self.cached.insert(which.into(), slice.clone());
        Ok(slice)
    }

    /// Fails where two policies have one id, which a set that they come from rules out.
    fn make(&self, which: &[usize]) -> Result<Slice, Box<PolicySetError>> {
        let mut set = PolicySet::new();
        let mut reads = ContextAttributes::NOTHING;
        for (policy, its) in which.iter().filter_map(|n| self.policies.get(*n)) {
            reads |= *its;
            set.add(policy.clone()).map_err(Box::new)?;
        }
        Ok(Slice { set, reads })
    }

    /// All policies as one slice.
    #[cfg(test)]
    pub(super) fn whole(&self) -> Slice {
        let which: Vec<usize> = (0..self.policies.len()).collect();
        Slice { reads: ContextAttributes::ALL, ..self.make(&which).unwrap() }
    }
}

fn by_scope(policies: &[(Policy, ContextAttributes)], which: &[usize], principals: &EntityTypeName) -> PoliciesByScope {
    let mut by_principal = PoliciesByScope::new();
    for (n, (policy, _)) in which.iter().filter_map(|n| Some((*n, policies.get(*n)?))) {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => None,
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => Some(uid),
            PrincipalConstraint::Is(kind) if kind == *principals => None,
            PrincipalConstraint::IsIn(kind, uid) if kind == *principals => Some(uid),
            // of a type that no principal has
            PrincipalConstraint::Is(_) | PrincipalConstraint::IsIn(..) => continue,
        };
        let scope = match policy.resource_constraint() {
            ResourceConstraint::Any => ResourceScope::Anywhere,
            ResourceConstraint::Is(kind) => ResourceScope::Kind(kind),
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                ResourceScope::Below(uid)
            }
        };
        by_principal.entry(principal).or_default().entry(scope).or_default().push(n);
    }
    by_principal
}
