//! Tests of the emulators, on which other tests rely.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{
    directory::Directory,
    environment::{Environment, Ports, ROLES},
    exporter::{Exporter, SERVICES, requests_per_second},
    google::{self, AUDIENCE, Class, Google},
    issuer::Issuer,
    pki::Pki,
    server::Behaviour,
};
use crate::{client::Client, http::Body};

struct Caller(Client);

impl Caller {
    fn new() -> Self {
        Self::trusting(&Pki::new().unwrap())
    }

    fn trusting(pki: &Pki) -> Self {
        let file = std::env::temp_dir().join(format!("wicketgate-demo-ca-{}.pem", uuid::Uuid::now_v7()));
        std::fs::write(&file, pki.ca_pem()).unwrap();
        let client = Client::new(Some(&file));
        std::fs::remove_file(&file).unwrap();
        Self(client.unwrap())
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Bytes> {
        let request: Request<Body> = request.body(Body::Full(body.into())).unwrap();
        self.0.fetch(request, 1 << 20, Duration::from_secs(10)).await.unwrap()
    }

    async fn json(&self, request: http::request::Builder, body: &Value) -> (StatusCode, Value) {
        let request = request.header("content-type", "application/json");
        let response = self.send(request, body.to_string()).await;
        (response.status(), serde_json::from_slice(response.body()).unwrap_or_default())
    }

    async fn exchange(&self, google: &Google, token: &str) -> (StatusCode, Value) {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
            .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
            .append_pair("scope", "https://www.googleapis.com/auth/cloud-platform")
            .append_pair("audience", AUDIENCE)
            .append_pair("subject_token", token)
            .finish();
        let request = Request::post(format!("{}/v1/token", google.url()))
            .header("content-type", "application/x-www-form-urlencoded");
        let response = self.send(request, form).await;
        (response.status(), serde_json::from_slice(response.body()).unwrap())
    }

    /// An access token of the demo's service account for this class.
    async fn access(&self, google: &Google, issuer: &Issuer, class: Class) -> String {
        let subject = issuer.token("gate").audience(AUDIENCE).mint().unwrap();
        let (status, federated) = self.exchange(google, &subject).await;
        assert_eq!(status, StatusCode::OK, "{federated}");
        let (status, access) = self.impersonate(google, federated["access_token"].as_str().unwrap(), class).await;
        assert_eq!(status, StatusCode::OK, "{access}");
        access["accessToken"].as_str().unwrap().to_owned()
    }

    async fn impersonate(&self, google: &Google, federated: &str, class: Class) -> (StatusCode, Value) {
        let url =
            format!("{}/v1/projects/-/serviceAccounts/{}:generateAccessToken", google.url(), google::account(class));
        let request = Request::post(url).header("authorization", format!("Bearer {federated}"));
        self.json(request, &json!({ "scope": ["cloud-platform"], "lifetime": "3600s" })).await
    }

    async fn vertex(
        &self,
        google: &Google,
        method: &str,
        path: &str,
        token: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let url = format!("{}/v1/projects/demo/locations/us-central1/{path}", google.url());
        let request = Request::builder().method(method).uri(url).header("authorization", format!("Bearer {token}"));
        self.json(request, body).await
    }
}

async fn google() -> (Issuer, Google) {
    let issuer = Issuer::builder().start().await.unwrap();
    let google = Google::builder(issuer.url(), issuer.keys()).start().await.unwrap();
    (issuer, google)
}

#[tokio::test]
async fn the_issuer_gives_its_clients_tokens_that_its_published_keys_verify() {
    let pki = Pki::new().unwrap();
    let issuer =
        Issuer::builder().tls(pki.loopback().unwrap()).client("prom", "a secret", &["scrape"]).start().await.unwrap();
    let caller = Caller::trusting(&pki);
    let page = format!("{}/.well-known/openid-configuration", issuer.url());
    let metadata = caller.send(Request::get(page), "").await;
    let metadata: Value = serde_json::from_slice(metadata.body()).unwrap();
    assert_eq!(metadata["issuer"], issuer.url());

    let endpoint = metadata["token_endpoint"].as_str().unwrap();
    let form = |body: &str| {
        (Request::post(endpoint).header("content-type", "application/x-www-form-urlencoded"), body.to_owned())
    };
    let (request, body) = form("grant_type=client_credentials&client_id=prom&client_secret=a+secret");
    let posted = caller.send(request, body).await;
    let (request, body) = form("grant_type=client_credentials");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "prom:a+secret");
    let basic_auth = caller.send(request.header("authorization", format!("Basic {basic}")), body).await;
    for granted in [posted, basic_auth] {
        assert_eq!(granted.status(), StatusCode::OK);
        let granted: Value = serde_json::from_slice(granted.body()).unwrap();
        let keys = caller.send(Request::get(metadata["jwks_uri"].as_str().unwrap()), "").await;
        let claims = verified(granted["access_token"].as_str().unwrap(), keys.body());
        assert_eq!(claims["sub"], "prom");
        assert_eq!(claims["roles"], json!(["scrape"]));
    }
    let (request, body) = form("grant_type=client_credentials&client_id=prom&client_secret=wrong");
    let refused = caller.send(request, body).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.headers().contains_key("www-authenticate"));
}

