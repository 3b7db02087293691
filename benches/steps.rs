//! What each step of the story costs: target, token known, token verified, decision known, decision made (also with
//! 1,000 policies), limits, audit line. `cargo bench --profile dist --bench steps`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a benchmark that cannot go on panics, reads the real clock, and prints what it measured"
)]

#[allow(dead_code, reason = "shared with the other benchmark")]
mod common;

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Uri, header};
use wicketgate::{
    config::{load, load_policies},
    internals::{
        AccessRequest, AuthContext, Authenticators, Clients, Identity, Issuer, Log, Peer, Policy, Record,
        RequestContext, Resource, Target, Telemetry, clock,
        limits::{self, Limits, Per, Quantity, Rate, RateLimitHeaders, RequestUsage, Unit},
    },
};

fn auth_context<'a>(peer: &'a Peer, headers: &'a HeaderMap) -> AuthContext<'a> {
    AuthContext { peer, method: &Method::GET, path: "/exporters/bench/metrics", headers, now: clock::now() }
}

/// The shipped policies and as many more as make `count`, of every kind of scope.
fn with_policies(folder: &common::Folder, count: usize) -> Policy {
    let directory = folder.0.join("policies");
    let model = "projects/p/locations/l/models/m";
    let more: String = (0..count.saturating_sub(12) / 4)
        .map(|n| {
            format!(
                "permit (principal in Role::\"team-{n}\", action in Action::\"scrape\", resource == Exporter::\"x-{n}\");\n\
                 permit (principal == Principal::\"bench:s-{n}\", action in Action::\"infer\", resource in Model::\"{model}-{n}\");\n\
                 permit (principal in Role::\"ops-{n}\", action in [Action::\"observe\", Action::\"scrape\"], resource)\n\
                 when {{ context.tls && context.peer.isInRange(ip(\"10.{n}.0.0/16\")) }};\n\
                 forbid (principal, action in Action::\"scrape\", resource == Exporter::\"e-{n}\") unless {{ context.tls }};\n"
            )
        })
        .collect();
    let started = std::time::Instant::now();
    load_policies(&directory).unwrap();
    println!("roles, schema and the shipped policies read in {:?}", started.elapsed());
    std::fs::write(directory.join("more.cedar"), more).unwrap();
    let started = std::time::Instant::now();
    let policy = load_policies(&directory).unwrap();
    println!("the same with {count} policies in {:?}", started.elapsed());
    policy
}

