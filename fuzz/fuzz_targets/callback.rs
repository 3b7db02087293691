#![no_main]
#[path = "../properties/callback.rs"]
mod callback;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| callback::check(bytes));
