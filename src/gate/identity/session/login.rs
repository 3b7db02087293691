//! Login: the authorization code flow of OpenID Connect (Core section 3.1) with PKCE.
//!
//! Promises: state, nonce and PKCE verifier are fresh for each attempt and sealed in a cookie of its own, so that tabs
//! do not clash and only the browser that began an attempt can finish it, once. The return target is a path of this
//! gate, sealed with the rest. The response's `iss` is checked if it is there (RFC 9207). A session begins with a fresh
//! id. Never: memory for an attempt before the provider has accepted its code, since every client can begin attempts.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use openidconnect::PkceCodeChallenge;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    cookie,
    keys::{digest, random_text},
    provider::{AttemptParameters, LoginProvider, ProviderError, TokenGrant},
    revocations::SingleUse,
    sealed::Session,
    sessions::{Sessions, too_large},
};
use crate::{
    clock::{self, Timestamp},
    gate::identity::openid::id_token::{ExpectedIdToken, ExpectedNonce},
    principal::Principal,
    refusal::Refusal,
};

/// How long a person may take to log in.
const ATTEMPT_LIFETIME: Duration = Duration::from_secs(600);
/// Most attempts of one browser at once: each is a cookie, and together they must fit into a request's head.
const MAX_ATTEMPTS: usize = 4;
/// An attempt's id is this many characters at the beginning of its state.
const ID_LENGTH: usize = 8;
/// Longest return target, in bytes.
const MAX_RETURN: usize = 1024;
/// Longest text of a provider on a page, in characters.
const MAX_PROVIDER_TEXT: usize = 200;

/// The local path that a login returns to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// `text` as a path and query; `/` if it is anything else, or if a browser could read it as another server's URL.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let local = text.starts_with('/')
            && !text.starts_with("//")
            && text.len() <= MAX_RETURN
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#'))
            // a login that returns to a login never ends
            && !["/login", "/callback", "/logout"].iter().any(|page| text.split('?').next() == Some(page));
        Self(if local { text } else { "/" }.to_owned())
    }

    /// The path and query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A provider on the page of choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginChoice {
    /// The issuer's name, for the link.
    pub name: String,
    /// The title on the page.
    pub title: String,
}

/// The authorization response (RFC 6749 section 4.1.2). Each parameter occurs at most once (section 3.1).
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
    /// 400 if a parameter is duplicate.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut callback = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut callback.state,
                "code" => &mut callback.code,
                "iss" => &mut callback.iss,
                "error" => &mut callback.error,
                "error_description" => &mut callback.error_description,
                // RFC 6749 section 4.1.2: unknown parameters are ignored
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refusal::malformed("login_malformed", "the provider's response has a duplicate parameter"));
            }
        }
        Ok(callback)
    }
}

/// The plaintext of a login attempt's cookie.
#[derive(Serialize, Deserialize)]
struct LoginAttempt {
    state: String,
    nonce: String,
    verifier: String,
    issuer: String,
    return_to: ReturnTo,
    until: Timestamp,
}

/// A successful login.
pub struct CompletedLogin {
    /// The principal of the new session.
    pub principal: std::sync::Arc<Principal>,
    /// The path to redirect the browser to.
    pub return_to: ReturnTo,
}

impl Sessions {
    /// The providers that a person can choose.
    #[must_use]
    pub fn choices(&self) -> Vec<LoginChoice> {
        let choice =
            |p: &LoginProvider| LoginChoice { name: p.settings.issuer.clone(), title: p.settings.title.clone() };
        self.providers.iter().map(choice).collect()
    }

    pub(super) fn callback_url(&self) -> String {
        format!("{}/callback", self.settings.url)
    }

