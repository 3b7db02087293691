//! The gate's cookies: their names and attributes, and sessions split over several cookies.
//!
//! Promises: every cookie is `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax` and for the whole host (RFC 6265bis
//! section 4.1.3), so that neither a neighbouring host nor a script sets or reads one; a session takes at most
//! [`MAX_PARTS`] cookies. A duplicate cookie on a request is refused. Pure: no I/O, no clock.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

/// Prefix of every cookie of the gate. A `Set-Cookie` of an upstream with such a name is removed.
pub const PREFIX: &str = "__Host-wicketgate";
/// The session's cookie; the second part has `-2` behind it, and so on.
pub(super) const SESSION: &str = "__Host-wicketgate-session";
/// A login attempt's cookie has its id behind this.
pub(super) const LOGIN: &str = "__Host-wicketgate-login-";

/// Longest value of one cookie, in bytes: name, value and attributes must stay below 4096 (RFC 6265 section 6.1).
const MAX_VALUE: usize = 3800;
/// Most parts of one session.
pub(crate) const MAX_PARTS: usize = 4;

/// The session cookie of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCookie {
    /// No session cookie.
    Absent,
    /// The sealed text, its parts joined.
    Sealed(String),
    /// Parts are missing, duplicate, or not as the gate sets them.
    Malformed,
}

/// The session cookie of a request, its parts joined.
#[must_use]
pub fn session(headers: &HeaderMap) -> SessionCookie {
    let mut parts: [Option<&str>; MAX_PARTS] = [None; MAX_PARTS];
    for (name, value) in cookies(headers) {
        let Some(index) = part(name) else { continue };
        match parts.get_mut(index) {
            Some(slot @ None) => *slot = Some(value),
            _ => return SessionCookie::Malformed,
        }
    }
    let [first, rest @ ..] = parts;
    let Some(first) = first else {
        return if rest.iter().any(Option::is_some) { SessionCookie::Malformed } else { SessionCookie::Absent };
    };
    let Some((count, text)) = first.split_once('.') else { return SessionCookie::Malformed };
    let Some(more) = count.parse::<usize>().ok().and_then(|count| count.checked_sub(1)) else {
        return SessionCookie::Malformed;
    };
    // a part beyond the count is left over from a longer session
    let Some(further) = rest.get(..more) else { return SessionCookie::Malformed };
    let mut whole = text.to_owned();
    for part in further {
        let Some(text) = part else { return SessionCookie::Malformed };
        whole.push_str(text);
    }
    SessionCookie::Sealed(whole)
}

/// Which part of a session the cookie of this name is, from 0.
fn part(name: &str) -> Option<usize> {
    match name.strip_prefix(SESSION)? {
        "" => Some(0),
        "-2" => Some(1),
        "-3" => Some(2),
        "-4" => Some(3),
        _ => None,
    }
}

fn part_name(index: usize) -> String {
    if index == 0 { SESSION.to_owned() } else { format!("{SESSION}-{}", index + 1) }
}

/// A session that does not fit into [`MAX_PARTS`] cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session takes {0} bytes, more than {MAX_PARTS} cookies hold; ask the provider for fewer claims")]
pub(crate) struct TooLarge(pub usize);

/// Sets the cookies of a session for `span`, and removes further parts that the request has.
///
/// # Errors
/// If it is too large.
pub(super) fn set_session(
    to: &mut HeaderMap,
    sealed: &str,
    span: Duration,
    before: &HeaderMap,
) -> Result<(), TooLarge> {
    // the first part says how many there are
    let marked_room = MAX_VALUE - 2;
    let count = sealed.len().div_ceil(marked_room).max(1);
    if count > MAX_PARTS {
        return Err(TooLarge(sealed.len()));
    }
    let mut rest = sealed;
    for index in 0..count {
        // base64url, so that every byte is a boundary
        let (part, left) = rest.split_at_checked(marked_room).unwrap_or((rest, ""));
        rest = left;
        let value = if index == 0 { format!("{count}.{part}") } else { part.to_owned() };
        put(to, &part_name(index), &value, span);
    }
    clear(to, before, |name| part(name).is_some_and(|index| index >= count));
    Ok(())
}

/// Removes the session cookie, and every further part that the request has.
pub(super) fn clear_session(to: &mut HeaderMap, before: &HeaderMap) {
    put(to, SESSION, "", Duration::ZERO);
    clear(to, before, |name| part(name).is_some_and(|index| index > 0));
}

/// Removes those cookies of the request that `which` selects.
pub(super) fn clear(to: &mut HeaderMap, before: &HeaderMap, which: impl Fn(&str) -> bool) {
    let mut names: Vec<&str> = cookies(before).map(|(name, _)| name).filter(|name| which(name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        put(to, name, "", Duration::ZERO);
    }
}

/// Sets one cookie for `span`; a span of zero removes it.
pub(super) fn put(to: &mut HeaderMap, name: &str, value: &str, span: Duration) {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}", span.as_secs());
    // names and values are base64url and our own words
    if let Ok(mut value) = HeaderValue::from_str(&text) {
        value.set_sensitive(true);
        to.append(SET_COOKIE, value);
    }
}

