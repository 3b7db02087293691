//! Browser login, callback and logout pages.
//!
//! Promises: every function takes [`Sessions`], so the pages exist only if `[sessions]` is configured; browsers and caches
//! never store a response. `identity::session` decides; this module renders pages and redirects.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, header::CACHE_CONTROL};

use crate::{
    gate::{
        audit::Record,
        identity::{
            AuthContext,
            session::{Callback, LogoutRedirect, MAX_FORM, ReturnTo, Sessions, cookie},
        },
        proxy::{pages, target::Target},
    },
    http::{Body, read_bounded},
    refusal::Refusal,
};

/// Deadline for the body of a back-channel logout.
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// `GET /login?return=/path&provider=NAME`: redirects to the provider, or shows the choice of providers.
pub(super) async fn login(
    sessions: &Sessions,
    context: AuthContext<'_>,
    target: Target<'_>,
    reply: &mut HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let mut return_to = ReturnTo::parse("/");
    let mut provider = None;
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
    Ok(pages::see_other(&location))
}

/// `GET /callback`: turns the authorization response into a session.
pub(super) async fn callback(
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
    Ok(pages::see_other(login.return_to.as_str()))
}

/// `GET /logout`: the confirmation page.
pub(super) fn logout_page(sessions: &Sessions, context: AuthContext<'_>) -> Response<Body> {
    if cookie::session(context.headers) == cookie::SessionCookie::Absent {
        return pages::signed_out();
    }
    pages::logout_confirmation(sessions.logout_origin(context.headers).as_slice())
}

/// `POST /logout`: ends the session, then redirects the browser to the provider's logout.
pub(super) async fn logout(
    sessions: &Sessions,
    context: AuthContext<'_>,
    reply: &mut HeaderMap,
) -> Result<Response<Body>, Refusal> {
    match sessions.log_out(context.headers, context.now, reply).await? {
        LogoutRedirect::Provider(location) => Ok(pages::see_other(&location)),
        LogoutRedirect::None => Ok(pages::signed_out()),
    }
}

/// `POST /backchannel-logout`: 200 once the sessions have ended (OpenID Connect Back-Channel Logout section 2.8).
pub(super) async fn back_channel_logout(
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
