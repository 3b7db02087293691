#![no_main]
#[path = "../properties/dpop.rs"]
mod dpop;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dpop::check(bytes));
