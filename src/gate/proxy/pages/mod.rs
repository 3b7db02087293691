//! HTML pages of the gate: login, logout, start page and errors. They contain no JavaScript.
//!
//! Promises: the templates escape all external text; a page loads nothing and cannot be framed; its forms submit to this
//! gate only, and may be redirected to the provider's logout; browsers and caches store no page.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    gate::{
        audit::Record,
        identity::session::{LoginChoice, ReturnTo},
    },
    http::Body,
    principal::Principal,
    refusal::Refusal,
};

const STYLE: &str = include_str!("style.css");

/// The hash that permits the style sheet (Content Security Policy level 3, section 2.3.1).
static STYLE_HASH: LazyLock<String> =
    LazyLock::new(|| STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()).as_ref()));

/// A browser navigation and its target.
pub(super) struct Navigation {
    target: String,
}

impl Navigation {
    /// `None` if the request is no navigation. `Sec-Fetch-Mode` decides (Fetch Metadata section 2.2); if it is absent, a
    /// client that prefers HTML navigates.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let first = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        let navigates = match first("sec-fetch-mode") {
            Some(mode) => mode == b"navigate",
            None => first(ACCEPT.as_str()).is_some_and(|accept| accept.starts_with(b"text/html")),
        };
        navigates.then(|| Self { target: request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned() })
    }

    /// The login URL that returns to this page.
    pub(super) fn to_login(&self) -> String {
        login(None, &ReturnTo::parse(&self.target))
    }
}

/// The login URL, with a provider or without.
fn login(choice: Option<&LoginChoice>, return_to: &ReturnTo) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(choice) = choice {
        query.append_pair("provider", &choice.name);
    }
    query.append_pair("return", return_to.as_str());
    format!("/login?{}", query.finish())
}

fn page(status: StatusCode, title: &str, body: Markup, forms_go_to: &[String]) -> Response<Body> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" type="image/svg+xml" href=(ICON);
                title { (title) " · wicketgate" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { span.mark aria-hidden="true" { (PreEscaped(MARK)) } "wicketgate" }
                main { (body) }
            }
        }
    };
    let mut response = Response::new(Body::from(markup.into_string()));
    *response.status_mut() = status;
    let to = response.headers_mut();
    to.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    protect(to, forms_go_to);
    response
}

/// A wicket gate: bars in a frame.
const MARK: &str = "<svg width=\"20\" height=\"20\" viewBox=\"0 0 20 20\" fill=\"none\" stroke=\"currentColor\" \
    stroke-width=\"1.6\" stroke-linecap=\"round\"><path d=\"M3 18V6a7 4 0 0 1 14 0v12M7 18V3.5M10 18V3M13 18V3.5M3 11h14\"/></svg>";

/// The same as a favicon, so that browsers request no other.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20' fill='none' \
    stroke='%231f5f5b' stroke-width='1.8'%3E%3Cpath d='M3 18V6a7 4 0 0 1 14 0v12M7 18V3.5M10 18V3M13 18V3.5M3 11h14'/%3E%3C/svg%3E";

fn protect(to: &mut HeaderMap, forms_go_to: &[String]) {
    let forms: String = forms_go_to.iter().map(|origin| format!(" {origin}")).collect();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; form-action 'self'{forms}; frame-ancestors 'none'; base-uri 'none'",
        *STYLE_HASH
    );
    // `url` writes origins in ASCII
    let closed = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
    to.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).unwrap_or(closed));
    to.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    to.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    to.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    to.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

/// The choice of login providers.
pub(super) fn chooser(choices: &[LoginChoice], return_to: &ReturnTo) -> Response<Body> {
    let body = html! {
        h1 { "Sign in" }
        p { "Choose the account that you sign in with." }
        ul.choices { @for choice in choices { li { a.button href=(login(Some(choice), return_to)) { (choice.title) } } } }
    };
    page(StatusCode::OK, "Sign in", body, &[])
}

/// The logout confirmation.
pub(super) fn logout_confirmation(ends_at: &[String]) -> Response<Body> {
    let body = html! {
        h1 { "Sign out?" }
        p { "Your session here ends, and you are taken to your identity provider to end it there." }
        form method="post" action="/logout" { button.button type="submit" { "Sign out" } }
        p.quiet { a href="/" { "Stay signed in" } }
    };
    page(StatusCode::OK, "Sign out", body, ends_at)
}

/// The page after logout.
pub(super) fn signed_out() -> Response<Body> {
    let body = html! {
        h1 { "You are signed out" }
        p { "Your session at this gate has ended. Your identity provider may still know you." }
        p { a.button href="/login" { "Sign in again" } }
    };
    page(StatusCode::OK, "Signed out", body, &[])
}

