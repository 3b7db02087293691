//! How much may be used: requests, bytes, instances and tokens in a time, and requests that are open at once; of each
//! principal, each role, each route, or all together.
//!
//! Promises: every limit that a request is for holds for it; a request that one of them refuses uses nothing of any. What
//! is known before (that it is a request, its body's length, its instances) is taken before; what is known only afterwards
//! (the answer's bytes, a model's tokens) is owed, and whoever owes waits. Said waits are true unless others are faster.
//! No I/O, no lock that is waited for over an await.

mod buckets;
mod limiter;
mod rate;
mod ratelimit_headers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use self::{
    buckets::{Account, Accounts, Key},
    limiter::{Meter, Outcome, Standing, Ticks},
    ratelimit_headers::Policy,
};
pub use self::{
    rate::{Rate, Unit},
    ratelimit_headers::Fields,
};

/// What is counted in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Requests that policy permits.
    Requests,
    /// Bytes of request and response bodies together.
    Bytes,
    /// Instances that models are asked about.
    Instances,
    /// Tokens that models count, of questions and answers together.
    Tokens,
}

impl Quantity {
    /// Every quantity.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Bytes, Self::Instances, Self::Tokens];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Instances => "instances",
            Self::Tokens => "tokens",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Requests => "limit_requests",
            Self::Bytes => "limit_bytes",
            Self::Instances => "limit_instances",
            Self::Tokens => "limit_tokens",
        }
    }
}

/// Who shares a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Nobody: each principal has its own.
    Principal,
    /// All who hold a role; a request counts for every role that its caller holds.
    Role,
    /// All who use a route.
    Route,
    /// Everybody.
    Gate,
}

impl Per {
    const fn whom(self) -> &'static str {
        match self {
            Self::Principal => "for each principal",
            Self::Role => "for each role",
            Self::Route => "for each route",
            Self::Gate => "for all callers together",
        }
    }
}

/// A route, or with `exporter` one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The route's kind.
    pub route: Box<str>,
    /// The one exporter's name.
    pub exporter: Option<Box<str>>,
}

/// One `[[limit]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Who shares a budget.
    pub per: Per,
    /// Whom it is for: who holds one of these roles; `None` for everybody.
    pub roles: Option<Vec<Arc<str>>>,
    /// What it is for; `None` for every route.
    pub routes: Option<Vec<Place>>,
    /// The actions that it is for; `None` for every one.
    pub actions: Option<BTreeSet<Box<str>>>,
    /// What it allows in a time, each quantity once.
    pub rates: Vec<(Quantity, Rate)>,
    /// Requests that may be open at once.
    pub streams: Option<u32>,
}

/// What a request is about to use.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The caller.
    pub principal: &'a Arc<str>,
    /// The roles that it was permitted with.
    pub roles: &'a [Arc<str>],
    /// The route's kind.
    pub route: &'static str,
    /// The exporter, where it is one.
    pub exporter: Option<&'a Arc<str>>,
    /// The Cedar action.
    pub action: &'a Arc<str>,
    /// Bytes of the request's body, where they are known.
    pub bytes: Option<u64>,
    /// Instances that a model is asked about; `None` where no model is asked.
    pub instances: Option<u64>,
}

impl Use<'_> {
    /// What is taken of a quantity before the request goes on; nothing where the quantity is not about it.
    fn of(&self, quantity: Quantity) -> Option<u64> {
        match quantity {
            Quantity::Requests => Some(1),
            // an account that owes refuses what needs nothing too
            Quantity::Bytes => Some(self.bytes.unwrap_or_default()),
            Quantity::Instances => self.instances,
            Quantity::Tokens => self.instances.map(|_| 1),
        }
    }
}

/// A limit that a request exceeds.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// The limit's name.
    pub limit: Arc<str>,
    /// What `RateLimit-Policy` calls what was exceeded.
    pub policy: String,
    /// The stable word for audit and programs, such as `limit_requests`.
    pub reason: &'static str,
    /// When it may be tried again, in whole seconds; `None` where that is never.
    pub wait: Option<Duration>,
    /// What the client reads.
    pub text: String,
}

/// All limits of a configuration.
#[derive(Clone, Default)]
pub struct Limits(Vec<Arc<Limit>>);

struct Limit {
    settings: Settings,
    /// Each rate, and how it is told.
    meters: Vec<(Meter, Policy)>,
    /// How many requests may be open, and how that is told.
    streams: Option<(u32, Policy)>,
    accounts: Accounts,
}

/// What a request has taken; it is charged for what becomes known later, and its place among the open requests is free
/// when this is dropped.
#[derive(Default)]
pub struct Spent {
    held: Vec<Held>,
    /// Bytes that were taken before.
    bytes: u64,
    /// Whether a model is asked.
    model: bool,
}

