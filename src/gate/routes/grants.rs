//! Routes of the grants API: `/grants` and `/grants/{id}:{verb}`.

use std::{borrow::Cow, sync::Arc};

use http::{Method, StatusCode};
use uuid::Uuid;

use super::{
    options::RouteOptions,
    route::{APPROVE_GRANT, LIST_GRANTS, LocalRoute, Matched, REQUEST_GRANT, REVOKE_GRANT, Route, check_method},
};
use crate::{
    gate::{grants::GrantCommand, policy::Resource},
    refusal::Refusal,
};

/// The Cedar actions and the resource of the grants API. Denying a grant needs the same permission as approving it.
pub struct GrantRoutes {
    list: LocalRoute,
    request: Arc<str>,
    /// The action of approving and denying a grant.
    pub approve: Arc<str>,
    /// The action of revoking a grant.
    pub revoke: Arc<str>,
}

impl GrantRoutes {
    pub(super) fn new() -> Self {
        Self {
            list: LocalRoute::new(LIST_GRANTS, "grants", RouteOptions::default()),
            request: REQUEST_GRANT.into(),
            approve: APPROVE_GRANT.into(),
            revoke: REVOKE_GRANT.into(),
        }
    }
}

/// The grant command of a request. The resource is the list of all grants until the command's grant is read.
pub(super) fn find<'r>(
    grant_routes: Option<&'r GrantRoutes>,
    method: &Method,
    rest: &str,
    query: &str,
) -> Result<Matched<'r>, Refusal> {
    let grant_routes = grant_routes.ok_or_else(|| {
        let text = "grants are not configured: the configuration has no [grants]";
        Refusal::new(StatusCode::NOT_FOUND, "unknown_route", text)
    })?;
    let (command, action) = match (rest, method) {
        ("", &Method::POST) => (GrantCommand::Request(None), &grant_routes.request),
        ("", _) => {
            check_method(method, "GET, POST")?;
            let pending_only = match query {
                "" => false,
                "state=pending" => true,
                _ => return Err(Refusal::malformed("query_refused", "the list accepts `?state=pending` or no query")),
            };
            (GrantCommand::List { pending_only }, &grant_routes.list.action)
        }
        (rest, _) => {
            let (id, verb) = parse_id_and_verb(rest).ok_or_else(|| {
                let text = "unknown path: use `/grants`, or `/grants/ID:approve`, `:deny` or `:revoke`";
                Refusal::new(StatusCode::NOT_FOUND, "unknown_route", text)
            })?;
            check_method(method, "POST")?;
            match verb {
                Verb::Approve => (GrantCommand::Approve(id, None), &grant_routes.approve),
                Verb::Deny => (GrantCommand::Deny(id), &grant_routes.approve),
                Verb::Revoke => (GrantCommand::Revoke(id), &grant_routes.revoke),
            }
        }
    };
    let resource: &Resource = &grant_routes.list.resource;
    Ok(Matched { route: Route::Grants(command), action, resource: Cow::Borrowed(resource) })
}

enum Verb {
    Approve,
    Deny,
    Revoke,
}

/// The id and the verb of `/{id}:{verb}`. An id has one spelling: the one in the gate's responses.
fn parse_id_and_verb(rest: &str) -> Option<(Uuid, Verb)> {
    let (text, verb) = rest.strip_prefix('/')?.split_once(':')?;
    let verb = match verb {
        "approve" => Verb::Approve,
        "deny" => Verb::Deny,
        "revoke" => Verb::Revoke,
        _ => return None,
    };
    let id = Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)?;
    Some((id, verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, target: &str, expected: Result<&str, &str>) {
        let grant_routes = GrantRoutes::new();
        let (rest, query) = target.split_once('?').unwrap_or((target, ""));
        let matched = find(Some(&grant_routes), &method, rest, query);
        assert_eq!(
            matched.map(|matched| &**matched.action).map_err(|refusal| refusal.reason),
            expected,
            "{method} {target}"
        );
    }

    #[test]
    fn each_command_has_one_spelling() {
        let id = "/0197a1f0-0000-7000-8000-00000000000a";
        check(Method::GET, "", Ok("Grant.List"));
        check(Method::GET, "?state=pending", Ok("Grant.List"));
        check(Method::GET, "?state=ended", Err("query_refused"));
        check(Method::POST, "", Ok("Grant.Request"));
        check(Method::DELETE, "", Err("method_not_allowed"));
        check(Method::POST, &format!("{id}:approve"), Ok("Grant.Approve"));
        check(Method::POST, &format!("{id}:deny"), Ok("Grant.Approve"));
        check(Method::POST, &format!("{id}:revoke"), Ok("Grant.Revoke"));
        check(Method::GET, &format!("{id}:revoke"), Err("method_not_allowed"));
        for wrong in ["/", id, "/x:approve", &format!("{}:deny", id.to_uppercase()), &format!("{id}:Approve")] {
            check(Method::POST, wrong, Err("unknown_route"));
        }
        assert_eq!(find(None, &Method::GET, "", "").err().map(|refusal| refusal.status), Some(StatusCode::NOT_FOUND));
    }
}
