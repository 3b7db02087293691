//! Emulator of the Vertex AI REST API: endpoints with a forecast model, and one method or more of each class.
//!
//! Promises: each method is called with an access token of a service account of the method's class, or is a 403;
//! predictions come from [`forecast`](super::forecast); errors of the model look as they do behind Vertex: wrapped on
//! `:predict`, bare on `:rawPredict`.

use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    class::Class,
    errors::{denied, error, invalid, not_found, unauthenticated},
    forecast,
    identity::{self, IssuedTokenKind},
    state::{ENDPOINT, IssuedToken, LOCATION, PROJECT, Shared},
};
use crate::{
    clock,
    demo::server::{ReceivedRequest, json},
    http::Body,
};

/// Shared public endpoints: 1.5 MB.
const PAYLOAD_LIMIT: usize = 1_572_864;
const DEPLOYED_MODEL: &str = "2001";
const MODEL: &str = "3001";
const MODEL_NAME: &str = "seasonal-forecast";

/// A method of the API.
enum ApiMethod<'a> {
    Predict { endpoint: &'a str, raw: bool },
    Get,
    List,
    GetOperation { about: &'a str },
    CreateJob,
    CreateDataset,
    SetIamPolicy,
}

impl ApiMethod<'_> {
    fn class(&self) -> Class {
        match self {
            Self::Predict { .. } => Class::Infer,
            Self::Get | Self::List => Class::Observe,
            // an operation is of the class that makes what it is about
            Self::GetOperation { about: "datasets" } => Class::Ingest,
            Self::GetOperation { about: "models" | "customJobs" } => Class::Train,
            Self::GetOperation { .. } => Class::Administer,
            Self::CreateJob => Class::Train,
            Self::CreateDataset => Class::Ingest,
            Self::SetIamPolicy => Class::Administer,
        }
    }
}

/// Answers `/v1*/projects/{project}/locations/{location}/{rest}`.
pub(super) async fn answer(
    google: &Shared,
    project: &str,
    location: &str,
    rest: &[&str],
    call: &ReceivedRequest,
) -> Response<Body> {
    let Some(token) = call.bearer() else { return unauthenticated() };
    let Some(found) = identity::find_token(google, token, IssuedTokenKind::Access) else { return unauthenticated() };
    let IssuedToken { name: account, subject, .. } = found;
    let Some(api_method) = api_method(&call.method, rest) else { return not_found(&call.path) };
    if google.accounts.get(&account) != Some(&api_method.class()) {
        return denied(&format!(
            "Permission to {} denied on resource '//aiplatform.googleapis.com/projects/{project}/locations/{location}/{}' \
             (or it may not exist) for {account}.",
            api_method.class().name(),
            rest.join("/")
        ));
    }
    // the content of Google's audit log: the principal, and the service account that it acted through
    tracing::info!(
        service = "google",
        principal = subject,
        account,
        class = api_method.class().name(),
        "Vertex request"
    );
    if project != PROJECT || location != LOCATION {
        return error(StatusCode::NOT_FOUND, "NOT_FOUND", "The project or the location does not exist.");
    }
    if call.body.len() > PAYLOAD_LIMIT {
        return invalid(&format!("Request payload size exceeds the limit: {PAYLOAD_LIMIT} bytes."));
    }
    match api_method {
        ApiMethod::Predict { endpoint, raw } => predict(google, endpoint, raw, call).await,
        ApiMethod::Get => get(google, &name(rest)),
        ApiMethod::List => list(google, rest.first().copied().unwrap_or_default()),
        ApiMethod::GetOperation { .. } => json(StatusCode::OK, &operation(&name(rest))),
        ApiMethod::CreateJob => create_job(google, call),
        ApiMethod::CreateDataset => create_dataset(google, call),
        ApiMethod::SetIamPolicy => set_iam_policy(call),
    }
}

fn api_method<'a>(method: &Method, rest: &[&'a str]) -> Option<ApiMethod<'a>> {
    match (method, rest) {
        (&Method::POST, ["endpoints", last]) => match last.split_once(':')? {
            (endpoint, "predict") => Some(ApiMethod::Predict { endpoint, raw: false }),
            (endpoint, "rawPredict") => Some(ApiMethod::Predict { endpoint, raw: true }),
            (_, "setIamPolicy") => Some(ApiMethod::SetIamPolicy),
            _ => None,
        },
        (&Method::POST, ["models" | "datasets", last]) if last.ends_with(":setIamPolicy") => {
            Some(ApiMethod::SetIamPolicy)
        }
        (&Method::POST, ["customJobs"]) => Some(ApiMethod::CreateJob),
        (&Method::POST, ["datasets"]) => Some(ApiMethod::CreateDataset),
        (&Method::GET, ["endpoints" | "models" | "customJobs" | "datasets"]) => Some(ApiMethod::List),
        (&Method::GET, [about, .., "operations", _]) => Some(ApiMethod::GetOperation { about }),
        (&Method::GET, ["endpoints" | "models" | "customJobs" | "datasets", id]) if !id.contains(':') => {
            Some(ApiMethod::Get)
        }
        _ => None,
    }
}