/// A request's part in one account.
struct Held {
    limit: Arc<Limit>,
    account: Arc<Account>,
    /// The quantities that were taken of it, by their bits.
    taken: u8,
    /// Whether it is one of the open requests there.
    open: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.open {
            self.account.close();
        }
    }
}

impl Limits {
    /// Limits with these settings. Those that `before` has with the same settings go on counting where they are.
    #[must_use]
    pub fn new(settings: Vec<Settings>, before: Option<&Self>) -> Self {
        let known = |settings: &Settings| before?.0.iter().find(|limit| limit.settings == *settings).cloned();
        Self(settings.into_iter().map(|s| known(&s).unwrap_or_else(|| Arc::new(Limit::new(s)))).collect())
    }

    /// Takes what a permitted request needs of every limit that it is for, or nothing of any. `fields` is told how they
    /// stand in both cases.
    ///
    /// # Errors
    /// The limit that it exceeds; of several the one that keeps it waiting longest.
    pub fn spend(&self, usage: &Use<'_>, fields: &mut Fields) -> Result<Spent, Exceeded> {
        let mut spent =
            Spent { bytes: usage.bytes.unwrap_or_default(), model: usage.instances.is_some(), ..Spent::default() };
        let mut strictest: Option<(Outcome, Exceeded)> = None;
        let mut refuse = |outcome: Outcome, exceeded: Exceeded| {
            if strictest.as_ref().is_none_or(|(other, _)| outcome > *other) {
                strictest = Some((outcome, exceeded));
            }
        };
        for limit in self.0.iter().filter(|limit| limit.is_for(usage)) {
            let first = spent.held.len();
            spent.held.extend(limit.keys(usage).map(|key| Held::new(limit, &key)));
            for (meter, policy) in &limit.meters {
                let Some(units) = usage.of(meter.quantity) else { continue };
                let mut least: Option<Standing> = None;
                for held in spent.held.iter_mut().skip(first) {
                    let standing = meter.take(&held.account, units);
                    least = least.filter(|least| least.is_stricter_than(&standing)).or(Some(standing));
                    if standing.outcome == Outcome::Taken {
                        held.taken |= meter.quantity.bit();
                    }
                }
                let Some(standing) = least else { continue };
                fields.rate(policy, meter.rate, standing);
                if standing.outcome != Outcome::Taken {
                    refuse(standing.outcome, limit.exceeded(meter, policy, standing.outcome, units));
                }
            }
            if let Some((most, policy)) = &limit.streams {
                let mut least = *most;
                for held in spent.held.iter_mut().skip(first) {
                    let free = held.account.open(*most);
                    held.open = free.is_some();
                    least = least.min(free.unwrap_or_default());
                    if free.is_none() {
                        refuse(Outcome::Wait(SOON), limit.full(*most, policy));
                    }
                }
                fields.streams(policy, least);
            }
        }
        let Some((_, exceeded)) = strictest else { return Ok(spent) };
        spent.held.iter().for_each(|held| held.give_back(usage));
        Err(exceeded)
    }

    /// Whether a principal has used up what is its own already, whatever its request turns out to be. Takes nothing, so it
    /// can be asked before a body is read and policy has decided. Limits for some roles are left for later. `fields` is
    /// told of what is used up.
    ///
    /// # Errors
    /// The limit that keeps it waiting longest.
    pub fn look(&self, usage: &Use<'_>, fields: &mut Fields) -> Result<(), Exceeded> {
        let own = |limit: &&Arc<Limit>| {
            limit.settings.per == Per::Principal && limit.settings.roles.is_none() && limit.is_for(usage)
        };
        let key = Key::Principal(usage.principal.clone());
        let mut strictest: Option<(Duration, Exceeded)> = None;
        let mut refuse = |wait: Duration, exceeded: Exceeded| {
            if strictest.as_ref().is_none_or(|(other, _)| wait > *other) {
                strictest = Some((wait, exceeded));
            }
        };
        for limit in self.0.iter().filter(own) {
            let Some(account) = limit.accounts.known(&key) else { continue };
            for (meter, policy) in limit.meters.iter().filter(|(meter, _)| usage.of(meter.quantity).is_some()) {
                let Some(wait) = meter.wait(&account) else { continue };
                let outcome = Outcome::Wait(wait);
                fields.rate(policy, meter.rate, Standing { outcome, left: 0 });
                refuse(wait, limit.exceeded(meter, policy, outcome, 1));
            }
            if let Some((most, policy)) = limit.streams.as_ref().filter(|(most, _)| !account.is_open(*most)) {
                fields.streams(policy, 0);
                refuse(SOON, limit.full(*most, policy));
            }
        }
        strictest.map_or(Ok(()), |(_, exceeded)| Err(exceeded))
    }
}

/// When somebody who has too many requests open may try again: nobody knows when one of them ends.
const SOON: Duration = Duration::from_secs(1);

