//! A person with a browser without a screen: keeps cookies, follows redirects, fills in forms.
//!
//! It does what a login depends on: cookies go back to the host that set them, to `Path` and below, `Secure` ones over
//! TLS only and no `SameSite` one with a cross-site POST; `Sec-Fetch-*` and `Origin` are those of a navigation. It runs
//! no script, except that it submits a page which only submits itself.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use http::{Method, StatusCode};
use rustls::ClientConfig;
use serde_json::Value;
use url::Url;

use super::{
    Answer,
    call::{Call, Connector},
    page::{Form, forms},
};

/// More redirects in a row than any login has.
const REDIRECTS: usize = 20;

/// One person with one browser.
#[derive(Clone)]
pub(crate) struct Person {
    /// How https is spoken: what the person's browser trusts.
    tls: Option<Arc<ClientConfig>>,
    /// By host and name. Ports do not tell cookies apart (RFC 6265 section 8.5).
    pub(crate) cookies: HashMap<(String, String), Cookie>,
}

/// A cookie as a server set it.
#[derive(Clone, Debug)]
pub(crate) struct Cookie {
    pub(crate) value: String,
    pub(crate) path: String,
    pub(crate) secure: bool,
    pub(crate) same_site: Option<String>,
    /// The whole `Set-Cookie` line.
    pub(crate) line: String,
}

/// Where a navigation ended.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) answer: Answer,
    /// Every URL on the way, the last one included.
    pub(crate) way: Vec<Url>,
}

/// A request of a navigation.
struct Step {
    method: Method,
    url: Url,
    body: String,
}

impl Person {
    pub(crate) fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls, cookies: HashMap::new() }
    }

    /// Types this URL into the address bar and follows where it leads.
    pub(crate) async fn visit(&mut self, url: &str) -> Page {
        let url = Url::parse(url).unwrap();
        self.navigate(None, Step { method: Method::GET, url, body: String::new() }, |_| true).await
    }

    /// Like `visit`, but stops before a redirect to a URL that begins so: `url` is then where it would lead.
    pub(crate) async fn visit_until(&mut self, url: &str, stop: &str) -> Page {
        let url = Url::parse(url).unwrap();
        let step = Step { method: Method::GET, url, body: String::new() };
        self.navigate(None, step, |next| !next.as_str().starts_with(stop)).await
    }

    /// Clicks a link on a page: the target may be relative.
    pub(crate) async fn click(&mut self, from: &Page, target: &str) -> Page {
        let url = from.url.join(target).unwrap();
        self.navigate(Some(&from.url), Step { method: Method::GET, url, body: String::new() }, |_| true).await
    }

    /// Sends the first form of the page with these fields set besides its own.
    pub(crate) async fn submit(&mut self, page: &Page, fields: &[(&str, &str)]) -> Page {
        self.submit_until(page, fields, None).await
    }

    /// Like `submit`, but stops before a redirect to a URL that begins so.
    pub(crate) async fn submit_until(&mut self, page: &Page, fields: &[(&str, &str)], stop: Option<&str>) -> Page {
        let form = page.forms().into_iter().next().unwrap_or_else(|| panic!("no form: {page:?}"));
        let step = page.step(form, fields);
        let follow = |next: &Url| stop.is_none_or(|stop| !next.as_str().starts_with(stop));
        self.navigate(Some(&page.url), step, follow).await
    }

    /// Goes to `url`, which leads to the login form of the suite's provider, and logs in there.
    pub(crate) async fn log_in(&mut self, url: &str, name: &str) -> Page {
        let form = self.visit(url).await;
        self.submit(&form, &[("login", name)]).await
    }

    /// What a script on a page of the same origin does: sends JSON, with the cookies.
    pub(crate) async fn json(&mut self, method: Method, url: &str, body: Option<&Value>) -> Answer {
        let url = Url::parse(url).unwrap();
        let mut call = Call::new(door(&url, self.tls.as_ref()), method, target(&url))
            .header("host", &authority(&url))
            .header("cookie", &self.cookies_for(&url, true))
            .header("origin", &url.origin().ascii_serialization())
            .header("sec-fetch-mode", "cors")
            .header("sec-fetch-site", "same-origin");
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(body.to_string());
        }
        let answer = call.send().await;
        self.keep(&url, &answer);
        answer
    }

    /// The cookie of this name, whichever host set it.
    pub(crate) fn cookie(&self, name: &str) -> Option<&Cookie> {
        self.cookies.iter().find(|((_, known), _)| known == name).map(|(_, cookie)| cookie)
    }

    async fn navigate(&mut self, from: Option<&Url>, first: Step, follow: impl Fn(&Url) -> bool) -> Page {
        let mut site =
            from.map_or("none", |from| if same_origin(from, &first.url) { "same-origin" } else { "cross-site" });
        let origin = from.map(|from| from.origin().ascii_serialization());
        let mut step = first;
        let mut way = Vec::new();
        for _ in 0..REDIRECTS {
            way.push(step.url.clone());
            let answer = self.send(&step, site, origin.as_deref()).await;
            self.keep(&step.url, &answer);
            let location = answer.header("location");
            if answer.status.is_redirection() && !location.is_empty() {
                let next = step.url.join(location).unwrap();
                if !follow(&next) {
                    way.push(next.clone());
                    return Page { url: next, answer, way };
                }
                if site != "none" && !same_origin(&step.url, &next) {
                    // Fetch Metadata section 2.3: the worst of the whole chain
                    site = "cross-site";
                }
                let keeps = answer.status == StatusCode::TEMPORARY_REDIRECT;
                step = if keeps {
                    Step { url: next, ..step }
                } else {
                    Step { method: Method::GET, url: next, body: String::new() }
                };
                continue;
            }
            let page = Page { url: step.url.clone(), answer, way: way.clone() };
            // the one script that it knows: a page that posts its only form
            if page.answer.text().contains("document.forms[0].submit()") {
                let form = page.forms().into_iter().next().unwrap();
                step = page.step(form, &[]);
                continue;
            }
            return page;
        }
        panic!("too many redirects: {way:?}");
    }

    async fn send(&self, step: &Step, site: &str, origin: Option<&str>) -> Answer {
        let mut call = Call::new(door(&step.url, self.tls.as_ref()), step.method.clone(), target(&step.url))
            .header("host", &authority(&step.url))
            .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .header("user-agent", "Mozilla/5.0 (the suite)")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
            .header("sec-fetch-user", "?1")
            .header("sec-fetch-site", site);
        let cookies = self.cookies_for(&step.url, step.method == Method::GET || site != "cross-site");
        if !cookies.is_empty() {
            call = call.header("cookie", &cookies);
        }
        if step.method == Method::POST {
            let origin = origin.unwrap_or("null");
            call = call.header("origin", origin).header("content-type", "application/x-www-form-urlencoded");
            call = call.body(step.body.clone());
        }
        call.send().await
    }

    /// The `Cookie` line for this URL; `lax` where `SameSite=Lax` ones go along.
    fn cookies_for(&self, url: &Url, lax: bool) -> String {
        let host = url.host_str().unwrap();
        let fits = |cookie: &Cookie| {
            let path = url.path();
            let below = path == cookie.path
                || path
                    .strip_prefix(&*cookie.path)
                    .is_some_and(|rest| cookie.path.ends_with('/') || rest.starts_with('/'));
            let site = lax || cookie.same_site.as_deref().is_none_or(|value| value.eq_ignore_ascii_case("none"));
            below && site && (!cookie.secure || url.scheme() == "https")
        };
        let all = self.cookies.iter().filter(|((of, _), cookie)| of == host && fits(cookie));
        let pairs: Vec<String> = all.map(|((_, name), cookie)| format!("{name}={}", cookie.value)).collect();
        pairs.join("; ")
    }

    fn keep(&mut self, url: &Url, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let mut parts = line.split(';').map(str::trim);
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).unwrap();
            let attribute = |wanted: &str| {
                line.split(';').skip(1).find_map(|part| {
                    let (name, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
                    name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
                })
            };
            let key = (url.host_str().unwrap().to_owned(), name.to_owned());
            let past = attribute("expires").is_some_and(|when| when.contains(" 1970 "));
            if attribute("max-age").is_some_and(|age| age.parse::<i64>().is_ok_and(|age| age <= 0)) || past {
                self.cookies.remove(&key);
                continue;
            }
            let cookie = Cookie {
                value: value.into(),
                path: attribute("path").unwrap_or_else(|| "/".into()),
                secure: attribute("secure").is_some(),
                same_site: attribute("samesite"),
                line: line.into(),
            };
            self.cookies.insert(key, cookie);
        }
    }
}

