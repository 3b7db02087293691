//! wicketgate: an identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
//!
//! The program is [`cli::run`]. The public surface is what `main`, the tests, the benches and the fuzz targets use;
//! everything else is private to the crate, so that the compiler reports code that is no longer used.

pub mod app;
mod backoff;
pub mod cli;
mod client;
mod clock;
pub mod config;
mod demo;
mod exposition;
mod gate;
mod http;
mod peer;
mod pipeline;
mod principal;
mod protobuf;
mod refusal;
mod secret;
mod series;
mod telemetry;

/// Parts that the tests, the benches and the fuzz targets call by themselves; no promise of a stable interface.
#[doc(hidden)]
pub mod internals {
    pub use crate::{
        client::{Clients, Upstream},
        demo::{
            directory::Directory,
            environment::{Environment, Ports},
            google::{
                ENDPOINT, LOCATION, PROJECT,
                value::{from_json, to_json},
            },
        },
        gate::{
            audit::{Log, Record},
            identity::{
                Algorithm, AuthContext, Authenticators, Identity, Issuer,
                session::{Callback, ReturnTo},
            },
            policy::{AccessRequest, Policy, RequestContext, Resource},
            proxy::Target,
            routes::{LocalRouteOptions, RouteMatch, RouteOptions, Routes, Vertex},
        },
        http::read_bounded,
        peer::Peer,
        telemetry::Telemetry,
    };

    pub mod clock {
        pub use crate::clock::{Timestamp, after, monotonic, now};
    }
    pub mod cookie {
        pub use crate::gate::identity::session::cookie::{PREFIX, SessionCookie, is_ours, session};
    }
    pub mod dpop {
        pub use crate::gate::identity::dpop::proof::{ExpectedProof, normalize_url, verify};
    }
    pub mod jwt {
        pub use crate::gate::identity::jwt::{Rules, TokenError, Unverified, Verified};
    }
    pub mod keys {
        pub use crate::gate::identity::keys::{Key, MAX_JWKS_KEYS, parse_jwks};
    }
    pub mod limits {
        pub use crate::gate::limits::{Limits, Per, Quantity, Rate, RateLimitHeaders, RequestUsage, Settings, Unit};
    }
}
