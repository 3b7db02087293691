#![no_main]
#[path = "../properties/jwks.rs"]
mod jwks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jwks::check(bytes));
