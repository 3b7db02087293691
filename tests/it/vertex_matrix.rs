//! Every row of the Vertex table with every role, over REST and gRPC: the permitted role reaches Google with its
//! class's service account; the others reach no upstream, and the audit record names the method.

use std::collections::{BTreeMap, HashMap};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    support::{
        Gate, Harness, eventually,
        grpc::{self, Connection, Outcome},
        upstream::Seen,
    },
    vertex_table::{Concrete, REGION, ROWS, Row, meanings},
};

/// The roles of callers; the last has none.
const ROLES: [&str; 6] = ["ingest", "infer", "train", "observe", "administer", ""];
/// Connections at once.
const CONNECTIONS: usize = 8;

/// Whether this role may do it by the shipped policies, read off the row and no policy.
fn may(role: &str, row: &Row) -> bool {
    role == row.group
        // the SDK reads the endpoint before it predicts
        || (role == "infer" && row.action == "EndpointService.GetEndpoint")
}

/// One request of the walk and what became of it.
struct Step {
    row: &'static Row,
    concrete: Concrete,
    by_rpc: bool,
    role: &'static str,
}

impl Step {
    fn name(&self) -> String {
        let target = if self.by_rpc { self.row.rpc.unwrap() } else { &self.concrete.target };
        let verb = self.row.verb.as_ref().map_or("", Method::as_str);
        format!("`{}` does {} {verb} {target} on {}", self.role, self.row.action, self.concrete.resource)
    }

    fn allowed(&self) -> bool {
        may(self.role, self.row)
    }

    async fn take(&self, by: &mut Connection, tokens: &HashMap<&'static str, String>) -> Outcome {
        let token = &tokens[self.role];
        match (&self.concrete.message, &self.row.verb) {
            (Some(message), _) if self.by_rpc => by.call(self.row.rpc.unwrap(), token, message).await,
            (_, Some(verb)) => by.request(verb, &self.concrete.target, token, body(verb)).await,
            _ => unreachable!("a step without a request"),
        }
    }

    /// What is wrong with the answer, where something is.
    fn judge(&self, outcome: &Outcome) -> Option<String> {
        let right = if self.by_rpc {
            let code = if self.allowed() { grpc::OK } else { grpc::PERMISSION_DENIED };
            outcome.status == StatusCode::OK && outcome.code() == Some(code)
        } else if self.allowed() {
            outcome.status == StatusCode::OK
        } else {
            let problem: Value = serde_json::from_slice(&outcome.body).unwrap_or_default();
            let told = (&problem["error"]["status"], &problem["reason"]);
            outcome.status == StatusCode::FORBIDDEN && told == (&json!("PERMISSION_DENIED"), &json!("not_permitted"))
        };
        (!right).then(|| format!("{}: {outcome:?} {}", self.name(), outcome.message()))
    }

    /// What is wrong with what reached Google, where something is.
    fn judge_forwarded(&self, seen: Option<&Seen>) -> Option<String> {
        let Some(seen) = seen else { return self.allowed().then(|| format!("{}: did not arrive", self.name())) };
        let account = format!("Bearer google-token-of-{}@", self.row.group);
        let (method, target) = match (&self.row.verb, self.by_rpc) {
            (Some(verb), false) => (verb, self.concrete.target.clone()),
            _ => (&Method::POST, format!("/{}", self.row.rpc.unwrap())),
        };
        let sent = if self.by_rpc {
            self.concrete.message.as_deref().unwrap()
        } else {
            self.row.verb.as_ref().map_or("", body).as_bytes()
        };
        let right = self.allowed()
            && (!self.by_rpc || self.is_routed(seen))
            && (&seen.method, &seen.target) == (method, &target)
            && &seen.body[..] == sent
            && seen.header("authorization").starts_with(&account);
        (!right).then(|| format!("{}: arrived as {seen:?}", self.name()))
    }

    /// Whether Google is told to route the call by what its message says (AIP-4222). The caller said nothing of it.
    fn is_routed(&self, seen: &Seen) -> bool {
        let told = url::form_urlencoded::parse(seen.header("x-goog-request-params").as_bytes());
        let told: HashMap<_, _> = told.into_owned().collect();
        let variables = self.concrete.variables.iter();
        told == variables.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    /// What is wrong with the record, where something is.
    fn judge_record(&self, record: Option<&Value>, permitted: bool) -> Option<String> {
        let Some(record) = record else { return Some(format!("{}: no record", self.name())) };
        let decision = if self.allowed() { "allow" } else { "deny" };
        let roles: &[&str] = if self.role.is_empty() { &[] } else { &[self.role] };
        let expected = [
            ("action", json!(self.row.action)),
            ("resource", json!(self.concrete.resource)),
            ("decision", json!(decision)),
            ("route", json!("vertex")),
            ("roles", json!(roles)),
            ("principal", json!("corp:tester")),
        ];
        let wrong: Vec<_> = expected.iter().filter(|(name, value)| record[name] != *value).collect();
        (!wrong.is_empty() || permitted != self.allowed())
            .then(|| format!("{}: not {wrong:?}, a permit: {permitted}: {record}", self.name()))
    }
}

fn body(verb: &Method) -> &'static str {
    if *verb == Method::GET || *verb == Method::DELETE { "" } else { "{}" }
}

