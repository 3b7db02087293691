//! Logging in: the authorization code flow of OpenID Connect (Core section 3.1) with PKCE.
//!
//! Promises: state, nonce and PKCE verifier are fresh for each attempt and sealed in a cookie of its own, so that tabs
//! do not clash and only the browser that began an attempt can end it, once; where it goes on to is a path of this
//! gate, sealed with the rest; the answer's `iss` is checked where it is sent (RFC 9207). A session begins with a fresh
//! id. Never: an attempt that is remembered before the provider has taken its code, since anybody can begin attempts.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use oauth2::PkceCodeChallenge;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Sessions, cookie,
    id_token::Expected,
    keys::{digest, random_text},
    provider::{self, AskError, Grant, Provider},
    refresh::too_large,
    revocations::Once,
    sealed::Session,
};
use crate::{
    clock::{self, Timestamp},
    principal::Principal,
    refusal::Refusal,
};

/// How long a person may take to log in.
const ATTEMPT: Duration = Duration::from_secs(600);
/// Attempts that one browser may have open: each is a cookie, and together they must fit into a request's head.
const MOST_ATTEMPTS: usize = 4;
/// An attempt's id is this many characters at the beginning of its state.
const ID: usize = 8;
/// Longest return target, in bytes; it is sealed, and escaped before.
const MAX_RETURN: usize = 1024;
/// Longest text of a provider that is shown, in characters.
const MAX_SAID: usize = 200;

/// A local path: where a login goes on to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// The path and query that `text` is, or `/` where it is anything else: another server's, or what a browser could
    /// read as another server's.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let local = text.starts_with('/')
            && !text.starts_with("//")
            && text.len() <= MAX_RETURN
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#'))
            // a login that leads to a login never ends
            && !["/login", "/callback", "/logout"].iter().any(|page| text.split('?').next() == Some(page));
        Self(if local { text } else { "/" }.to_owned())
    }

    /// The path and query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A provider that a person can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The issuer's name, for the link.
    pub name: String,
    /// What the person reads.
    pub title: String,
}

/// What the provider sent the browser back with (RFC 6749 section 4.1.2). Each parameter stands once at most (section
/// 3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Callback {
    /// Reads a callback's query.
    ///
    /// # Errors
    /// 400 where a parameter stands twice.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut callback = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut callback.state,
                "code" => &mut callback.code,
                "iss" => &mut callback.iss,
                "error" => &mut callback.error,
                "error_description" => &mut callback.error_description,
                // RFC 6749 section 4.1.2: what is not known is ignored
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refusal::malformed("login_malformed", "a parameter stands twice in the provider's answer"));
            }
        }
        Ok(callback)
    }
}

/// A login attempt, as its cookie holds it.
#[derive(Serialize, Deserialize)]
struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
    issuer: String,
    return_to: ReturnTo,
    until: Timestamp,
}

/// A login that has ended well.
pub struct LoggedIn {
    /// Who it is.
    pub principal: std::sync::Arc<Principal>,
    /// Where the browser goes on to.
    pub return_to: ReturnTo,
}