async fn predict(google: &Shared, endpoint: &str, raw: bool, call: &ReceivedRequest) -> Response<Body> {
    if endpoint != ENDPOINT {
        return error(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            &format!("Endpoint `{}` not found.", name(&["endpoints", endpoint])),
        );
    }
    let Ok(Value::Object(mut request)) = serde_json::from_slice(&call.body) else {
        return invalid("Invalid JSON payload received.");
    };
    let Some(Value::Array(instances)) = request.remove("instances") else {
        return invalid("The request must hold `instances`.");
    };
    let predicted = tokio::task::spawn_blocking(move || forecast::predict(&instances)).await;
    let predicted = predicted.unwrap_or_else(|_| Err("the model stopped".to_owned()));
    let mut response = match predicted {
        Ok(predictions) if raw => json(StatusCode::OK, &forecast::answer(&predictions)),
        Ok(predictions) => {
            let served_by = json!({
                "deployedModelId": DEPLOYED_MODEL,
                "model": name(&["models", MODEL]),
                "modelDisplayName": MODEL_NAME,
                "modelVersionId": google.lock().model_version,
            });
            json(StatusCode::OK, &merged(forecast::answer(&predictions), served_by))
        }
        // the model's server answers 500 to bad input as well
        Err(reason) if raw => json(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": reason })),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", &json!({ "error": reason }).to_string()),
    };
    if raw {
        response.headers_mut().insert("x-vertex-ai-endpoint-id", HeaderValue::from_static(ENDPOINT));
        response.headers_mut().insert("x-vertex-ai-deployed-model-id", HeaderValue::from_static(DEPLOYED_MODEL));
    }
    response
}

/// The full name of a resource below the one project and location.
fn name(rest: &[&str]) -> String {
    format!("projects/{PROJECT}/locations/{LOCATION}/{}", rest.join("/"))
}

const CREATED_AT: &str = "2026-01-01T00:00:00Z";

fn endpoint() -> Value {
    json!({
        "name": name(&["endpoints", ENDPOINT]),
        "displayName": "demo-forecast",
        "deployedModels": [{ "id": DEPLOYED_MODEL, "model": name(&["models", MODEL]), "displayName": MODEL_NAME }],
        "trafficSplit": { DEPLOYED_MODEL: 100 },
        "createTime": CREATED_AT,
        "updateTime": CREATED_AT,
    })
}

fn model(google: &Shared) -> Value {
    json!({
        "name": name(&["models", MODEL]),
        "displayName": MODEL_NAME,
        "versionId": google.lock().model_version,
        "versionAliases": ["default"],
        "deployedModels": [{ "endpoint": name(&["endpoints", ENDPOINT]), "deployedModelId": DEPLOYED_MODEL }],
        "createTime": CREATED_AT,
        "updateTime": CREATED_AT,
    })
}

fn get(google: &Shared, name: &str) -> Response<Body> {
    let mut fixed = [endpoint(), model(google)].into_iter();
    let found = fixed.find(|resource| resource.get("name").is_some_and(|found| found == name));
    match found.or_else(|| google.lock().created.get(name).cloned()) {
        Some(found) => json(StatusCode::OK, &found),
        None => error(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("`{name}` not found.")),
    }
}

fn list(google: &Shared, collection: &str) -> Response<Body> {
    let found = match collection {
        "endpoints" => vec![endpoint()],
        "models" => vec![model(google)],
        _ => {
            let below = name(&[collection, ""]);
            google
                .lock()
                .created
                .iter()
                .filter(|(name, _)| name.starts_with(&below))
                .map(|(_, resource)| resource.clone())
                .collect()
        }
    };
    json(StatusCode::OK, &json!({ collection: found }))
}

/// The fields of both; those of `more` win.
fn merged(mut resource: Value, more: Value) -> Value {
    if let (Value::Object(resource), Value::Object(more)) = (&mut resource, more) {
        resource.extend(more);
    }
    resource
}

/// Stores a resource with the fields that the server sets. Returns its name and the resource.
fn create(google: &Shared, collection: &str, resource: Value) -> (String, Value) {
    let mut state = google.lock();
    state.last_id += 1;
    let name = name(&[collection, &state.last_id.to_string()]);
    let resource = merged(resource, json!({ "name": name, "createTime": clock::now().to_string() }));
    // a demo that runs for days must not exhaust memory
    if state.created.len() < 1000 {
        state.created.insert(name.clone(), resource.clone());
    }
    (name, resource)
}

/// The JSON body; `None` if it does not have this field with a valid value.
fn body_with(call: &ReceivedRequest, field: &str, is_valid: fn(&Value) -> bool) -> Option<Value> {
    let body: Value = serde_json::from_slice(&call.body).ok()?;
    body.get(field).is_some_and(is_valid).then_some(body)
}

fn create_job(google: &Shared, call: &ReceivedRequest) -> Response<Body> {
    let Some(job) = body_with(call, "jobSpec", Value::is_object) else {
        return invalid("The request must hold `jobSpec`.");
    };
    let (_, job) = create(google, "customJobs", merged(job, json!({ "state": "JOB_STATE_PENDING" })));
    json(StatusCode::OK, &job)
}

fn create_dataset(google: &Shared, call: &ReceivedRequest) -> Response<Body> {
    let Some(dataset) = body_with(call, "displayName", Value::is_string) else {
        return invalid("The request must hold `displayName`.");
    };
    let (dataset, _) = create(google, "datasets", dataset);
    let made = json!({ "@type": "type.googleapis.com/google.cloud.aiplatform.v1.Dataset", "name": dataset });
    json(StatusCode::OK, &merged(operation(&format!("{dataset}/operations/1")), json!({ "response": made })))
}

/// A long-running operation that is done already.
fn operation(name: &str) -> Value {
    json!({ "name": name, "done": true })
}

fn set_iam_policy(call: &ReceivedRequest) -> Response<Body> {
    let policy = body_with(call, "policy", Value::is_object);
    match policy.as_ref().and_then(|body| body.get("policy")) {
        Some(policy) => json(StatusCode::OK, policy),
        None => invalid("The request must hold `policy`."),
    }
}