/// Every row of this location by every role, in the two ways that it can be asked for.
fn steps(location: &str, by_rpc: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    // mixins stand in both versions under one gRPC name
    let mut called = BTreeMap::new();
    for row in ROWS.iter() {
        let concrete = row.concrete();
        let asked = if by_rpc {
            concrete.message.as_ref().is_some_and(|m| called.insert((row.rpc, m.clone()), ()).is_none())
        } else {
            row.verb.is_some()
        };
        if asked && concrete.location == location {
            steps.extend(ROLES.map(|role| Step { row, concrete: row.concrete(), by_rpc, role }));
        }
    }
    steps
}

/// Takes every step, several at once; gives each with the id that the gate gave it, and what was wrong.
async fn walk(gate: &Gate, steps: Vec<Step>) -> (Vec<(Step, String)>, Vec<String>) {
    let token = |role: &'static str| {
        let roles: Vec<&str> = [role].into_iter().filter(|role| !role.is_empty()).collect();
        (role, gate.issuer.token("tester", &roles).mint())
    };
    let tokens = HashMap::from(ROLES.map(token));
    let mut shares: Vec<Vec<Step>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for (index, step) in steps.into_iter().enumerate() {
        shares[index % CONNECTIONS].push(step);
    }
    let mut walkers = JoinSet::new();
    for share in shares {
        let door = gate.door(0, b"h2");
        let tokens = tokens.clone();
        walkers.spawn(async move {
            let mut connection = Connection::open(&door).await;
            let mut taken = Vec::new();
            let mut wrong = Vec::new();
            for step in share {
                let outcome = step.take(&mut connection, &tokens).await;
                wrong.extend(step.judge(&outcome));
                taken.push((step, outcome.id()));
            }
            (taken, wrong)
        });
    }
    let mut taken = Vec::new();
    let mut wrong = Vec::new();
    while let Some(walked) = walkers.join_next().await {
        let (more, worse) = walked.unwrap();
        taken.extend(more);
        wrong.extend(worse);
    }
    (taken, wrong)
}

async fn check(location: &str, by_rpc: bool) {
    let locations = format!("locations = [\"{location}\"]");
    let harness = Harness::new().await;
    let vertex = format!("[vertex]\n{locations}\nurl = \"{}\"", harness.google.url());
    let gate = harness.section("vertex", vertex).start().await;
    let (taken, mut wrong) = walk(&gate, steps(location, by_rpc)).await;
    assert!(!taken.is_empty(), "nothing was walked");

    let forwarded = gate.google.vertex();
    let seen: HashMap<&str, &Seen> = forwarded.iter().map(|seen| (seen.header("x-request-id"), seen)).collect();
    let last = &taken.last().unwrap().1;
    gate.record(last).await;
    let audit = eventually("every record", || async {
        let audit = gate.audit();
        (audit.iter().filter(|line| line["event"] == "request").count() >= taken.len()).then_some(audit)
    })
    .await;
    let lines = |event: &str| -> HashMap<String, &Value> {
        let of = audit.iter().filter(|line| line["event"] == event);
        of.map(|line| (line["id"].as_str().unwrap().to_owned(), line)).collect()
    };
    let records = lines("request");
    let permits = lines("permit");
    for (step, id) in &taken {
        wrong.extend(step.judge_forwarded(seen.get(id.as_str()).copied()));
        wrong.extend(step.judge_record(records.get(id).copied(), permits.contains_key(id)));
    }
    let allowed = taken.iter().filter(|(step, _)| step.allowed()).count();
    if forwarded.len() != allowed {
        wrong.push(format!("{allowed} requests were allowed and {} arrived", forwarded.len()));
    }
    let shown: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong; the first:\n{}", wrong.len(), taken.len(), shown.join("\n"));
}

#[tokio::test]
async fn every_rest_method_belongs_to_its_class_only() {
    check(REGION, false).await;
}

#[tokio::test]
async fn every_rest_method_without_a_location_belongs_to_its_class_only() {
    check("global", false).await;
}

#[tokio::test]
async fn every_grpc_method_belongs_to_its_class_only() {
    check(REGION, true).await;
}