impl Sessions {
    /// Whom a person can log in at.
    #[must_use]
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |p: &Provider| Choice { name: p.settings.issuer.clone(), title: p.settings.title.clone() };
        self.providers.iter().map(choice).collect()
    }

    pub(super) fn callback_url(&self) -> String {
        format!("{}/callback", self.settings.url)
    }

    /// Where the browser goes to log in at the provider of this name. The attempt's cookie is put on `reply`.
    ///
    /// # Errors
    /// 404 where there is no such provider, 503 where it cannot be asked.
    pub async fn begin(
        &self,
        provider: &str,
        return_to: ReturnTo,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<String, Refusal> {
        let provider = self.provider(provider).ok_or_else(|| {
            Refusal::new(StatusCode::NOT_FOUND, "unknown_provider", "there is no such provider to sign in with")
        })?;
        let document = provider.document(now).await.map_err(|e| e.unavailable())?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (state, nonce, until) = (random_text()?, random_text()?, clock::after(now, ATTEMPT));
        let issuer = provider.settings.issuer.clone();
        let attempt = Attempt { state, nonce, verifier: verifier.into_secret(), issuer, return_to, until };
        let name = cookie_name(&attempt.state).ok_or_else(unknown_attempt)?;
        let sealed = self.attempts.seal(&name, &serde_json::to_vec(&attempt).unwrap_or_default())?;
        self.make_room(headers, now, reply);
        cookie::put(reply, &name, &sealed, ATTEMPT);
        let (redirect_uri, state) = (self.callback_url(), attempt.state);
        let request = provider::Attempt { redirect_uri, state, nonce: &attempt.nonce, challenge };
        provider.authorization(&document, request).map_err(|e| e.unavailable())
    }

    /// Ends the attempt that the provider's answer belongs to: a session begins, its cookies on `reply`.
    ///
    /// # Errors
    /// 400 where the answer belongs to no attempt of this browser or was used before, 403 where the provider refuses or
    /// does not prove who it is, 503 where it cannot be asked.
    pub async fn finish(
        &self,
        callback: Callback,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<LoggedIn, Refusal> {
        let (attempt, provider) = self.attempt(&callback, headers, now, reply)?;
        let supported = provider.document(now).await.map_err(|e| e.unavailable())?;
        answers(&callback, provider, supported.authorization_response_iss_parameter_supported)?;
        let Some(code) = callback.code else {
            return Err(Refusal::malformed(
                "login_malformed",
                "the provider's answer holds neither a code nor an error",
            ));
        };
        let tokens = provider.ask(Grant::Code(&code, &attempt.verifier), self.callback_url(), now).await;
        let tokens = tokens.map_err(|error| match &error {
            AskError::Refused(_) => {
                refused("the identity provider does not take its own code; sign in again").with_detail(error)
            }
            AskError::Unavailable(_) => error.unavailable(),
        })?;
        // RFC 6749 section 4.1.2: the provider takes a code once, so that of two at once only one comes this far
        if !self.memory.use_once(Once::Login, digest(&attempt.state), attempt.until, now)? {
            return Err(replayed());
        }
        let id_token = tokens.id_token.ok_or_else(|| refused("the identity provider gave no ID token"))?;
        // the provider's answer took its time
        let now = clock::now().max(now);
        let access_token = tokens.access_token.expose();
        let expected = Expected { nonce: Some(&attempt.nonce), access_token, refreshes: None };
        let checked = provider.id_token(id_token.expose(), expected, now).await?;
        let longest = clock::after(now, self.settings.longest);
        let session = Session {
            id: Uuid::now_v7(),
            generation: 0,
            issuer: provider.settings.issuer.as_str().into(),
            sid: checked.sid,
            id_token,
            refresh_token: tokens.refresh_token,
            created: now,
            issued: now,
            ends: checked.expires_at.min(longest),
        };
        let span = self.cookie_span(&session, now);
        let (sealed, opened) = self.seal(session, now)?;
        cookie::set_session(reply, &sealed, span, headers).map_err(too_large)?;
        Ok(LoggedIn { principal: opened.principal.clone(), return_to: attempt.return_to })
    }

    /// The attempt that an answer belongs to; its cookie is taken back.
    fn attempt(
        &self,
        callback: &Callback,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<(Attempt, &Provider), Refusal> {
        let state = callback.state.as_deref().unwrap_or_default();
        let name = cookie_name(state).ok_or_else(unknown_attempt)?;
        let mut values = cookie::cookies(headers).filter(|(other, _)| *other == name).map(|(_, value)| value);
        let (Some(sealed), None) = (values.next(), values.next()) else { return Err(unknown_attempt()) };
        cookie::put(reply, &name, "", Duration::ZERO);
        let attempt = self.read_attempt(&name, sealed).ok_or_else(unknown_attempt)?;
        if digest(&attempt.state) != digest(state) {
            return Err(unknown_attempt());
        }
        if attempt.until <= now {
            let text = "this login took longer than ten minutes; sign in again";
            return Err(Refusal::malformed("login_expired", text));
        }
        if self.memory.was_used(Once::Login, digest(state), now) {
            return Err(replayed());
        }
        let provider = self.provider(&attempt.issuer).ok_or_else(unknown_attempt)?;
        Ok((attempt, provider))
    }

    fn read_attempt(&self, name: &str, sealed: &str) -> Option<Attempt> {
        serde_json::from_slice(&self.attempts.open(name, sealed)?).ok()
    }

    /// Takes back attempts that are over, and the oldest where there are too many.
    fn make_room(&self, headers: &HeaderMap, now: Timestamp, reply: &mut HeaderMap) {
        let mut open: Vec<(Timestamp, &str)> = cookie::cookies(headers)
            .filter(|(name, _)| name.starts_with(cookie::LOGIN))
            .filter_map(|(name, sealed)| Some((self.read_attempt(name, sealed)?.until, name)))
            .filter(|(until, _)| now < *until)
            .collect();
        open.sort_unstable_by(|a, b| b.cmp(a));
        open.truncate(MOST_ATTEMPTS - 1);
        cookie::clear(reply, headers, |name| {
            name.starts_with(cookie::LOGIN) && !open.iter().any(|(_, kept)| *kept == name)
        });
    }
}

/// The name of an attempt's cookie, by its state.
fn cookie_name(state: &str) -> Option<String> {
    let id = state.get(..ID)?;
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    plain.then(|| format!("{}{id}", cookie::LOGIN))
}

/// Whether the answer is this provider's, and good.
fn answers(callback: &Callback, provider: &Provider, says_iss: bool) -> Result<(), Refusal> {
    // RFC 9207 section 2.4: compared exactly, and required of a provider that says it sends it
    if callback.iss.as_ref().map_or(says_iss, |iss| *iss != provider.rules.issuer) {
        let text = "the answer comes from another identity provider than the one you chose; sign in again";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "login_issuer", text));
    }
    let Some(error) = &callback.error else { return Ok(()) };
    let mut text = format!("the identity provider says `{}`", shown(error));
    if let Some(description) = &callback.error_description {
        text.push_str(&format!(": {}", shown(description)));
    }
    Err(match error.as_str() {
        "temporarily_unavailable" | "server_error" => Refusal::unavailable("issuer_unavailable", text),
        _ => refused(text),
    })
}

