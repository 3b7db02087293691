//! What somebody at a shell asks of a gate, by its own API.
//!
//! Promises: a token goes only to the gate that was named, by https (http to loopback only); an answer is bounded; what
//! the gate says is made safe to print.

use std::{path::Path, time::Duration};

use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use serde_json::Value;

use super::{Problem, printable};
use crate::{
    client::Client,
    gate::identity::issuer::may_be_asked,
    http::Body,
    secret::{Secret, authorization},
};

/// The longest list of grants.
const LIMIT: usize = 4 << 20;
const DEADLINE: Duration = Duration::from_secs(30);

/// A gate, and a token that it is shown.
#[derive(Debug)]
pub(crate) struct Gate {
    client: Client,
    url: String,
    token: Secret,
}

impl Gate {
    /// The gate at this URL; `ca` is the file of roots to trust, the system's where there is none.
    ///
    /// # Errors
    /// When the URL is not https (or http to loopback), or the file cannot be used.
    pub(crate) fn new(url: &str, ca: Option<&Path>, token: Secret) -> Result<Self, Problem> {
        if !may_be_asked(url) {
            return Err(Problem::Address(url.to_owned()));
        }
        Ok(Self { client: Client::new(ca)?, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Asks, and reads the JSON that it answers.
    ///
    /// # Errors
    /// When it cannot be asked, or refuses: then with its own words.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Problem> {
        let url = format!("{}{path}", self.url);
        let unsendable = || Problem::Document(url.clone(), "cannot be asked with this token".into());
        let token = authorization(&format!("Bearer {}", self.token.expose())).map_err(|_| unsendable())?;
        let request = Request::builder().method(method).uri(&url).header(AUTHORIZATION, token);
        let request = request.header("accept", "application/json").header("content-type", "application/json");
        let body = body.map_or(Body::Empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|_| Problem::Address(url.clone()))?;
        let answer = self.client.fetch(request, LIMIT, DEADLINE).await;
        let answer = answer.map_err(|e| Problem::Unreachable(url.clone(), e))?;
        let said: Option<Value> = serde_json::from_slice(answer.body()).ok();
        match (answer.status(), said) {
            (status, Some(said)) if status.is_success() => Ok(said),
            (status, said) => Err(refused(url, status, said.as_ref())),
        }
    }
}

/// RFC 9457: `detail` says what is wrong with this request.
fn refused(url: String, status: StatusCode, said: Option<&Value>) -> Problem {
    match said.and_then(|said| said["detail"].as_str()) {
        Some(detail) => Problem::Gate(status, printable(detail)),
        None => Problem::Status(url, status),
    }
}
