//! What holds for every Cookie header, whatever its bytes: nothing panics, a session in pieces is not guessed at, and
//! what reads as a session is what the gate's own cookies spell, part by part.

use http::{HeaderMap, HeaderValue, header::COOKIE};
use wicketgate::internals::cookie::{PREFIX, SessionCookie, is_ours, session};

/// Holds one header, a line for each where there are several, to the rules.
pub(super) fn check(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let name = format!("{PREFIX}-session");
    // a cookie that is not ASCII is none of the gate's, and hides no other
    let texts: Vec<String> =
        headers.get_all(COOKIE).iter().map(|value| value.as_bytes().iter().map(|b| char::from(*b)).collect()).collect();
    let plain = texts.iter().flat_map(|text| text.split(';')).filter(|pair| pair.is_ascii());
    let pairs = plain.filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='));
    let values = |expected: &str| {
        pairs.clone().filter(|(name, _)| *name == expected).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let first = values(&name);
    match session(&headers) {
        SessionCookie::Absent => assert!(first.is_empty(), "a session is passed over: {texts:?}"),
        SessionCookie::Sealed(whole) => {
            let [first] = first[..] else { panic!("a session that stands twice is believed: {texts:?}") };
            let (count, mut spelt) = first.split_once('.').map(|(count, text)| (count, text.to_owned())).unwrap();
            for part in 2..=count.parse::<usize>().unwrap() {
                let parts = values(&format!("{name}-{part}"));
                assert_eq!(parts.len(), 1, "a part is guessed at: {texts:?}");
                spelt.push_str(parts[0]);
            }
            assert_eq!(whole, spelt);
        }
        SessionCookie::Malformed => {}
    }
    // what a browser would keep under our name (RFC 6265 section 5.2: blanks and tabs fall away), an upstream must not set
    if std::str::from_utf8(bytes).is_ok_and(|text| text.trim_start_matches([' ', '\t']).starts_with(PREFIX)) {
        assert!(is_ours(bytes), "an upstream sets it: {bytes:?}");
    }
}
