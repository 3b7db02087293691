//! The open pages of people: login, callback, logout.
//!
//! Promises: they take the sessions that they are about, so that where nobody can log in none of them exists. What they
//! answer is never stored by a browser or a cache. What is decided here is decided in `identity::session`; here it
//! becomes pages and redirects.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY},
};

use crate::gate::proxy::{Target, pages};
use crate::{
    gate::{
        audit::Record,
        identity::{
            AuthContext,
            session::{Callback, LogoutRedirect, MAX_FORM, ReturnTo, Sessions, cookie},
        },
    },
    http::{Body, read_bounded},
    refusal::Refusal,
};

/// For the body of a back-channel logout.
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// `GET /login?return=/path&provider=NAME`: on to the provider, or to choose one.
pub(in crate::gate::proxy) async fn login(
    sessions: &Sessions,
    context: AuthContext<'_>,
    target: Target<'_>,
    reply: &mut HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let (mut return_to, mut provider) = (ReturnTo::parse("/"), None);
    for (name, value) in url::form_urlencoded::parse(target.query().as_bytes()) {
        match &*name {
            "return" => return_to = ReturnTo::parse(&value),
            "provider" => provider = Some(value.into_owned()),
            _ => {}
        }
    }
    let choices = sessions.choices();
    let provider = match (&provider, choices.as_slice()) {
        (Some(provider), _) => provider,
        (None, [only]) => &only.name,
        (None, _) => return Ok(pages::chooser(&choices, &return_to)),
    };
    let location = sessions.begin(provider, return_to, context.headers, context.now, reply).await?;
    Ok(see_other(&location))
}

/// `GET /callback`: the provider's answer becomes a session.
pub(in crate::gate::proxy) async fn callback(
    sessions: &Sessions,
    context: AuthContext<'_>,
    target: Target<'_>,
    record: &mut Record,
    reply: &mut HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let callback = Callback::parse(target.query())?;
    let login = sessions.finish(callback, context.headers, context.now, reply).await?;
    record.principal = Some(login.principal.name.clone());
    record.issuer = Some(login.principal.issuer.clone());
    Ok(see_other(login.return_to.as_str()))
}

/// `GET /logout`: a page with the button.
pub(in crate::gate::proxy) fn ask_logout(sessions: &Sessions, context: AuthContext<'_>) -> Response<Body> {
    if cookie::session(context.headers) == cookie::SessionCookie::Absent {
        return pages::signed_out();
    }
    pages::ask_logout(sessions.logout_origin(context.headers).as_slice())
}

/// `POST /logout`: the session ends here, and the browser goes on to end it at the provider.
pub(in crate::gate::proxy) async fn logout(
    sessions: &Sessions,
    context: AuthContext<'_>,
    reply: &mut HeaderMap,
) -> Result<Response<Body>, Refusal> {
    match sessions.log_out(context.headers, context.now, reply).await? {
        LogoutRedirect::Provider(location) => Ok(see_other(&location)),
        LogoutRedirect::None => Ok(pages::signed_out()),
    }
}

/// `POST /backchannel-logout`: 200 where the sessions have ended (OpenID Connect Back-Channel Logout section 2.8).
pub(in crate::gate::proxy) async fn back_channel_logout(
    sessions: &Sessions,
    context: AuthContext<'_>,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let form = read_bounded(body, MAX_FORM, FORM_DEADLINE).await?;
    sessions.back_channel(&form, context.now).await?;
    let mut response = Response::new(Body::Empty);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Sends a browser elsewhere with GET, and does not say where it came from: queries here hold codes.
pub(in crate::gate::proxy) fn see_other(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SEE_OTHER;
    let to = response.headers_mut();
    to.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    to.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    match HeaderValue::from_str(location) {
        Ok(location) => drop(to.insert(LOCATION, location)),
        // paths and URLs are printable ASCII by their own types
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}