/// The cookies of a request, of one header or several (RFC 9113 section 8.2.3), in order. A cookie that is not ASCII is
/// skipped, since the gate sets none.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let plain = pairs.filter(|pair| pair.is_ascii()).filter_map(|pair| std::str::from_utf8(pair).ok());
    plain.filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
}

/// Whether an upstream's `Set-Cookie` would set a cookie of the gate. A browser sends a cookie without a name as its
/// value alone, which could then read like a name.
#[must_use]
pub fn is_ours(set_cookie: &[u8]) -> bool {
    let name = set_cookie.trim_ascii_start();
    let name = name.strip_prefix(b"=").unwrap_or(name).trim_ascii_start();
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    fn request(pairs: &[(String, String)]) -> HeaderMap {
        let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        HeaderMap::from_iter([(COOKIE, text.join("; ").parse().unwrap())])
    }

    fn set(sealed: &str, before: &HeaderMap) -> Result<HeaderMap, TooLarge> {
        let mut to = HeaderMap::new();
        set_session(&mut to, sealed, SPAN, before).map(|()| to)
    }

    /// What a browser keeps of these `Set-Cookie` headers.
    fn stored(set: &HeaderMap) -> Vec<(String, String)> {
        let pairs = set.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().unwrap().split(';').next());
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        pairs.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn a_session_of_any_fitting_length_comes_back_whole() {
        for length in [1, 3797, 3798, 3799, 7596, 7597, 15192] {
            let sealed = "x".repeat(length);
            let set = set(&sealed, &HeaderMap::new()).unwrap();
            for value in set.get_all(SET_COOKIE) {
                assert!(value.len() < 4096, "{length}: {} bytes", value.len());
                assert!(value.to_str().unwrap().ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"));
            }
            assert_eq!(session(&request(&stored(&set))), SessionCookie::Sealed(sealed), "{length}");
        }
        assert_eq!(set(&"x".repeat(15193), &HeaderMap::new()).unwrap_err(), TooLarge(15193));
    }

    #[test]
    fn a_shorter_session_removes_the_parts_of_the_longer_one() {
        let long = request(&stored(&set(&"x".repeat(9000), &HeaderMap::new()).unwrap()));
        let set = set("short", &long).unwrap();
        let text: Vec<&str> = set.get_all(SET_COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[1].starts_with("__Host-wicketgate-session-2=; ") && text[1].ends_with("Max-Age=0"), "{text:?}");
    }

    #[test]
    fn a_session_with_missing_or_duplicate_parts_is_malformed() {
        let check = |cookies: &str, expected: SessionCookie| {
            let headers = HeaderMap::from_iter([(COOKIE, cookies.parse().unwrap())]);
            assert_eq!(session(&headers), expected, "{cookies}");
        };
        let name = SESSION;
        check("other=1", SessionCookie::Absent);
        check(&format!("{name}=1.a"), SessionCookie::Sealed("a".into()));
        check(&format!("a=b; {name}=1.a;c=d"), SessionCookie::Sealed("a".into()));
        check(&format!("{name}=1.a; {name}=1.b"), SessionCookie::Malformed);
        check(&format!("{name}=a"), SessionCookie::Malformed);
        check(&format!("{name}=0.a"), SessionCookie::Malformed);
        check(&format!("{name}=9.a"), SessionCookie::Malformed);
        check(&format!("{name}=2.a"), SessionCookie::Malformed);
        check(&format!("{name}-2=b"), SessionCookie::Malformed);
        check(&format!("{name}=2.a; {name}-2=b"), SessionCookie::Sealed("ab".into()));
        check(&format!("{name}=1.a; {name}-2=b"), SessionCookie::Sealed("a".into()));
        check(&format!("{name}-5=a; {}=b", name.to_lowercase()), SessionCookie::Absent);
    }

    #[test]
    fn a_cookie_that_is_not_ascii_hides_no_other_cookie() {
        for text in ["x=\u{e9}; SESSION=1.a", "SESSION=1.a;\u{e9}=x", "a=b; SESSION=1.a; SESSION-2=\u{e9}; c=\u{e9}"] {
            let text = text.replace("SESSION", SESSION);
            for bytes in [text.as_bytes().to_vec(), text.chars().map(|c| c as u8).collect()] {
                let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(&bytes).unwrap())]);
                assert_eq!(session(&headers), SessionCookie::Sealed("a".into()), "{text}");
            }
        }
    }

    #[test]
    fn no_upstream_sets_a_cookie_of_the_gate() {
        for ours in
            ["__Host-wicketgate-session=x", " __host-WICKETGATE-login-a=b; Path=/", "=__Host-wicketgate-session=x"]
        {
            assert!(is_ours(ours.as_bytes()), "{ours}");
        }
        for theirs in ["session=x", "__Host-other=1", "a=__Host-wicketgate-session", ""] {
            assert!(!is_ours(theirs.as_bytes()), "{theirs}");
        }
    }

    proptest! {
        #[test]
        fn no_cookie_header_breaks_the_reader(text in "[ -~]{0,200}") {
            let text = text.replace("SESSION", SESSION);
            let headers = HeaderMap::from_iter([(COOKIE, text.parse().unwrap())]);
            let _ = session(&headers);
            let _ = is_ours(text.as_bytes());
        }
    }
}
