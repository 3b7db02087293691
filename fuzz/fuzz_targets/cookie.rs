#![no_main]
#[path = "../properties/cookie.rs"]
mod cookie;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cookie::check(bytes));