fn steps(c: &mut Criterion) {
    let folder = common::Folder::new("steps");
    let issuer = common::Issuer::new();
    let clients = Clients::default();
    let config = load(&common::configure(&folder, &issuer, "127.0.0.1:9"), &clients).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();

    let uri: Uri = "/exporters/bench/metrics?name=x".parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, "gate.example.com".parse().unwrap());
    c.bench_function("target", |b| b.iter(|| Target::parse(&Method::GET, black_box(&uri), &headers).unwrap()));

    let at = Peer::without_certificate(([127, 0, 0, 1], 4242).into(), true);
    let (settings, client) = config.issuers.into_iter().next().unwrap();
    let keys = Arc::new(Issuer::new(settings, client));
    let refreshed = keys.clone();
    let telemetry = Telemetry::new();
    runtime.spawn(async move { refreshed.run(&telemetry).await });
    let identity = Identity::new(Authenticators { issuers: vec![keys], ..Authenticators::default() });
    headers.insert(header::AUTHORIZATION, format!("Bearer {}", issuer.token("one", "scrape")).parse().unwrap());
    let principal =
        runtime.block_on(identity.authenticate(auth_context(&at, &headers), &mut HeaderMap::new())).unwrap().principal;
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    c.bench_function("token known", |b| {
        b.iter(|| {
            here.block_on(identity.authenticate(auth_context(&at, black_box(&headers)), &mut HeaderMap::new()))
                .unwrap()
                .fresh
        });
    });
    c.bench_function("token verified (ES256)", |b| {
        let mut fresh = (0..).map(|n| {
            let mut headers = HeaderMap::new();
            let token = issuer.token(&format!("subject-{n}"), "scrape");
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            headers
        });
        let fresh = || fresh.next().unwrap();
        b.iter_batched(
            fresh,
            |headers| {
                here.block_on(identity.authenticate(auth_context(&at, &headers), &mut HeaderMap::new())).unwrap().fresh
            },
            criterion::BatchSize::SmallInput,
        );
    });

    let (action, resource): (Arc<str>, _) = ("Exporter.Scrape".into(), Resource::Exporter("bench".into()));
    let context = RequestContext::new(&at, &Method::GET, clock::now());
    let question = AccessRequest {
        principal: &principal,
        granted_roles: &[],
        active_role: None,
        action: &action,
        resource: &resource,
        context,
    };
    c.bench_function("decision known", |b| b.iter(|| config.policy.decide(black_box(question)).allowed));
    c.bench_function("decision made (shipped policies)", |b| {
        b.iter(|| config.policy.evaluate(black_box(question)).allowed);
    });

    let many = with_policies(&folder, 1_000);
    c.bench_function("decision known, 1,000 policies", |b| b.iter(|| many.decide(black_box(question)).allowed));
    c.bench_function("decision made, 1,000 policies", |b| b.iter(|| many.evaluate(black_box(question)).allowed));
    // each of these names meets a policy of its own besides
    let names: Vec<Resource> = (0..250).map(|n| Resource::Exporter(format!("e-{n}").into())).collect();
    let started = std::time::Instant::now();
    for resource in &names {
        assert!(many.evaluate(AccessRequest { resource, ..question }).allowed);
    }
    println!("decision made where its policies meet for the first time: {:?}", started.elapsed() / 250);
    let mut turn = names.iter().cycle();
    c.bench_function("decision made, 1,000 policies, one of its own", |b| {
        b.iter(|| many.evaluate(AccessRequest { resource: turn.next().unwrap(), ..question }).allowed);
    });
    let mut turn = names.iter().cycle();
    c.bench_function("decision known by circumstance, 1,000 policies", |b| {
        b.iter(|| many.decide(AccessRequest { resource: turn.next().unwrap(), ..question }).allowed);
    });

    let limits = Limits::new(
        ["each", "role", "all"].into_iter().zip([Per::Principal, Per::Role, Per::Gate]).map(limit).collect(),
        None,
    );
    let roles: [Arc<str>; 1] = ["scrape".into()];
    let exporter = "bench".into();
    let usage = RequestUsage {
        principal: &principal.name,
        roles: &roles,
        route: "exporter",
        exporter: Some(&exporter),
        action: &action,
        bytes: None,
        instances: None,
    };
    c.bench_function("limits, three that match", |b| {
        b.iter(|| limits.reserve(black_box(&usage), &mut RateLimitHeaders::default()).is_ok());
    });

    let log = Log::open(&folder.0.join("audit.jsonl")).unwrap();
    let peer = ([127, 0, 0, 1], 4242).into();
    let mut record = Record::open(clock::now(), clock::monotonic(), peer, Method::GET, "/exporters/bench/metrics");
    record.principal = Some(principal.name.clone());
    record.issuer = Some(principal.issuer.clone());
    record.action = Some(action.clone());
    record.resource = Some(resource.id().clone());
    c.bench_function("audit: a permit, written", |b| b.iter(|| log.permit(black_box(&record)).unwrap()));
    c.bench_function("audit: a record, buffered", |b| b.iter(|| log.close(black_box(&record), 1024)));
}

/// One that is never reached.
fn limit((name, per): (&str, Per)) -> limits::Settings {
    let rate = Rate::read("1000000/s", None, Unit::Count).unwrap();
    let rates = vec![(Quantity::Requests, Rate { burst: u64::from(u32::MAX), ..rate })];
    limits::Settings { name: name.into(), per, roles: None, routes: None, actions: None, rates, streams: Some(16) }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = steps
}
criterion_main!(benches);
