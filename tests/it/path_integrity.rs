//! Path integrity: a Vertex path that the gate forwards reaches Google byte for byte, and means there what was
//! authorized, in whichever order a reader splits and unescapes it.

use std::collections::{BTreeSet, HashMap};

use http::{HeaderMap, Method, Uri, header::HOST};
use percent::unescaped;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner},
};
use wicketgate::internals::{Clients, LocalRouteOptions, RouteMatch, RouteOptions, Routes, Target, Upstream, Vertex};

use crate::{
    support::{Gate, Harness, grpc::Connection},
    vertex_table::{REGION, ROWS, meanings, split_verb},
};

/// Paths made for the matching alone, and for the whole program.
const CASES: u32 = 10_000;
const WHOLE_CASES: usize = 500;

mod percent {
    /// Without percent-escapes; nothing where that is no text.
    pub(super) fn unescaped(text: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => u8::from_str_radix(&format!("{}{}", rest.next()? as char, rest.next()? as char), 16).ok()?,
                plain => plain,
            });
        }
        String::from_utf8(bytes).ok()
    }
}

/// Names that a segment could have, honest ones first.
const NAMES: &[&str] = &[
    "7",
    "p",
    "m@2",
    "m%402",
    "m%40default",
    "a-b_c~d.e",
    "a+b",
    "a%20b",
    "%C3%A9",
    "(x)",
    "a=b",
    "a,b",
    "$a",
    "!",
    "openapi",
    "endpoints",
    "projects",
    "operations",
    "google",
    "*",
    "**",
    "..",
    ".",
    "",
    "a%2Fb",
    "a%2fb",
    "%2e%2e",
    "%2E",
    "a;b",
    "a%3Bb",
    "a:b",
    "a%3Ab",
    "a%25b",
    "%61",
    "%2D",
    "a%5Cb",
    "%00",
    "%0a",
    "%7f",
    "%zz",
    "%4",
    "%u0061",
    "{name=x}",
];
/// What could stand behind a path.
const ENDS: &[&str] = &[
    "",
    "/",
    "//",
    ":",
    ":predict",
    ":setIamPolicy",
    ":predict:explain",
    "/:predict",
    "/invoke/x",
    "/invoke/../x",
    "/operations/1",
    "%3Apredict",
    "%2Foperations%2F1",
    "/chat/completions",
    ";a=b",
    "/..",
    "/.",
];
const QUERIES: &[&str] = &[
    "",
    "",
    "",
    "?",
    "?alt=sse",
    "?%24alt=json%3Benum-encoding%3Dint",
    "?$alt=json",
    "?a=/../b:predict",
    "?x=%2f..%2f",
    "?access_token=x",
    "?%24httpMethod=DELETE",
    "?a=b?c=d",
    "?%zz",
    "?a=b%23c",
];
const VERBS: &[Method] = &[Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::PUT, Method::HEAD];