impl Page {
    /// The forms on it.
    pub(crate) fn forms(&self) -> Vec<Form> {
        forms(&self.answer.text())
    }

    /// A parameter of the query of where it ended.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    fn step(&self, form: Form, fields: &[(&str, &str)]) -> Step {
        let mut url = self.url.join(&form.action).unwrap();
        let own = form.fields.iter().filter(|(name, _)| !fields.iter().any(|(set, _)| set == name));
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        let body = encoded(own.chain(fields.iter().copied()));
        if form.method == Method::GET {
            url.set_query(Some(&body));
            return Step { method: Method::GET, url, body: String::new() };
        }
        Step { method: Method::POST, url, body }
    }
}

/// Gets a URL as a program does. In clear.
pub(crate) async fn fetch(url: &str) -> Answer {
    let url = Url::parse(url).unwrap();
    Call::new(door(&url, None), Method::GET, target(&url)).header("host", &authority(&url)).send().await
}

/// Posts a form as a program does, with HTTP Basic as `login` (`id:secret`) where there is one. In clear.
pub(crate) async fn post_form(url: &str, login: Option<&str>, fields: &[(&str, &str)]) -> Answer {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let url = Url::parse(url).unwrap();
    let mut call = Call::new(door(&url, None), Method::POST, target(&url))
        .header("host", &authority(&url))
        .header("content-type", "application/x-www-form-urlencoded");
    if let Some(login) = login {
        call = call.header("authorization", &format!("Basic {}", STANDARD.encode(login)));
    }
    call.body(encoded(fields.iter().copied())).send().await
}

fn encoded<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

fn target(url: &Url) -> &str {
    &url[url::Position::BeforePath..url::Position::AfterQuery]
}

fn authority(url: &Url) -> String {
    url[url::Position::BeforeHost..url::Position::AfterPort].to_owned()
}

/// Everything is on this machine.
fn door(url: &Url, tls: Option<&Arc<ClientConfig>>) -> Connector {
    let host = url.host_str().unwrap();
    assert!(host == "localhost" || host == "127.0.0.1", "a test leads elsewhere: {url}");
    let address = SocketAddr::from(([127, 0, 0, 1], url.port_or_known_default().unwrap()));
    let tls = (url.scheme() == "https").then(|| Arc::clone(tls.expect("a person without TLS")));
    Connector { address, tls }
}
