//! The cookies that the gate keeps in a browser: how they are named, split, found and taken back.
//!
//! Promises: every cookie is `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax` and for the whole host (RFC 6265bis
//! section 4.1.3), so that neither a neighbouring host nor a script sets or reads one; a session takes at most
//! [`MAX_PARTS`] of them. A cookie that stands twice on a request is refused rather than guessed at. Pure: no I/O, no
//! clock.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

/// Every cookie of the gate begins with this; what an upstream sets under such a name is taken away.
pub const PREFIX: &str = "__Host-wicketgate";
/// The session's cookie; the second part has `-2` behind it, and so on.
pub(super) const SESSION: &str = "__Host-wicketgate-session";
/// A login attempt's cookie has its id behind this.
pub(super) const LOGIN: &str = "__Host-wicketgate-login-";

/// Longest value of one cookie, in bytes: name, value and attributes must stay below 4096 (RFC 6265 section 6.1).
const MAX_VALUE: usize = 3800;
/// Most parts of one session.
pub(crate) const MAX_PARTS: usize = 4;

/// What a request brings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No session cookie.
    None,
    /// The sealed text, its parts put together.
    Sealed(String),
    /// Parts are missing, stand twice, or are not what the gate sets.
    Broken,
}

/// The session that these headers carry.
#[must_use]
pub fn session(headers: &HeaderMap) -> Found {
    let mut parts: [Option<&str>; MAX_PARTS] = [None; MAX_PARTS];
    for (name, value) in cookies(headers) {
        let Some(index) = part(name) else { continue };
        match parts.get_mut(index) {
            Some(slot @ None) => *slot = Some(value),
            _ => return Found::Broken,
        }
    }
    let [first, rest @ ..] = parts;
    let Some(first) = first else {
        return if rest.iter().any(Option::is_some) { Found::Broken } else { Found::None };
    };
    let Some((count, text)) = first.split_once('.') else { return Found::Broken };
    let Some(more) = count.parse::<usize>().ok().and_then(|count| count.checked_sub(1)) else { return Found::Broken };
    // a part beyond the count is left over from a longer session
    let Some(wanted) = rest.get(..more) else { return Found::Broken };
    let mut whole = text.to_owned();
    for part in wanted {
        let Some(text) = part else { return Found::Broken };
        whole.push_str(text);
    }
    Found::Sealed(whole)
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

/// Sets the cookies of a session for `span`; parts that `before` has beyond them are taken back.
///
/// # Errors
/// When it is too large.
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

/// Takes every session cookie back that the request brings, and so it does where it brings none.
pub(super) fn clear_session(to: &mut HeaderMap, before: &HeaderMap) {
    put(to, SESSION, "", Duration::ZERO);
    clear(to, before, |name| part(name).is_some_and(|index| index > 0));
}

/// Takes the cookies back that the request brings under such names.
pub(super) fn clear(to: &mut HeaderMap, before: &HeaderMap, which: impl Fn(&str) -> bool) {
    let mut names: Vec<&str> = cookies(before).map(|(name, _)| name).filter(|name| which(name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        put(to, name, "", Duration::ZERO);
    }
}

/// Sets one cookie for `span`; none takes it back.
pub(super) fn put(to: &mut HeaderMap, name: &str, value: &str, span: Duration) {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}", span.as_secs());
    // names and values are base64url and our own words
    if let Ok(mut value) = HeaderValue::from_str(&text) {
        value.set_sensitive(true);
        to.append(SET_COOKIE, value);
    }
}

/// The cookies of a request, of one header or several (RFC 9113 section 8.2.3), in order. One that is not ASCII is none
/// of the gate's, and hides no other.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let plain = pairs.filter(|pair| pair.is_ascii()).filter_map(|pair| std::str::from_utf8(pair).ok());
    plain.filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
}

/// Whether an upstream's `Set-Cookie` would set a cookie of the gate's. A cookie without a name is sent as its value
/// alone, so that its value could read like a name.
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
    fn kept(set: &HeaderMap) -> Vec<(String, String)> {
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
            assert_eq!(session(&request(&kept(&set))), Found::Sealed(sealed), "{length}");
        }
        assert_eq!(set(&"x".repeat(15193), &HeaderMap::new()).unwrap_err(), TooLarge(15193));
    }

    #[test]
    fn a_shorter_session_takes_the_parts_of_the_longer_one_back() {
        let long = request(&kept(&set(&"x".repeat(9000), &HeaderMap::new()).unwrap()));
        let set = set("short", &long).unwrap();
        let text: Vec<&str> = set.get_all(SET_COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[1].starts_with("__Host-wicketgate-session-2=; ") && text[1].ends_with("Max-Age=0"), "{text:?}");
    }

    #[test]
    fn a_session_in_pieces_is_not_guessed_at() {
        let check = |cookies: &str, expected: Found| {
            let headers = HeaderMap::from_iter([(COOKIE, cookies.parse().unwrap())]);
            assert_eq!(session(&headers), expected, "{cookies}");
        };
        let name = SESSION;
        check("other=1", Found::None);
        check(&format!("{name}=1.a"), Found::Sealed("a".into()));
        check(&format!("a=b; {name}=1.a;c=d"), Found::Sealed("a".into()));
        check(&format!("{name}=1.a; {name}=1.b"), Found::Broken);
        check(&format!("{name}=a"), Found::Broken);
        check(&format!("{name}=0.a"), Found::Broken);
        check(&format!("{name}=9.a"), Found::Broken);
        check(&format!("{name}=2.a"), Found::Broken);
        check(&format!("{name}-2=b"), Found::Broken);
        check(&format!("{name}=2.a; {name}-2=b"), Found::Sealed("ab".into()));
        check(&format!("{name}=1.a; {name}-2=b"), Found::Sealed("a".into()));
        check(&format!("{name}-5=a; {}=b", name.to_lowercase()), Found::None);
    }

    #[test]
    fn a_cookie_that_is_not_ascii_hides_no_other() {
        for text in ["x=\u{e9}; SESSION=1.a", "SESSION=1.a;\u{e9}=x", "a=b; SESSION=1.a; SESSION-2=\u{e9}; c=\u{e9}"] {
            let text = text.replace("SESSION", SESSION);
            for bytes in [text.as_bytes().to_vec(), text.chars().map(|c| c as u8).collect()] {
                let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(&bytes).unwrap())]);
                assert_eq!(session(&headers), Found::Sealed("a".into()), "{text}");
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
