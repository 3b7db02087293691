//! The start page of a signed-in user: name, roles, and the exporters that the user may read.

use http::Response;

use crate::gate::proxy::{
    authorize::{Permit, is_permitted},
    gate::Gate,
    pages,
};
use crate::{
    gate::identity::{AuthContext, session::cookie},
    http::Body,
};

pub(in crate::gate::proxy) fn page(gate: &Gate, permit: &Permit<'_>, context: AuthContext<'_>) -> Response<Body> {
    let exporters: Vec<(String, String)> = gate
        .routes
        .exporters()
        .into_iter()
        .filter(|exporter| is_permitted(gate, permit, context, gate.routes.scrape(), &exporter.resource))
        .map(|exporter| {
            let link = format!("/exporters/{}{}", exporter.name, exporter.metrics_path);
            (exporter.name.to_string(), link)
        })
        .collect();
    let sessions =
        gate.identity.sessions().filter(|_| cookie::session(context.headers) != cookie::SessionCookie::Absent);
    let ends_at = sessions.map(|sessions| sessions.logout_origin(context.headers));
    pages::home(&permit.principal, &permit.roles, &exporters, ends_at.as_ref().map(Option::as_slice))
}
