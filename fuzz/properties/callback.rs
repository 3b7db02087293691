//! What holds for every callback's query and every return target, whatever their bytes: nothing panics, a parameter
//! counts once, and a browser that follows the target stays at the gate.

use url::{Url, form_urlencoded};
use wicketgate::internals::{Callback, ReturnTo};

/// Holds one input, as a query and as a return target, to the rules.
pub(super) fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let count = |name: &str| form_urlencoded::parse(text.as_bytes()).filter(|(known, _)| known == name).count();
    let twice = ["state", "code", "iss", "error", "error_description"].into_iter().any(|name| count(name) > 1);
    assert_eq!(Callback::parse(&text).is_err(), twice, "{text:?}");
    let here = Url::parse("https://gate.example/login").unwrap();
    let target = ReturnTo::parse(&text);
    let there = here.join(target.as_str()).unwrap();
    assert_eq!(there.origin(), here.origin(), "{text:?} leads to {there}");
    assert!(http::HeaderValue::from_str(target.as_str()).is_ok(), "{text:?} is no header");
}