fn refused(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "login_refused", text)
}

fn replayed() -> Refusal {
    Refusal::malformed("login_replayed", "this login was used before; sign in again")
}

fn unknown_attempt() -> Refusal {
    let text = "this login was not begun in this browser, or is over already; sign in again";
    Refusal::malformed("login_unknown", text)
}

/// A provider's words, as far as they are shown: RFC 6749 section 4.1.2.1 leaves printable ASCII only.
fn shown(text: &str) -> String {
    text.chars().filter(|c| (' '..='~').contains(c) && !matches!(c, '"' | '\\' | '`')).take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_goes_on_to_this_gate_or_to_its_start_page() {
        let check = |text: &str, expected: &str| assert_eq!(ReturnTo::parse(text).as_str(), expected, "{text:?}");
        for local in
            ["/", "/exporters/app/metrics?a=b&c=%20", "/a//b", "/@evil.example", "/login-help", "/.//evil.example"]
        {
            check(local, local);
        }
        for foreign in [
            "",
            "https://evil.example/",
            "//evil.example/",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\tevil",
            "/\t/evil.example",
            "\t//evil.example",
            " //evil.example",
            "/\n/evil.example",
            "/\r\nset-cookie: a=b",
            "/\0",
            "javascript:alert(1)",
            "data:text/html,x",
            "evil.example",
            "@evil.example",
            "?a=b",
            "#a",
            "/a#b",
            "/ä",
            "/a b",
            "/login?return=/login",
            "/logout",
            "/callback?code=1",
        ] {
            check(foreign, "/");
        }
        check(&format!("/{}", "a".repeat(MAX_RETURN)), "/");
    }

    proptest! {
        #[test]
        fn whatever_it_is_a_browser_stays_here(text in "[/\\\\a-z.:@#?\t\r\n %]{0,20}") {
            let here = url::Url::parse("https://gate.example/login").unwrap();
            let there = here.join(ReturnTo::parse(&text).as_str()).unwrap();
            prop_assert_eq!(there.origin(), here.origin(), "{:?}", text);
        }

        #[test]
        fn no_query_breaks_the_reader_of_callbacks(query in "[ -~]{0,200}") {
            if let Ok(callback) = Callback::parse(&query) {
                if let Some(name) = cookie_name(callback.state.as_deref().unwrap_or_default()) {
                    prop_assert_eq!(name.len(), cookie::LOGIN.len() + ID);
                }
                prop_assert!(shown(&callback.error.unwrap_or_default()).len() <= MAX_SAID);
            }
        }
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        assert!(Callback::parse("state=a&code=b&iss=c&session_state=d&session_state=e").is_ok());
        for query in ["state=a&state=a", "code=a&state=b&code=c", "iss=a&iss=a", "error=a&error=b", "state=a&%73tate=b"]
        {
            assert_eq!(Callback::parse(query).unwrap_err().reason, "login_malformed", "{query}");
        }
    }

    #[test]
    fn a_providers_words_are_bounded_and_plain() {
        assert_eq!(shown("no\n\u{202e}way \"here\" `x` \\ <b>"), "noway here x  <b>");
        assert_eq!(shown(&"a".repeat(1000)).len(), MAX_SAID);
    }
}