/// The start page. `ends_at` is where logout redirects to. `None` if the caller has no session.
pub(super) fn home(
    principal: &Principal,
    roles: &[Arc<str>],
    exporters: &[(String, String)],
    ends_at: Option<&[String]>,
) -> Response<Body> {
    let body = html! {
        h1 { "Hello, " (display_name(principal)) }
        dl {
            dt { "Signed in as" }
            dd { code { (principal.name) } }
            dt { "Roles" }
            dd {
                @if roles.is_empty() { span.quiet { "none: none of your claims matches a role" } }
                @for role in roles { span.tag { (role) } " " }
            }
            dt { "Issuer" }
            dd { (principal.issuer) }
        }
        h2 { "Exporters" }
        @if exporters.is_empty() {
            p.quiet { "You may not read any exporter." }
        } @else {
            ul.links { @for (name, link) in exporters { li { a href=(link) { (name) } } } }
        }
        @if ends_at.is_some() {
            form method="post" action="/logout" { button."button"."second" type="submit" { "Sign out" } }
        }
    };
    page(StatusCode::OK, "Start", body, ends_at.unwrap_or_default())
}

/// The display name from the user's token. No decision reads it.
fn display_name(principal: &Principal) -> String {
    let claims: serde_json::Value = serde_json::from_str(&principal.claims).unwrap_or_default();
    let display_name =
        ["name", "preferred_username", "email"].into_iter().find_map(|claim| claims.get(claim)?.as_str());
    display_name.unwrap_or(&principal.subject).chars().filter(|c| !c.is_control()).take(80).collect()
}

/// A refusal as an HTML page.
pub(super) fn refusal(refusal: &Refusal, record: &Record) -> Response<Body> {
    let title = match refusal.status {
        StatusCode::UNAUTHORIZED => "Please sign in",
        StatusCode::FORBIDDEN => "This is not open to you",
        StatusCode::NOT_FOUND => "There is nothing here",
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => "The upstream does not respond",
        status if status.is_server_error() => "Not at the moment",
        _ => "This did not work",
    };
    let login_failed = refusal.reason.starts_with("login_") || refusal.reason.starts_with("id_token_");
    let body = html! {
        h1 { (title) }
        p { @for (n, part) in sentence(&refusal.text).split('`').enumerate() {
            // refusal texts put the user's input between backticks
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        } }
        @if let Some(principal) = &record.principal {
            p { "You are signed in as " code { (principal) } ". " a href="/logout" { "Sign in with another account" } }
        }
        p {
            @if login_failed || refusal.status == StatusCode::UNAUTHORIZED { a.button href="/login" { "Sign in" } }
            @else { a.button href="/" { "Start page" } }
        }
        p.quiet.small {
            (refusal.status.as_u16()) " · " code { (refusal.reason) } " · request " code { (record.id) }
        }
    };
    page(refusal.status, title, body, &[])
}

/// A refusal's text as a sentence. The text starts with a lower-case letter and has no full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// Redirects a browser (303). It sends no `Referer`, because queries may hold authorization codes.
pub(super) fn see_other(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SEE_OTHER;
    let to = response.headers_mut();
    to.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    to.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    match HeaderValue::from_str(location) {
        Ok(location) => drop(to.insert(LOCATION, location)),
        // `ReturnTo` and URLs are printable ASCII
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_navigation(method: Method, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/a?b=c");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Navigation::of(&request.body(()).unwrap()).is_some()
    }

    #[test]
    fn a_navigation_is_what_a_person_does() {
        let browser = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        assert!(is_navigation(Method::GET, &[("sec-fetch-mode", "navigate")]));
        assert!(is_navigation(Method::HEAD, &[browser]));
        assert!(!is_navigation(Method::GET, &[("sec-fetch-mode", "cors"), browser]));
        assert!(!is_navigation(Method::POST, &[("sec-fetch-mode", "navigate"), browser]));
        assert!(!is_navigation(Method::GET, &[("accept", "*/*")]));
        assert!(!is_navigation(Method::GET, &[("accept", "application/openmetrics-text,text/html;q=0.1")]));
        assert!(!is_navigation(Method::GET, &[]));
    }

    #[test]
    fn a_login_leads_back_to_the_page() {
        let request =
            Request::get("/exporters/app/metrics?a=b&c=d").header("sec-fetch-mode", "navigate").body(()).unwrap();
        let navigation = Navigation::of(&request).unwrap();
        assert_eq!(navigation.to_login(), "/login?return=%2Fexporters%2Fapp%2Fmetrics%3Fa%3Db%26c%3Dd");
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let nasty = "<script>alert(1)</script>";
        let principal = Principal::test("corp", &serde_json::json!({ "name": nasty }).to_string());
        let pages = [
            home(&principal, &[nasty.into()], &[(nasty.into(), format!("/{nasty}\"'"))], None),
            chooser(&[LoginChoice { name: nasty.into(), title: nasty.into() }], &ReturnTo::parse("/")),
        ];
        for page in pages {
            let Body::Full(bytes) = page.into_body() else { panic!("not a page") };
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(!text.contains("<script") && text.contains("&lt;script"), "{text}");
        }
    }
}
