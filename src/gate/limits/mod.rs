//! Rate limits: requests, bytes, instances and tokens in a window, and requests open at once; for each principal, role
//! or route, or for the whole gate.
//!
//! Promises: all matching limits apply. If one refuses the request, none is charged. Usage known in advance (the request
//! itself, its body's length, its instances) is charged before the request is forwarded; usage known only afterwards (the
//! response's bytes, a model's tokens) is charged later, and later requests wait for it. Reported waits are true unless
//! other requests are faster. No I/O, and no lock is held over an await.

mod buckets;
mod limit;
mod limiter;
mod rate;
mod ratelimit_headers;
mod reservation;
mod settings;
mod ticks;

pub(crate) use self::{limit::Exceeded, reservation::Reservation, settings::RouteFilter};
pub use self::{
    rate::{Rate, Unit},
    ratelimit_headers::RateLimitHeaders,
    reservation::Limits,
    settings::{Per, Quantity, RequestUsage, Settings},
};

#[cfg(test)]
mod tests;
