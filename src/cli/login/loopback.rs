//! The address on this machine that a browser brings the provider's answer to (RFC 8252 section 7.3).
//!
//! Promises: it listens on 127.0.0.1 alone, at a port of the system's choice; one answer is taken, the one that has
//! this login's state; whatever else comes is told so and changes nothing. Nothing of a request is repeated in a page.

use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{http::Body, secret::Secret};

/// For a connection, from its first byte to its last: a browser opens some that it never uses.
const CONNECTION: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 32;
const PATH: &str = "/callback";

/// What the provider said: a code, or the word that it refused with.
pub(super) type Answer = Result<Secret, String>;

/// The listening address.
pub(super) struct Loopback {
    listener: TcpListener,
    redirect: String,
}

/// What an answer must bring along.
pub(super) struct Expecting {
    pub(super) state: Secret,
    pub(super) issuer: String,
    /// Whether the provider always says who it is (RFC 9207 section 2.3).
    pub(super) issuer_required: bool,
}

/// The one place that an answer is put in, and the rules for it.
struct Gatekeeper {
    expecting: Expecting,
    host: String,
    taken: AtomicBool,
}

impl Loopback {
    pub(super) async fn open() -> io::Result<Self> {
        // RFC 8252 section 8.3: the address, not `localhost`, which could be resolved to another
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let redirect = format!("http://{}{PATH}", listener.local_addr()?);
        Ok(Self { listener, redirect })
    }

    /// The redirect URI.
    pub(super) fn redirect(&self) -> &str {
        &self.redirect
    }

    /// Waits for the one answer; its page has been sent when this returns.
    pub(super) async fn answer(self, expecting: Expecting) -> io::Result<Answer> {
        let host = self.listener.local_addr()?.to_string();
        let gatekeeper = Arc::new(Gatekeeper { expecting, host, taken: AtomicBool::new(false) });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = connections.join_next() => if let Ok(Some(answer)) = ended { return Ok(answer) },
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => {
                    connections.spawn(serve(Arc::clone(&gatekeeper), accepted?.0));
                }
            }
        }
    }
}

/// Serves one connection; gives the answer that came by it.
async fn serve(gatekeeper: Arc<Gatekeeper>, stream: TcpStream) -> Option<Answer> {
    let slot = Mutex::new(None);
    let page = service_fn(|request: Request<Incoming>| {
        let (answer, response) = gatekeeper.look_at(&request);
        if answer.is_some() {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        }
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), page);
    // a page that could not be sent takes nothing from the answer
    let _ = tokio::time::timeout(CONNECTION, connection).await;
    slot.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Gatekeeper {
    fn look_at<B>(&self, request: &Request<B>) -> (Option<Answer>, Response<Body>) {
        let no = |status, text| (None, page(status, text));
        // a page of another name that resolves to this machine is not asking for itself
        if request.headers().get(HOST).is_none_or(|host| host.as_bytes() != self.host.as_bytes()) {
            return no(StatusCode::BAD_REQUEST, "This address is not for that.");
        }
        if request.uri().path() != PATH {
            return no(StatusCode::NOT_FOUND, "There is nothing here.");
        }
        if *request.method() != Method::GET {
            return no(StatusCode::METHOD_NOT_ALLOWED, "This address is not for that.");
        }
        let Some(answer) = self.expecting.find(request.uri().query().unwrap_or_default()) else {
            return no(StatusCode::BAD_REQUEST, "This is not the answer to the login that waits in the terminal.");
        };
        if self.taken.swap(true, Ordering::AcqRel) {
            return no(StatusCode::GONE, "This login has had its answer.");
        }
        let text = match &answer {
            Ok(_) => "The answer has arrived; the terminal says the rest. You may close this tab.",
            Err(_) => "The login was refused. You may close this tab.",
        };
        (Some(answer), page(StatusCode::OK, text))
    }
}

impl Expecting {
    /// The answer in a query, where it is one to this login.
    fn find(&self, query: &str) -> Option<Answer> {
        let (mut state, mut issuer, mut code, mut error) = (None, None, None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "iss" => &mut issuer,
                "code" => &mut code,
                "error" => &mut error,
                _ => continue,
            };
            // RFC 6749 section 3.1: no parameter stands twice
            if slot.replace(value).is_some() {
                return None;
            }
        }
        // RFC 6749 section 10.12
        let ours = self.state.expose().as_bytes();
        aws_lc_rs::constant_time::verify_slices_are_equal(state?.as_bytes(), ours).ok()?;
        // RFC 9207 section 2.4: an answer of another provider is no answer
        if issuer.as_ref().map_or(self.issuer_required, |issuer| *issuer != self.issuer) {
            return None;
        }
        match (code, error) {
            (Some(code), None) if !code.is_empty() => Some(Ok(Secret::new(code.into_owned()))),
            (None, Some(error)) => Some(Err(error.into_owned())),
            _ => None,
        }
    }
}