#[tokio::test]
async fn every_grpc_method_without_a_location_belongs_to_its_class_only() {
    check("global", true).await;
}

/// What somebody who has read Google's documentation, and not the table, knows of its traps: verbs that lie,
/// credentials that are minted among data, free tails, operations, bodies with a will of their own, and the everyday.
/// Verb, path below `projects/p/locations/us-central1/` (or from the root, with a slash), class, method.
const KNOWN: &[(&str, &str, &str, &str)] = &[
    // a GET that writes, and POSTs that read
    ("GET", "datasets/1/datasetVersions/2:restore", "ingest", "DatasetService.RestoreDatasetVersion"),
    ("POST", "indexEndpoints/1:findNeighbors", "infer", "MatchService.FindNeighbors"),
    ("POST", "indexEndpoints/1:readIndexDatapoints", "infer", "MatchService.ReadIndexDatapoints"),
    (
        "POST",
        "modelDeploymentMonitoringJobs/1:searchModelDeploymentMonitoringStatsAnomalies",
        "observe",
        "JobService.SearchModelDeploymentMonitoringStatsAnomalies",
    ),
    (
        "POST",
        "/v1beta1/projects/p/locations/us-central1/modelMonitors/1:searchModelMonitoringStats",
        "observe",
        "ModelMonitoringService.SearchModelMonitoringStats",
    ),
    (
        "POST",
        "/v1beta1/projects/p/locations/us-central1/modelMonitors/1:searchModelMonitoringAlerts",
        "observe",
        "ModelMonitoringService.SearchModelMonitoringAlerts",
    ),
    // credentials
    (
        "POST",
        "featureOnlineStores/1/featureViews/2:generateFetchAccessToken",
        "administer",
        "FeatureOnlineStoreService.GenerateFetchAccessToken",
    ),
    (
        "POST",
        "/v1beta1/projects/p/locations/us-central1/notebookRuntimes/1:generateAccessToken",
        "administer",
        "projects.locations.notebookRuntimes.generateAccessToken",
    ),
    (
        "POST",
        "reasoningEngines/1/sandboxEnvironments/2:authorizeAccess",
        "administer",
        "projects.locations.reasoningEngines.sandboxEnvironments.authorizeAccess",
    ),
    ("POST", "endpoints/1:getIamPolicy", "administer", "IAMPolicy.GetIamPolicy"),
    ("POST", "endpoints/1:setIamPolicy", "administer", "IAMPolicy.SetIamPolicy"),
    ("POST", "models/1:setIamPolicy", "administer", "IAMPolicy.SetIamPolicy"),
    ("POST", "featurestores/1/entityTypes/2:setIamPolicy", "administer", "IAMPolicy.SetIamPolicy"),
    ("POST", "datasets/1:testIamPermissions", "administer", "IAMPolicy.TestIamPermissions"),
    // free tails, and an endpoint that is none
    ("POST", "endpoints/1/invoke/v1/completions", "infer", "projects.locations.endpoints.invoke.invoke"),
    ("POST", "endpoints/1/invoke/a:setIamPolicy", "infer", "projects.locations.endpoints.invoke.invoke"),
    (
        "POST",
        "endpoints/1/deployedModels/2/invoke/x",
        "infer",
        "projects.locations.endpoints.deployedModels.invoke.invoke",
    ),
    ("POST", "endpoints/1/chat/completions", "infer", "projects.locations.endpoints.chat.completions"),
    ("POST", "endpoints/openapi/chat/completions", "infer", "projects.locations.endpoints.chat.completions"),
    ("POST", "endpoints/openapi/embeddings", "infer", "projects.locations.endpoints.openapi.embeddings"),
    ("POST", "endpoints/openapi/responses", "infer", "projects.locations.endpoints.openapi.responses"),
    // operations are of the class that began them
    ("GET", "datasets/1/operations/2", "ingest", "Operations.GetOperation/ingest"),
    ("GET", "customJobs/1/operations/2", "train", "Operations.GetOperation/train"),
    ("GET", "models/1/operations/2", "train", "Operations.GetOperation/train"),
    ("POST", "trainingPipelines/1/operations/2:cancel", "train", "Operations.CancelOperation/train"),
    ("POST", "endpoints/1/operations/2:wait", "administer", "Operations.WaitOperation/administer"),
    ("DELETE", "datasets/1/operations/2", "administer", "Operations.DeleteOperation"),
    // the other version, and the short forms
    ("POST", "/v1beta1/projects/p/locations/us-central1/endpoints/1:predict", "infer", "PredictionService.Predict"),
    ("POST", "/v1/publishers/google/models/gemini-2:generateContent", "infer", "PredictionService.GenerateContent"),
    ("POST", "/v1/endpoints/1:predict", "infer", "PredictionService.Predict"),
    // the everyday, as section 2.2 of the facts lists it
    ("POST", "endpoints/1:predict", "infer", "PredictionService.Predict"),
    ("POST", "publishers/google/models/m:predict", "infer", "PredictionService.Predict"),
    ("POST", "endpoints/1:rawPredict", "infer", "PredictionService.RawPredict"),
    ("POST", "endpoints/1:streamRawPredict", "infer", "PredictionService.StreamRawPredict"),
    ("POST", "endpoints/1:serverStreamingPredict", "infer", "PredictionService.ServerStreamingPredict"),
    ("POST", "endpoints/1:directPredict", "infer", "PredictionService.DirectPredict"),
    ("POST", "endpoints/1:explain", "infer", "PredictionService.Explain"),
    ("POST", "publishers/google/models/m:streamGenerateContent", "infer", "PredictionService.StreamGenerateContent"),
    ("POST", "publishers/google/models/m:countTokens", "infer", "LlmUtilityService.CountTokens"),
    ("POST", "datasets", "ingest", "DatasetService.CreateDataset"),
    ("POST", "datasets/1:import", "ingest", "DatasetService.ImportData"),
    ("DELETE", "datasets/1", "administer", "DatasetService.DeleteDataset"),
    ("POST", "tensorboards/1/experiments/2:write", "ingest", "TensorboardService.WriteTensorboardExperimentData"),
    ("POST", "tensorboards/1/experiments/2/runs/3:write", "ingest", "TensorboardService.WriteTensorboardRunData"),
    (
        "POST",
        "featurestores/1/entityTypes/2:writeFeatureValues",
        "ingest",
        "FeaturestoreOnlineServingService.WriteFeatureValues",
    ),
    (
        "POST",
        "featurestores/1/entityTypes/2:readFeatureValues",
        "infer",
        "FeaturestoreOnlineServingService.ReadFeatureValues",
    ),
    ("POST", "indexes/1:upsertDatapoints", "ingest", "IndexService.UpsertDatapoints"),
    ("POST", "customJobs", "train", "JobService.CreateCustomJob"),
    ("POST", "trainingPipelines", "train", "PipelineService.CreateTrainingPipeline"),
    ("POST", "pipelineJobs", "train", "PipelineService.CreatePipelineJob"),
    ("POST", "schedules/1:pause", "train", "ScheduleService.PauseSchedule"),
    ("POST", "tuningJobs", "train", "GenAiTuningService.CreateTuningJob"),
    ("POST", "models:upload", "train", "ModelService.UploadModel"),
    ("POST", "models:copy", "administer", "ModelService.CopyModel"),
    ("POST", "models/1@2:mergeVersionAliases", "administer", "ModelService.MergeVersionAliases"),
    ("POST", "endpoints/1:deployModel", "administer", "EndpointService.DeployModel"),
    ("PATCH", "endpoints/1", "administer", "EndpointService.UpdateEndpoint"),
    ("GET", "endpoints/1", "observe", "EndpointService.GetEndpoint"),
    ("GET", "models/1@default", "observe", "ModelService.GetModel"),
];

