//! The cost of authentication: a token never seen before, one seen before, and 20,000 of them in rotation.
//!
//! Cold is every token's first time: parsed, its key found, its signature checked, remembered. Rotation is the same
//! 20,000 again, in order, so that each was last seen 19,999 tokens ago. One is one token over and over. RS256 (2048
//! bits) and ES256, on one thread and on all of them with one memory between them, as the gate's workers have it. The
//! work is bounded: so many rounds of so many tokens, made before the clock runs.
//!
//! `cargo bench --profile dist --bench tokens`. `cargo test --bench tokens` does one short round: its figures mean nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on panics, reads the real clock, and prints what it measured"
)]

#[allow(dead_code, reason = "shared with the other benchmarks")]
mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, header};
use wicketgate::{
    config::load,
    internals::{AuthContext, Authenticators, Clients, Identity, Issuer, Peer, Telemetry, clock},
};

struct Size {
    tokens: usize,
    rounds: usize,
}

fn main() {
    // cargo says which of the two it runs
    let measured = std::env::args().any(|argument| argument == "--bench");
    let size = if measured { Size { tokens: 20_000, rounds: 5 } } else { Size { tokens: 50, rounds: 1 } };
    let cores = thread::available_parallelism().unwrap().get();
    println!("{} tokens, medians of {} rounds, {cores} cores", size.tokens, size.rounds);
    println!("{:8} {:>8} {:10} {:>12} {:>14}", "", "threads", "", "µs a token", "tokens a second");
    for issuer in [common::Issuer::rs256(), common::Issuer::new()] {
        let token = |n| issuer.token(&format!("subject-{n}"), "scrape");
        let tokens: Vec<HeaderMap> = (0..size.tokens).map(|n| headers(&token(n))).collect();
        for threads in [1, cores] {
            measure(&issuer, &tokens, threads, size.rounds);
        }
    }
}

fn measure(issuer: &common::Issuer, many: &[HeaderMap], threads: usize, rounds: usize) {
    let folder = common::Folder::new(issuer.algorithm());
    let config = load(&common::configure(&folder, issuer, "127.0.0.1:9"), &Clients::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (settings, client) = config.issuers.into_iter().next().unwrap();
    let keys = Arc::new(Issuer::new(settings, client));
    let refreshed = keys.clone();
    let telemetry = Telemetry::new();
    runtime.spawn(async move { refreshed.run(&telemetry).await });

    let count = many.len();
    let one = vec![many[0].clone(); count];
    // each thread asks for its share of them
    let share =
        |tokens: &[HeaderMap]| tokens.chunks(tokens.len().div_ceil(threads)).map(<[_]>::to_vec).collect::<Vec<_>>();
    let many = share(many);
    let one = share(&one);
    let mut figures: [Vec<Duration>; 3] = Default::default();
    for _ in 0..rounds {
        // nothing is remembered yet
        let identity = Identity::new(Authenticators { issuers: vec![keys.clone()], ..Authenticators::default() });
        for (case, (tokens, fresh)) in figures.iter_mut().zip([(&many, true), (&many, false), (&one, false)]) {
            case.push(pass(&identity, tokens, fresh));
        }
    }
    for (name, mut times) in ["cold", "rotation", "one"].into_iter().zip(figures) {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        let micros = median * 1e6 * threads as f64 / count as f64;
        let rate = count as f64 / median;
        println!("{:8} {threads:8} {name:10} {micros:12.2} {rate:14.0}", issuer.algorithm());
    }
}

fn headers(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

/// The time in which every thread authenticates each of its tokens. Panics if a token was not verified as expected.
fn pass(identity: &Identity, shares: &[Vec<HeaderMap>], fresh: bool) -> Duration {
    let begin = Instant::now();
    thread::scope(|scope| {
        for tokens in shares {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(ask(identity, tokens, fresh));
            });
        }
    });
    begin.elapsed()
}

async fn ask(identity: &Identity, tokens: &[HeaderMap], fresh: bool) {
    let peer = Peer::without_certificate(([127, 0, 0, 1], 4242).into(), true);
    for headers in tokens {
        let now = clock::now();
        let path = "/exporters/bench/metrics";
        let context = AuthContext { peer: &peer, method: &Method::GET, path, headers, now };
        let known = identity.authenticate(context, &mut HeaderMap::new()).await;
        assert_eq!(known.map(|known| known.fresh).ok(), Some(fresh), "a token was not taken as expected");
    }
}