fn verified(token: &str, keys: &[u8]) -> Value {
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(keys).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let key = keys.find(&header.kid.unwrap()).expect("the key is published");
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.set_audience(&["wicketgate"]);
    jsonwebtoken::decode(token, &jsonwebtoken::DecodingKey::from_jwk(key).unwrap(), &rules).unwrap().claims
}

#[tokio::test]
async fn every_algorithm_signs_what_its_published_key_verifies() {
    let issuer = Issuer::builder().start().await.unwrap();
    for algorithm in [Algorithm::PS256, Algorithm::ES384, Algorithm::EdDSA] {
        issuer.keys().add(algorithm).unwrap();
    }
    let keys = serde_json::to_vec(&issuer.keys().jwks()).unwrap();
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256};
    for algorithm in [RS256, ES256, PS256, ES384, EdDSA] {
        let token = issuer.token("someone").algorithm(algorithm).mint().unwrap();
        assert_eq!(verified(&token, &keys)["sub"], "someone", "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_rotated_key_signs_and_a_withdrawn_one_is_not_published() {
    let issuer = Issuer::builder().start().await.unwrap();
    let first = issuer.keys().current(Algorithm::RS256).unwrap();
    let second = issuer.rotate().unwrap();
    assert_eq!(issuer.keys().current(Algorithm::RS256).as_ref(), Some(&second));
    assert!(issuer.keys().jwks().find(&first).is_some());
    assert!(issuer.keys().withdraw(&first));
    assert!(issuer.keys().jwks().find(&first).is_none());
    let thief = issuer.token("thief").key(&first).mint().unwrap();
    assert_eq!(jsonwebtoken::decode_header(&thief).unwrap().kid, Some(first));
}

#[tokio::test]
async fn sts_believes_only_tokens_for_it() {
    let (issuer, google) = google().await;
    let caller = Caller::new();
    let good = || issuer.token("gate").audience(AUDIENCE);
    let stranger = Issuer::builder().start().await.unwrap();
    let bad = [
        ("another audience", issuer.token("gate").mint()),
        ("another issuer", good().claim("iss", "https://elsewhere").mint()),
        ("another's key", stranger.token("gate").audience(AUDIENCE).claim("iss", issuer.url()).mint()),
        ("expired", good().aged(4000).mint()),
        ("too old", good().aged(90_000).lifetime(Duration::from_secs(200_000)).mint()),
        ("unsigned", good().unsigned().mint()),
        ("no subject", good().without("sub").mint()),
    ];
    for (what, token) in bad {
        let (status, answer) = caller.exchange(&google, &token.unwrap()).await;
        assert_eq!((status, &answer["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")), "{what}: {answer}");
    }
    let (status, answer) = caller.exchange(&google, &good().mint().unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 3600);
}

#[tokio::test]
async fn a_service_account_may_call_its_class_and_no_other() {
    let (issuer, google) = google().await;
    let caller = Caller::new();
    let calls = [
        (
            Class::Infer,
            "POST",
            "endpoints/1001:predict",
            json!({ "instances": [{ "input": [1, 2, 3], "horizon": 2 }] }),
        ),
        (Class::Ingest, "POST", "datasets", json!({ "displayName": "d" })),
        (Class::Train, "POST", "customJobs", json!({ "displayName": "j", "jobSpec": {} })),
        (Class::Observe, "GET", "endpoints/1001", Value::Null),
        (Class::Administer, "POST", "endpoints/1001:setIamPolicy", json!({ "policy": {} })),
    ];
    for holder in [Class::Ingest, Class::Infer, Class::Train, Class::Observe, Class::Administer] {
        let token = caller.access(&google, &issuer, holder).await;
        for (class, method, path, body) in &calls {
            let (status, answer) = caller.vertex(&google, method, path, &token, body).await;
            let expected = if *class == holder { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status, expected, "{holder:?} {path}: {answer}");
            if *class != holder {
                assert_eq!(answer["error"]["status"], "PERMISSION_DENIED");
            }
        }
    }
}

#[tokio::test]
async fn tokens_of_the_wrong_kind_or_past_their_time_are_unauthenticated() {
    let (issuer, google) = google().await;
    let caller = Caller::new();
    let subject = issuer.token("gate").audience(AUDIENCE).mint().unwrap();
    let (_, federated) = caller.exchange(&google, &subject).await;
    let federated = federated["access_token"].as_str().unwrap();
    let predict = json!({ "instances": [{ "input": [1, 2], "horizon": 1 }] });
    let (status, _) = caller.vertex(&google, "POST", "endpoints/1001:predict", federated, &predict).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = caller.impersonate(&google, &subject, Class::Infer).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    google.access_lifetime(Duration::ZERO);
    let expired = caller.access(&google, &issuer, Class::Infer).await;
    let (status, _) = caller.vertex(&google, "POST", "endpoints/1001:predict", &expired, &predict).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn predict_answers_as_vertex_does() {
    let (issuer, google) = google().await;
    let caller = Caller::new();
    let token = caller.access(&google, &issuer, Class::Infer).await;
    google.model_version("7");
    let body = json!({ "instances": [{ "input": [1, 2, 3, 4], "horizon": 5 }, { "input": [4, 4], "horizon": 1 }] });
    let (status, answer) = caller.vertex(&google, "POST", "endpoints/1001:predict", &token, &body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(answer["predictions"][0]["p90"].as_array().unwrap().len(), 5);
    assert_eq!(answer["modelVersionId"], "7");

    let url = format!("{}/v1beta1/projects/demo/locations/us-central1/endpoints/1001:rawPredict", google.url());
    let raw = Request::post(url).header("authorization", format!("Bearer {token}"));
    let raw = caller.send(raw, body.to_string()).await;
    assert_eq!(raw.headers()["x-vertex-ai-endpoint-id"], "1001");
    assert!(raw.headers().contains_key("x-vertex-ai-deployed-model-id"));

    let bad = json!({ "instances": [{ "input": [1] }] });
    let (status, answer) = caller.vertex(&google, "POST", "endpoints/1001:predict", &token, &bad).await;
    assert_eq!((status, &answer["error"]["status"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("INTERNAL")));
    let (status, answer) = caller.vertex(&google, "POST", "endpoints/9:predict", &token, &body).await;
    assert_eq!((status, &answer["error"]["status"]), (StatusCode::NOT_FOUND, &json!("NOT_FOUND")));
    let (status, _) = caller.vertex(&google, "POST", "endpoints/1001:frobnicate", &token, &body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_created_can_be_read() {
    let (issuer, google) = google().await;
    let caller = Caller::new();
    let train = caller.access(&google, &issuer, Class::Train).await;
    let observe = caller.access(&google, &issuer, Class::Observe).await;
    let job_request = json!({ "displayName": "retrain", "jobSpec": {} });
    let (_, job) = caller.vertex(&google, "POST", "customJobs", &train, &job_request).await;
    let path = job["name"].as_str().unwrap().strip_prefix("projects/demo/locations/us-central1/").unwrap();
    let (status, read) = caller.vertex(&google, "GET", path, &observe, &Value::Null).await;
    assert_eq!((status, &read["displayName"]), (StatusCode::OK, &json!("retrain")));
    let (_, all) = caller.vertex(&google, "GET", "customJobs", &observe, &Value::Null).await;
    assert_eq!(all["customJobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_exporter_wants_its_password_and_negotiates() {
    let exporter = Exporter::start(0, Some("open sesame")).await.unwrap();
    let caller = Caller::new();
    let page = || Request::get(format!("{}/metrics", exporter.url()));
    assert_eq!(caller.send(page(), "").await.status(), StatusCode::UNAUTHORIZED);
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "wicketgate:open sesame");
    let page = || page().header("authorization", format!("Basic {basic}"));
    let plain = caller.send(page(), "").await;
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.body().starts_with(b"# HELP demo_requests_per_second"));
    let open = caller.send(page().header("accept", "application/openmetrics-text;version=1.0.0"), "").await;
    assert!(open.body().ends_with(b"# EOF\n"));
    let zipped = caller.send(page().header("accept-encoding", "gzip"), "").await;
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn servers_remember_misbehave_and_stop() {
    let exporter = Arc::new(Exporter::start(0, None).await.unwrap());
    let caller = Caller::new();
    let waiting = exporter.clone();
    let seen = tokio::join!(
        async move { waiting.server().wait_for(|requests| requests.first().cloned()).await },
        caller.send(Request::post(format!("{}/metrics?a=b", exporter.url())).header("x-mark", "1"), "body"),
    )
    .0;
    assert_eq!((seen.path.as_str(), seen.header("x-mark"), seen.body_length), ("/metrics?a=b", Some("1"), 4));
    exporter.server().set_behaviour(Behaviour::Fail(StatusCode::BAD_GATEWAY));
    let page = || Request::get(format!("{}/metrics", exporter.url()));
    assert_eq!(caller.send(page(), "").await.status(), StatusCode::BAD_GATEWAY);
    exporter.server().set_behaviour(Behaviour::Disconnect);
    let request = page().body(Body::Empty).unwrap();
    assert!(caller.0.fetch(request, 10, Duration::from_secs(5)).await.is_err());
    let address = exporter.server().address();
    Arc::into_inner(exporter).unwrap().stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_environment_fills_its_directory_and_spares_a_strangers() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::temporary().await.unwrap();
    let path = directory.path().to_owned();
    let environment = Environment::start(directory, Ports { gate: 0, admin: 0 }).await.unwrap();
    let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    let roles = ROLES.map(|role| format!("tokens/{role}.jwt"));
    for secret in roles.iter().map(String::as_str).chain(["subject.jwt", "certs/gate.key", "exporter.password"]) {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    for public in
        ["certs/ca.pem", "certs/gate.pem", "wicketgate.toml", "policies/roles.toml", "policies/wicketgate.cedar"]
    {
        assert_eq!(mode(public), 0o644, "{public}");
    }
    let keys = serde_json::to_vec(&environment.issuer.keys().jwks()).unwrap();
    let token = std::fs::read_to_string(environment.token_file("ingest")).unwrap();
    assert_eq!(verified(&token, &keys)["roles"], json!(["ingest"]));
    environment.stop().await;
    Directory::at(&path).await.expect("a demo's directory is taken again");

    std::fs::write(path.join("wicketgate.toml"), "[gate]\n").unwrap();
    assert!(Directory::at(&path).await.unwrap_err().to_string().contains("wicketgate.toml"));
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn the_model_foresees_the_exporters_next_minute() {
    let at = |second: i64| crate::clock::Timestamp::from_second(1_800_000_000 + second).unwrap();
    for service in SERVICES {
        for known in [125, 512] {
            let input: Vec<f64> = (0..known).map(|second| requests_per_second(service, at(second))).collect();
            let forecast = google::forecast::predict(&[json!({ "input": input, "horizon": 60 })]).unwrap().remove(0);
            let truth: Vec<f64> = (known..known + 60).map(|second| requests_per_second(service, at(second))).collect();
            let off = forecast.mean.iter().zip(&truth).map(|(a, b)| (a - b).abs()).sum::<f64>() / 60.0;
            assert!(off < 3.0, "{service} from {known} s: off by {off} on average");
            let inside = (0..60).filter(|step| {
                (forecast.quantiles["p10"][*step]..=forecast.quantiles["p90"][*step]).contains(&truth[*step])
            });
            let inside = inside.count();
            assert!(inside >= 30, "{service} from {known} s: only {inside} of 60 inside p10 to p90");
        }
    }
}