#[test]
fn tricky_paths_are_in_the_table() {
    let mut wrong = Vec::new();
    for (verb, path, class, action) in KNOWN {
        let below = format!("/v1/projects/p/locations/{REGION}/{path}");
        let path = if path.starts_with('/') { *path } else { &below };
        let found: Vec<_> = meanings(&verb.parse().unwrap(), path).iter().map(|row| (row.group, row.action)).collect();
        if found != [(*class, *action)] {
            wrong.push(format!("{verb} {path} is {class}'s {action}, not {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn near_misses_of_a_method_are_refused() {
    for (verb, path) in [
        ("POST", "/batch"),
        ("POST", "/upload/v1/projects/p/locations/us-central1/endpoints/1:predict"),
        ("POST", "/v2/projects/p/locations/us-central1/endpoints/1:predict"),
        ("GET", "/v1/projects/p/locations/us-central1/endpoints/1:predict"),
        ("POST", "/v1/projects/p/locations/us-central1/endpoints/1:Predict"),
        ("POST", "/v1/projects/p/locations/us-central1/endpoints/1:predict/"),
        ("POST", "/v1/projects/p/locations/us-central1/endpoints:predict"),
        ("POST", "/v1/projects/p/endpoints/1:predict"),
        ("PUT", "/v1/projects/p/locations/us-central1/datasets/1"),
    ] {
        assert!(meanings(&verb.parse().unwrap(), path).is_empty(), "{verb} {path}");
    }
}