impl Limit {
    fn new(settings: Settings) -> Self {
        let ticks = Ticks::new();
        let meter = |&(quantity, rate): &(Quantity, Rate)| {
            (Meter::new(quantity, rate, ticks), Policy::of_rate(&settings.name, quantity, rate))
        };
        let meters = settings.rates.iter().map(meter).collect();
        let streams = settings.streams.map(|most| (most, Policy::of_streams(&settings.name, most)));
        Self { settings, meters, streams, accounts: Accounts::new(ticks) }
    }

    fn is_for(&self, usage: &Use<'_>) -> bool {
        let Settings { roles, routes, actions, .. } = &self.settings;
        let here = |place: &Place| {
            let one = place.exporter.as_deref();
            *place.route == *usage.route && one.is_none_or(|one| usage.exporter.is_some_and(|name| **name == *one))
        };
        roles.as_ref().is_none_or(|roles| usage.roles.iter().any(|role| roles.contains(role)))
            && routes.as_ref().is_none_or(|routes| routes.iter().any(here))
            && actions.as_ref().is_none_or(|actions| actions.contains(&**usage.action))
    }

    /// Whose budgets a request uses.
    fn keys(&self, usage: &Use<'_>) -> impl Iterator<Item = Key> {
        let count = if self.settings.per == Per::Role { usage.roles.len() } else { 1 };
        (0..count).filter_map(move |index| match self.settings.per {
            Per::Principal => Some(Key::Principal(usage.principal.clone())),
            Per::Role => {
                let role = usage.roles.get(index)?;
                let counts = self.settings.roles.as_ref().is_none_or(|roles| roles.contains(role));
                counts.then(|| Key::Role(role.clone()))
            }
            Per::Route => {
                Some(usage.exporter.map_or(Key::Route(usage.route), |exporter| Key::Exporter(exporter.clone())))
            }
            Per::Gate => Some(Key::Gate),
        })
    }

    fn exceeded(&self, meter: &Meter, policy: &Policy, outcome: Outcome, units: u64) -> Exceeded {
        let Settings { name, per, .. } = &self.settings;
        let (Rate { amount, burst, .. }, what, window) = (meter.rate, meter.quantity.name(), meter.rate.window_name());
        let whom = per.whom();
        let wait = match outcome {
            Outcome::Wait(wait) => Some(whole_seconds(wait)),
            Outcome::Taken | Outcome::Never => None,
        };
        let text = match wait {
            Some(wait) => {
                let seconds = wait.as_secs();
                format!("the limit `{name}` is {amount} {what} {window} {whom}; come again in {seconds} s")
            }
            None => format!(
                "the limit `{name}` lets {burst} {what} pass at once, and this request has {units}: it can never pass, so \
                 send less in one request"
            ),
        };
        Exceeded { limit: name.clone(), policy: (*policy.name).into(), reason: meter.quantity.reason(), wait, text }
    }

    fn full(&self, most: u32, policy: &Policy) -> Exceeded {
        let Settings { name, per, .. } = &self.settings;
        let whom = per.whom();
        let text =
            format!("the limit `{name}` is {most} open requests at a time {whom}; come again when one has ended");
        Exceeded { limit: name.clone(), policy: (*policy.name).into(), reason: "limit_streams", wait: Some(SOON), text }
    }
}

impl Held {
    fn new(limit: &Arc<Limit>, key: &Key) -> Self {
        Self { limit: limit.clone(), account: limit.accounts.of(key), taken: 0, open: false }
    }

    fn give_back(&self, usage: &Use<'_>) {
        for (meter, _) in self.limit.meters.iter().filter(|(meter, _)| self.taken & meter.quantity.bit() != 0) {
            meter.give_back(&self.account, usage.of(meter.quantity).unwrap_or_default());
        }
    }
}

impl Spent {
    /// Charges bytes of the answer as they pass.
    pub fn answered(&self, bytes: u64) {
        self.owe(Quantity::Bytes, bytes);
    }

    /// Charges the request's body at its end, as far as its length was not known before.
    pub fn asked(&self, bytes: u64) {
        self.owe(Quantity::Bytes, bytes.saturating_sub(self.bytes));
    }

    /// Charges the tokens that a model counted; one was taken before.
    pub fn counted(&self, tokens: u64) {
        if self.model {
            self.owe(Quantity::Tokens, tokens.saturating_sub(1));
        }
    }

    fn owe(&self, quantity: Quantity, units: u64) {
        for held in &self.held {
            if let Some((meter, _)) = held.limit.meters.iter().find(|(meter, _)| meter.quantity == quantity) {
                meter.owe(&held.account, units);
            }
        }
    }
}

impl Standing {
    fn is_stricter_than(&self, other: &Self) -> bool {
        (self.outcome, other.left) >= (other.outcome, self.left)
    }
}

/// Rounded up: whoever comes after them does not come too early.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(SOON)
}

#[cfg(test)]
mod tests;