    /// The URL of the authorization request to this provider. The attempt's cookie is put on `reply`.
    ///
    /// # Errors
    /// 404 if there is no such provider, 503 if it cannot be reached.
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
        let metadata = provider.metadata(now).await.map_err(|e| e.unavailable())?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let attempt = LoginAttempt {
            state: random_text()?,
            nonce: random_text()?,
            verifier: verifier.into_secret(),
            issuer: provider.settings.issuer.clone(),
            return_to,
            until: clock::after(now, ATTEMPT_LIFETIME),
        };
        let name = cookie_name(&attempt.state).ok_or_else(unknown_attempt)?;
        let sealed = self.attempt_sealer.seal(&name, &serde_json::to_vec(&attempt).unwrap_or_default())?;
        self.make_room(headers, now, reply);
        cookie::put(reply, &name, &sealed, ATTEMPT_LIFETIME);
        let redirect_uri = self.callback_url();
        let request = AttemptParameters { redirect_uri, state: attempt.state, nonce: attempt.nonce, challenge };
        provider.authorization_url(&metadata, request).map_err(|e| e.unavailable())
    }

    /// Finishes the attempt of an authorization response: a session begins, its cookies on `reply`.
    ///
    /// # Errors
    /// 400 if the response belongs to no attempt of this browser or was used before, 403 if the provider refuses or its
    /// ID token is not accepted, 503 if the provider cannot be reached.
    pub async fn finish(
        &self,
        callback: Callback,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<CompletedLogin, Refusal> {
        let (attempt, provider) = self.attempt(&callback, headers, now, reply)?;
        let metadata = provider.metadata(now).await.map_err(|e| e.unavailable())?;
        check_response(&callback, provider, metadata.iss_parameter_supported)?;
        let Some(code) = callback.code else {
            return Err(Refusal::malformed(
                "login_malformed",
                "the provider's response has neither a code nor an error",
            ));
        };
        let grant = TokenGrant::AuthorizationCode { code: &code, verifier: &attempt.verifier };
        let tokens = provider.request_tokens(grant, self.callback_url(), now).await;
        let tokens = tokens.map_err(|error| match &error {
            ProviderError::Refused(_) => {
                refused("the identity provider does not accept its own code; sign in again").with_detail(error)
            }
            ProviderError::Unavailable(_) => error.unavailable(),
        })?;
        // RFC 6749 section 4.1.2: the provider accepts a code once, so of two concurrent callbacks one gets this far
        if !self.state.revocations.use_once(SingleUse::LoginState, digest(&attempt.state), attempt.until, now)? {
            return Err(replayed());
        }
        let id_token = tokens.id_token.ok_or_else(|| refused("the identity provider gave no ID token"))?;
        // the provider's response took its time
        let now = clock::now().max(now);
        let expected = ExpectedIdToken {
            nonce: ExpectedNonce::Sent(&attempt.nonce),
            access_token: Some(tokens.access_token.expose()),
            subject: None,
        };
        let verified = provider.id_token(id_token.expose(), expected, now).await?;
        let longest = clock::after(now, self.settings.max_lifetime);
        let session = Session {
            id: Uuid::now_v7(),
            generation: 0,
            issuer: provider.settings.issuer.as_str().into(),
            sid: verified.sid,
            id_token,
            refresh_token: tokens.refresh_token,
            created: now,
            issued: now,
            ends: verified.expires_at.min(longest),
        };
        let lifetime = self.cookie_lifetime(&session, now);
        let (sealed, active) = self.seal(session, now)?;
        cookie::set_session(reply, &sealed, lifetime, headers).map_err(too_large)?;
        Ok(CompletedLogin { principal: active.principal.clone(), return_to: attempt.return_to })
    }

    /// The attempt that a response belongs to; its cookie is removed.
    fn attempt(
        &self,
        callback: &Callback,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<(LoginAttempt, &LoginProvider), Refusal> {
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
        if self.state.revocations.was_used(SingleUse::LoginState, digest(state), now) {
            return Err(replayed());
        }
        let provider = self.provider(&attempt.issuer).ok_or_else(unknown_attempt)?;
        Ok((attempt, provider))
    }

    fn read_attempt(&self, name: &str, sealed: &str) -> Option<LoginAttempt> {
        serde_json::from_slice(&self.attempt_sealer.open(name, sealed)?).ok()
    }

    /// Removes the cookies of expired attempts, and of the oldest ones if there are too many.
    fn make_room(&self, headers: &HeaderMap, now: Timestamp, reply: &mut HeaderMap) {
        let mut open: Vec<(Timestamp, &str)> = cookie::cookies(headers)
            .filter(|(name, _)| name.starts_with(cookie::LOGIN))
            .filter_map(|(name, sealed)| Some((self.read_attempt(name, sealed)?.until, name)))
            .filter(|(until, _)| now < *until)
            .collect();
        open.sort_unstable_by(|a, b| b.cmp(a));
        open.truncate(MAX_ATTEMPTS - 1);
        cookie::clear(reply, headers, |name| {
            name.starts_with(cookie::LOGIN) && !open.iter().any(|(_, open)| *open == name)
        });
    }
}

/// The name of an attempt's cookie, by its state.
fn cookie_name(state: &str) -> Option<String> {
    let id = state.get(..ID_LENGTH)?;
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    plain.then(|| format!("{}{id}", cookie::LOGIN))
}

/// Checks the issuer of a response (mix-up defence), and whether it is an error.
fn check_response(callback: &Callback, provider: &LoginProvider, iss_required: bool) -> Result<(), Refusal> {
    // RFC 9207 section 2.4: compared exactly, and required if the provider's metadata promises it
    if callback.iss.as_ref().map_or(iss_required, |iss| *iss != provider.rules.issuer) {
        let text = "the response comes from another identity provider than the one you chose; sign in again";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "login_issuer", text));
    }
    let Some(error) = &callback.error else { return Ok(()) };
    let mut text = format!("the identity provider says `{}`", displayable(error));
    if let Some(description) = &callback.error_description {
        text.push_str(&format!(": {}", displayable(description)));
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

/// A provider's text for a page: bounded, and printable ASCII only (RFC 6749 section 4.1.2.1).
fn displayable(text: &str) -> String {
    text.chars().filter(|c| (' '..='~').contains(c) && !matches!(c, '"' | '\\' | '`')).take(MAX_PROVIDER_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_returns_to_a_path_of_this_gate_or_to_its_start_page() {
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
        fn no_return_target_leads_to_another_origin(text in "[/\\\\a-z.:@#?\t\r\n %]{0,20}") {
            let gate = url::Url::parse("https://gate.example/login").unwrap();
            let target = gate.join(ReturnTo::parse(&text).as_str()).unwrap();
            prop_assert_eq!(target.origin(), gate.origin(), "{:?}", text);
        }

        #[test]
        fn no_query_breaks_the_reader_of_callbacks(query in "[ -~]{0,200}") {
            if let Ok(callback) = Callback::parse(&query) {
                if let Some(name) = cookie_name(callback.state.as_deref().unwrap_or_default()) {
                    prop_assert_eq!(name.len(), cookie::LOGIN.len() + ID_LENGTH);
                }
                prop_assert!(displayable(&callback.error.unwrap_or_default()).len() <= MAX_PROVIDER_TEXT);
            }
        }
    }

    #[test]
    fn a_duplicate_parameter_is_refused() {
        assert!(Callback::parse("state=a&code=b&iss=c&session_state=d&session_state=e").is_ok());
        for query in ["state=a&state=a", "code=a&state=b&code=c", "iss=a&iss=a", "error=a&error=b", "state=a&%73tate=b"]
        {
            assert_eq!(Callback::parse(query).unwrap_err().reason, "login_malformed", "{query}");
        }
    }

    #[test]
    fn a_providers_text_is_bounded_and_plain() {
        assert_eq!(displayable("no\n\u{202e}way \"here\" `x` \\ <b>"), "noway here x  <b>");
        assert_eq!(displayable(&"a".repeat(1000)).len(), MAX_PROVIDER_TEXT);
    }
}