#[derive(Clone, Debug)]
enum Noise {
    /// This name in place of a segment, or before it.
    Replace(Index, &'static str),
    Insert(Index, &'static str),
    Remove(Index),
    /// A segment in upper case.
    Shout(Index),
    End(&'static str),
    Verb(Method),
}

fn noise() -> impl Strategy<Value = Noise> {
    prop_oneof![
        4 => (any::<Index>(), select(NAMES)).prop_map(|(at, name)| Noise::Replace(at, name)),
        1 => (any::<Index>(), select(NAMES)).prop_map(|(at, name)| Noise::Insert(at, name)),
        1 => any::<Index>().prop_map(Noise::Remove),
        1 => any::<Index>().prop_map(Noise::Shout),
        2 => select(ENDS).prop_map(Noise::End),
        1 => select(VERBS).prop_map(Noise::Verb),
    ]
}

/// A request as it is sent.
fn request() -> impl Strategy<Value = (Method, String)> {
    let rows: Vec<_> = ROWS.iter().filter(|row| row.verb.is_some()).collect();
    (select(rows), vec(noise(), 0..4), select(QUERIES)).prop_map(|(row, noise, query)| {
        let target = row.concrete().target;
        let mut verb = row.verb.clone().unwrap();
        let mut segments = Vec::new();
        segments.extend(target.split('/').skip(1).map(str::to_owned));
        let mut end = "";
        for noise in noise {
            match noise {
                Noise::Replace(at, name) => {
                    // the version stays: paths that begin with another are no Vertex at all
                    let segment = at.index(segments.len()).max(1).min(segments.len() - 1);
                    let (_, custom) = split_verb(&segments[segment]);
                    let custom = if custom.is_empty() { String::new() } else { format!(":{custom}") };
                    segments[segment] = format!("{name}{custom}");
                }
                Noise::Insert(at, name) => segments.insert(at.index(segments.len() + 1), name.into()),
                Noise::Remove(at) if segments.len() > 1 => drop(segments.remove(at.index(segments.len()))),
                Noise::Remove(_) => {}
                Noise::Shout(at) => {
                    let segment = at.index(segments.len());
                    segments[segment] = segments[segment].to_uppercase();
                }
                Noise::End(text) => end = text,
                Noise::Verb(other) => verb = other,
            }
        }
        (verb, format!("/{}{end}{query}", segments.join("/")))
    })
}

fn runner(cases: u32) -> TestRunner {
    let persistence = Some(Box::new(FileFailurePersistence::Off) as _);
    let rng_seed = RngSeed::Fixed(0x0077_6963_6b65_7400);
    TestRunner::new(Config { cases, failure_persistence: persistence, rng_seed, ..Config::default() })
}

/// Every meaning that the path of `target` has: unescaped before it is split, and after.
fn readings(verb: &Method, target: &str) -> BTreeSet<(&'static str, String)> {
    let path = target.split('?').next().unwrap_or_default();
    let whole = unescaped(path).unwrap_or_else(|| path.to_owned());
    let read = |path: &str| -> Vec<(&'static str, String)> {
        let named = |name: &str| unescaped(name).unwrap_or_else(|| name.to_owned());
        meanings(verb, path).into_iter().map(|row| (row.action, named(row.resource_in(path)))).collect()
    };
    // a server may also fold what a gate must not: empty segments, dots, case of the escapes
    let folded = url::Url::parse(&format!("http://vertex{path}")).map(|url| url.path().to_owned());
    [read(path), read(&whole), read(&folded.unwrap_or_default())].into_iter().flatten().collect()
}

#[test]
fn a_matched_path_has_one_reading() {
    let clients = Clients::default();
    let upstream = || Upstream::new("http://127.0.0.1:9", clients.trusting(None).unwrap()).unwrap();
    let vertex = Vertex {
        upstreams: [REGION, "global"].map(|location| (location.into(), upstream())).into(),
        credentials: HashMap::new(),
        own: None,
        timeout: std::time::Duration::from_secs(1),
        options: RouteOptions::default(),
        dedicated: HashMap::new(),
        projects: None,
    };
    let routes = Routes::new(Vec::new(), Some(vertex), None, None, LocalRouteOptions::default());
    let headers = HeaderMap::from_iter([(HOST, "gate.test".parse().unwrap())]);
    let matched = std::cell::Cell::new(0_u32);
    let checked = runner(CASES).run(&request(), |(verb, sent)| {
        let Ok(uri) = sent.parse::<Uri>() else { return Ok(()) };
        let Ok(target) = Target::parse(&verb, &uri, &headers) else { return Ok(()) };
        let Ok(RouteMatch::Matched(found)) = routes.find(&verb, target.path, target.path_and_query) else {
            return Ok(());
        };
        matched.set(matched.get() + 1);
        prop_assert_eq!(target.path_and_query, &sent, "what is forwarded is not what was sent");
        prop_assert_eq!(target.path, sent.split('?').next().unwrap(), "another path was matched");
        let authorized = (&**found.action, found.resource.id().to_string());
        let readings: Vec<_> = readings(&verb, &sent).into_iter().collect();
        let readings: Vec<_> = readings.iter().map(|(action, resource)| (*action, resource.clone())).collect();
        prop_assert_eq!(readings, vec![authorized], "{} {} can be read otherwise", verb, sent);
        Ok(())
    });
    checked.unwrap();
    let share = f64::from(matched.get()) / f64::from(CASES);
    assert!((0.2..0.9).contains(&share), "{share} of the paths were matched: the property hardly says anything");
}

#[tokio::test]
async fn a_forwarded_path_arrives_byte_for_byte() {
    let gate = Harness::new().await.start().await;
    // no principal may hold all roles: two of them do
    let tokens = [&["infer"][..], &["ingest", "train", "observe", "administer"]]
        .map(|roles| gate.issuer.token("tester", roles).mint());
    let mut runner = runner(0);
    let mut connection = Connection::open(&gate.door(0, b"h2")).await;
    let mut allowed = Vec::new();
    for _ in 0..WHOLE_CASES {
        let (verb, sent) = request().new_tree(&mut runner).unwrap().current();
        if !sent_by_a_client(&sent) {
            continue;
        }
        for token in &tokens {
            let body = if verb == Method::POST || verb == Method::PATCH { "{}" } else { "" };
            let outcome = connection.request(&verb, &sent, token, body).await;
            if outcome.status.is_success() {
                allowed.push((outcome.id(), verb.clone(), sent.clone()));
            }
        }
    }
    arrived(&gate, &allowed).await;
}

/// Whether hyper's client can be made to send this.
fn sent_by_a_client(target: &str) -> bool {
    format!("https://localhost:1{target}").parse::<Uri>().is_ok_and(|uri| uri.path_and_query().unwrap() == target)
}

/// Google saw exactly these requests, as they were sent and as the audit log says.
async fn arrived(gate: &Gate, allowed: &[(String, Method, String)]) {
    let seen = gate.google.vertex();
    assert!(allowed.len() > WHOLE_CASES / 5, "only {} were let through", allowed.len());
    assert_eq!(seen.len(), allowed.len(), "Vertex saw what was refused");
    let last = &allowed.last().unwrap().0;
    gate.record(last).await;
    let records: HashMap<String, _> = gate
        .audit()
        .into_iter()
        .filter(|line| line["event"] == "request")
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line))
        .collect();
    for (id, verb, sent) in allowed {
        let seen = seen.iter().find(|seen| seen.header("x-request-id") == id).expect("it did not arrive");
        assert_eq!((&seen.method, &seen.target), (verb, sent));
        let record = &records[id];
        let authorized = (record["action"].as_str().unwrap(), record["resource"].as_str().unwrap().to_owned());
        assert_eq!(readings(verb, &seen.target), BTreeSet::from([authorized]), "{verb} {sent}: {record}");
    }
}