fn page(status: StatusCode, text: &str) -> Response<Body> {
    let html = format!("<!doctype html><meta charset=utf-8><title>wicketgate</title><p>{text}</p>\n");
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // the address of this page holds a code
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:4000";

    fn gatekeeper(issuer_required: bool) -> Gatekeeper {
        let state = Secret::new("the-state".into());
        let expecting = Expecting { state, issuer: "https://idp.test".into(), issuer_required };
        Gatekeeper { expecting, host: HERE.into(), taken: AtomicBool::new(false) }
    }

    fn request(method: &str, host: &str, target: &str) -> Request<()> {
        Request::builder().method(method).uri(target).header("host", host).body(()).unwrap()
    }

    fn check(issuer_required: bool, query: &str, expected: Option<Result<&str, &str>>) {
        let target = format!("/callback?{query}");
        let (answer, response) = gatekeeper(issuer_required).look_at(&request("GET", HERE, &target));
        let found = answer.as_ref().map(|answer| answer.as_ref().map(Secret::expose).map_err(String::as_str));
        assert_eq!(found, expected, "{query}");
        assert_eq!(response.status().is_success(), expected.is_some(), "{query}");
    }

    #[test]
    fn only_the_answer_to_this_login_is_taken() {
        let iss = "iss=https%3A%2F%2Fidp.test";
        check(true, &format!("code=c&state=the-state&{iss}"), Some(Ok("c")));
        check(false, "code=c&state=the-state", Some(Ok("c")));
        check(false, "error=access_denied&error_description=x&state=the-state", Some(Err("access_denied")));
        check(true, "code=c&state=the-state", None);
        check(false, "code=c&state=the-state&iss=https%3A%2F%2Fother.test", None);
        check(false, "code=c&state=another", None);
        check(false, "code=c&state=", None);
        check(false, "code=c", None);
        check(false, "code=&state=the-state", None);
        check(false, "state=the-state", None);
        check(false, "code=c&code=d&state=the-state", None);
        check(false, "code=c&error=e&state=the-state", None);
        check(false, "code=c&state=the-state&state=the-state", None);
    }

    proptest::proptest! {
        #[test]
        fn without_the_state_nothing_is_an_answer(query in "[a-z=&%0-9+.:/;?-]{0,80}", code in "\\PC{0,20}") {
            let expecting = gatekeeper(false).expecting;
            proptest::prop_assert!(expecting.find(&query).is_none(), "{query}");
            let state = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("code", &code)
                .append_pair("state", "the-state")
                .finish();
            let found = expecting.find(&state).map(|answer| answer.unwrap().expose().to_owned());
            proptest::prop_assert_eq!(found, Some(code).filter(|code| !code.is_empty()));
        }
    }

    #[test]
    fn what_is_no_answer_changes_nothing_and_one_answer_is_all() {
        let keeper = gatekeeper(false);
        let good = "/callback?code=c&state=the-state";
        for (method, host, target, status) in [
            ("GET", HERE, "/favicon.ico", 404),
            ("GET", "rebound.test:4000", good, 400),
            ("GET", "localhost:4000", good, 400),
            ("POST", HERE, good, 405),
            ("GET", HERE, "/callback?code=c&state=wrong", 400),
            ("GET", HERE, good, 200),
            ("GET", HERE, good, 410),
        ] {
            let (answer, response) = keeper.look_at(&request(method, host, target));
            assert_eq!(response.status(), status, "{method} {host} {target}");
            assert_eq!(answer.is_some(), status == 200, "{method} {host} {target}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }
}
