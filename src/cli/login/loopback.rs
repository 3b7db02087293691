//! Loopback listener for authorization responses (RFC 8252 section 7.3).
//!
//! Promises: it listens on 127.0.0.1 alone, at a port of the system's choice; it accepts one response, the one with this
//! login's state; every other request gets an error page and changes nothing. No page repeats anything of a request.

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

/// For a whole connection: a browser opens some that it never uses.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);
/// Most connections at once.
const MAX_CONNECTIONS: usize = 32;
const PATH: &str = "/callback";

/// An authorization response: a code, or an error code.
pub(super) type AuthorizationResponse = Result<Secret, String>;

/// The listening address.
pub(super) struct LoopbackListener {
    listener: TcpListener,
    redirect_uri: String,
}

/// What an authorization response must contain.
pub(super) struct ExpectedResponse {
    pub(super) state: Secret,
    pub(super) issuer: String,
    /// Whether the provider's responses always have `iss` (RFC 9207 section 2.3).
    pub(super) issuer_required: bool,
}

/// The handler of the callback.
struct CallbackHandler {
    expected: ExpectedResponse,
    host: String,
    answered: AtomicBool,
}

impl LoopbackListener {
    pub(super) async fn open() -> io::Result<Self> {
        // RFC 8252 section 8.3: the address, not `localhost`, which could be resolved to another
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let redirect_uri = format!("http://{}{PATH}", listener.local_addr()?);
        Ok(Self { listener, redirect_uri })
    }

    /// The redirect URI.
    pub(super) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// Waits for the one response; its page has been sent when this returns.
    pub(super) async fn response(self, expected: ExpectedResponse) -> io::Result<AuthorizationResponse> {
        let host = self.listener.local_addr()?.to_string();
        let handler = Arc::new(CallbackHandler { expected, host, answered: AtomicBool::new(false) });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = connections.join_next() => if let Ok(Some(response)) = ended { return Ok(response) },
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve(Arc::clone(&handler), accepted?.0));
                }
            }
        }
    }
}

/// Serves one connection; gives the authorization response of its request.
async fn serve(handler: Arc<CallbackHandler>, stream: TcpStream) -> Option<AuthorizationResponse> {
    let slot = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let (response, page) = handler.handle(&request);
        if response.is_some() {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = response;
        }
        async { Ok::<_, Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_DEADLINE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    // the response counts even if its page cannot be sent
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
    slot.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl CallbackHandler {
    fn handle<B>(&self, request: &Request<B>) -> (Option<AuthorizationResponse>, Response<Body>) {
        let refuse = |status, text| (None, page(status, text));
        // DNS rebinding: another host name may resolve to this machine
        if request.headers().get(HOST).is_none_or(|host| host.as_bytes() != self.host.as_bytes()) {
            return refuse(StatusCode::BAD_REQUEST, "This address is not for that.");
        }
        if request.uri().path() != PATH {
            return refuse(StatusCode::NOT_FOUND, "There is nothing here.");
        }
        if *request.method() != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "This address is not for that.");
        }
        let Some(response) = self.expected.find(request.uri().query().unwrap_or_default()) else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "This is not the response to the login that waits in the terminal.",
            );
        };
        if self.answered.swap(true, Ordering::AcqRel) {
            return refuse(StatusCode::GONE, "This login has already had its response.");
        }
        let text = match &response {
            Ok(_) => "The response has arrived; the terminal says the rest. You may close this tab.",
            Err(_) => "The login was refused. You may close this tab.",
        };
        (Some(response), page(StatusCode::OK, text))
    }
}

impl ExpectedResponse {
    /// The response in a query; `None` if it is not one to this login.
    fn find(&self, query: &str) -> Option<AuthorizationResponse> {
        let mut state = None;
        let mut issuer = None;
        let mut code = None;
        let mut error = None;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "iss" => &mut issuer,
                "code" => &mut code,
                "error" => &mut error,
                _ => continue,
            };
            // RFC 6749 section 3.1: no parameter is duplicate
            if slot.replace(value).is_some() {
                return None;
            }
        }
        // RFC 6749 section 10.12
        let expected = self.state.expose().as_bytes();
        aws_lc_rs::constant_time::verify_slices_are_equal(state?.as_bytes(), expected).ok()?;
        // RFC 9207 section 2.4: a response of another provider is ignored (mix-up defence)
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
        // the URL of this page contains a code
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

    const HOST_HEADER: &str = "127.0.0.1:4000";

    fn handler(issuer_required: bool) -> CallbackHandler {
        let state = Secret::new("the-state".into());
        let expected = ExpectedResponse { state, issuer: "https://idp.test".into(), issuer_required };
        CallbackHandler { expected, host: HOST_HEADER.into(), answered: AtomicBool::new(false) }
    }

    fn request(method: &str, host: &str, target: &str) -> Request<()> {
        Request::builder().method(method).uri(target).header("host", host).body(()).unwrap()
    }

    fn check(issuer_required: bool, query: &str, expected: Option<Result<&str, &str>>) {
        let target = format!("/callback?{query}");
        let (response, page) = handler(issuer_required).handle(&request("GET", HOST_HEADER, &target));
        let found = response.as_ref().map(|response| response.as_ref().map(Secret::expose).map_err(String::as_str));
        assert_eq!(found, expected, "{query}");
        assert_eq!(page.status().is_success(), expected.is_some(), "{query}");
    }

    #[test]
    fn only_the_response_to_this_login_is_accepted() {
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
        fn without_the_state_no_query_is_a_response(query in "[a-z=&%0-9+.:/;?-]{0,80}", code in "\\PC{0,20}") {
            let expected = handler(false).expected;
            proptest::prop_assert!(expected.find(&query).is_none(), "{query}");
            let state = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("code", &code)
                .append_pair("state", "the-state")
                .finish();
            let found = expected.find(&state).map(|response| response.unwrap().expose().to_owned());
            proptest::prop_assert_eq!(found, Some(code).filter(|code| !code.is_empty()));
        }
    }

    #[test]
    fn other_requests_change_nothing_and_one_response_is_accepted() {
        let handler = handler(false);
        let good = "/callback?code=c&state=the-state";
        for (method, host, target, status) in [
            ("GET", HOST_HEADER, "/favicon.ico", 404),
            ("GET", "rebound.test:4000", good, 400),
            ("GET", "localhost:4000", good, 400),
            ("POST", HOST_HEADER, good, 405),
            ("GET", HOST_HEADER, "/callback?code=c&state=wrong", 400),
            ("GET", HOST_HEADER, good, 200),
            ("GET", HOST_HEADER, good, 410),
        ] {
            let (response, page) = handler.handle(&request(method, host, target));
            assert_eq!(page.status(), status, "{method} {host} {target}");
            assert_eq!(response.is_some(), status == 200, "{method} {host} {target}");
            assert_eq!(page.headers()[CACHE_CONTROL], "no-store");
        }
    }
}
