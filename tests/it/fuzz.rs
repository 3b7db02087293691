//! The fuzz targets' properties on their seeds and on small mutations of them. `fuzz/` has the targets for a
//! coverage-guided fuzzer; these run with the suite.

use std::path::Path;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner},
};

#[path = "../../fuzz/properties/callback.rs"]
mod callback;
#[path = "../../fuzz/properties/cookie.rs"]
mod cookie;
#[path = "../../fuzz/properties/dpop.rs"]
mod dpop;
#[path = "../../fuzz/properties/jwks.rs"]
mod jwks;
#[path = "../../fuzz/properties/token.rs"]
mod token;

/// How many inputs are made for each target.
const CASES: u32 = 20_000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() >= 5, "the seeds of `{target}` are gone");
    seeds
}

/// One change to an input: where, and what.
#[derive(Clone, Debug)]
enum Change {
    Replace(u8),
    Insert(u8),
    Remove(usize),
    /// Copies what stands here to the end.
    Repeat(usize),
    /// Puts a word of the trade in.
    Word(&'static str),
}

const WORDS: &[&str] = &[
    "\"iss\":",
    "\"aud\":",
    "\"exp\":",
    "\"crit\":[]",
    "null",
    "1e999",
    "-0",
    "[[[[",
    "{}",
    "\\u0000",
    "\\ud800",
    "\n",
    ".",
    "\"alg\":\"none\"",
    "\"kty\":\"oct\"",
    "\"keys\":",
    "\u{feff}",
    "=",
    "//",
    "\\",
    "&state=",
    "; __Host-wicketgate-session=",
    "; __Host-wicketgate-session-2=",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u8>().prop_map(Change::Replace),
        any::<u8>().prop_map(Change::Insert),
        (1..8_usize).prop_map(Change::Remove),
        (1..64_usize).prop_map(Change::Repeat),
        prop::sample::select(WORDS).prop_map(Change::Word),
    ]
}

fn apply(input: &mut Vec<u8>, place: prop::sample::Index, change: &Change) {
    let at = place.index(input.len() + 1);
    let end = |length: usize| (at + length).min(input.len());
    match change {
        Change::Replace(byte) if at < input.len() => input[at] = *byte,
        Change::Replace(byte) | Change::Insert(byte) => input.insert(at, *byte),
        Change::Remove(length) => drop(input.drain(at..end(*length))),
        Change::Repeat(length) => input.extend_from_within(at..end(*length)),
        Change::Word(word) => drop(input.splice(at..at, word.bytes())),
    }
}

/// Holds `check` on the seeds of `target` and on what becomes of them.
fn hold(target: &str, check: impl Fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| check(seed));
    let persistence = Some(Box::new(FileFailurePersistence::Off) as _);
    // the same inputs each time: what is new is for the fuzzer to find
    let rng_seed = RngSeed::Fixed(0x0077_6963_6b65_7400);
    let config = Config { cases: CASES, failure_persistence: persistence, rng_seed, ..Config::default() };
    let changed = (prop::sample::select(seeds), vec((any::<prop::sample::Index>(), change()), 1..6)).prop_map(
        |(mut input, changes)| {
            changes.iter().for_each(|(place, change)| apply(&mut input, *place, change));
            input
        },
    );
    TestRunner::new(config)
        .run(&changed, |input| {
            check(&input);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_bytes_of_a_token_break_its_rules() {
    hold("token", token::check);
}

#[test]
fn no_bytes_of_a_jwks_break_its_rules() {
    hold("jwks", jwks::check);
}

#[test]
fn no_bytes_of_a_dpop_proof_break_its_rules() {
    hold("dpop", dpop::check);
}

#[test]
fn every_cookie_header_is_whole_or_refused() {
    hold("cookie", cookie::check);
}

#[test]
fn every_callback_is_parsed_once_and_returns_to_this_gate() {
    hold("callback", callback::check);
}
