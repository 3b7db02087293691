//! The table holds what it promises: every row is found as itself, by REST and by gRPC, and the schema knows what it can
//! be about.

use std::collections::{BTreeMap, BTreeSet};

use super::{table::TABLE, *};
use crate::gate::policy::VertexKind;

const SCHEMA: &str = include_str!("../../../../policies/wicketgate.cedarschema");

fn check(verb: &str, path: &str, expected: Option<(&str, Group)>) {
    let version = if path.starts_with("/v1beta1") { "v1beta1" } else { "v1" };
    let below = path.strip_prefix(&format!("/{version}")).unwrap();
    let found = table::find(version, below, Some(&verb.parse().unwrap()));
    assert_eq!(found.map(|m| (&*m.action, m.group)), expected, "{verb} {path}");
}

#[test]
fn methods_are_found_by_verb_and_path_and_nothing_else_is() {
    let e = "/v1/projects/p/locations/l/endpoints/1";
    check("POST", &format!("{e}:predict"), Some(("PredictionService.Predict", Group::Infer)));
    check("GET", &format!("{e}:predict"), None);
    check("POST", &format!("{e}:predictt"), None);
    check("POST", &format!("{e}/"), None);
    check("POST", &format!("{e}/:predict"), None);
    check("GET", e, Some(("EndpointService.GetEndpoint", Group::Observe)));
    check("DELETE", e, Some(("EndpointService.DeleteEndpoint", Group::Administer)));
    check("POST", "/v1/projects/p/locations/l/customJobs", Some(("JobService.CreateCustomJob", Group::Train)));
    check("POST", "/v1/projects/p/locations/l/models:upload", Some(("ModelService.UploadModel", Group::Train)));
    check(
        "POST",
        "/v1/projects/p/locations/l/publishers/google/models/gemini@1:generateContent",
        Some(("PredictionService.GenerateContent", Group::Infer)),
    );
    // what only gRPC has is no REST method
    check("POST", &format!("{e}:StreamDirectPredict"), None);
    check("-", &format!("{e}:StreamDirectPredict"), None);
}

/// The numbers are those of facts/vertex.md section 2.3; the others are tests of `proxy/target.rs` and `tests/it`.
#[test]
fn the_traps_of_googles_surface_are_closed() {
    let l = "/v1/projects/p/locations/l";
    // 1: verbs lie
    let restore = format!("{l}/datasets/1/datasetVersions/2:restore");
    check("GET", &restore, Some(("DatasetService.RestoreDatasetVersion", Group::Ingest)));
    // 2: credentials are minted in services for data
    for (path, action) in [
        (
            "featureOnlineStores/1/featureViews/2:generateFetchAccessToken",
            "FeatureOnlineStoreService.GenerateFetchAccessToken",
        ),
        ("endpoints/1:setIamPolicy", "IAMPolicy.SetIamPolicy"),
        ("datasets/1:setIamPolicy", "IAMPolicy.SetIamPolicy"),
        ("featurestores/1/entityTypes/2:getIamPolicy", "IAMPolicy.GetIamPolicy"),
    ] {
        check("POST", &format!("{l}/{path}"), Some((action, Group::Administer)));
    }
    // 3: free tails, and what is no endpoint
    let invoke = Some(("projects.locations.endpoints.invoke.invoke", Group::Infer));
    check("POST", &format!("{l}/endpoints/1/invoke/any/thing"), invoke);
    check("POST", &format!("{l}/endpoints/1/invoke"), None);
    check("POST", &format!("{l}/endpoints/openapi:predict"), None);
    check("GET", &format!("{l}/endpoints/openapi"), None);
    let chat = Some(("projects.locations.endpoints.chat.completions", Group::Infer));
    check("POST", &format!("{l}/endpoints/openapi/chat/completions"), chat);
    // 6: multiplexers and uploads are no methods
    for path in ["/v1/batch", "/v1/upload/v1/projects/p/locations/l/ragCorpora/1/ragFiles:upload"] {
        check("POST", path, None);
    }
    // 8: operations are of the class of what they are about
    for (path, group) in [
        ("datasets/1", Group::Ingest),
        ("tensorboards/1/experiments/2/runs/3", Group::Ingest),
        ("customJobs/1", Group::Train),
        ("trainingPipelines/1", Group::Train),
        ("models/1", Group::Train),
        ("batchPredictionJobs/1", Group::Infer),
        ("endpoints/1", Group::Administer),
        ("nobodyKnows/1", Group::Administer),
        ("datasets/1/nobodyKnows/2", Group::Administer),
    ] {
        for (verb, method, custom) in
            [("GET", "GetOperation", ""), ("POST", "WaitOperation", ":wait"), ("POST", "CancelOperation", ":cancel")]
        {
            let action = format!("Operations.{method}/{}", group.name());
            check(verb, &format!("{l}/{path}/operations/9{custom}"), Some((&action, group)));
        }
        let deleted = Some(("Operations.DeleteOperation", Group::Administer));
        check("DELETE", &format!("{l}/{path}/operations/9"), deleted);
    }
    // 9: v1beta1 has the same
    let beta = "/v1beta1/projects/p/locations/l/endpoints/1:predict";
    check("POST", beta, Some(("PredictionService.Predict", Group::Infer)));
}

#[test]
fn a_resource_has_one_name_however_it_is_spelled() {
    for (below, name, project) in [
        ("/projects/p/locations/l/models/m@2:copy", "projects/p/locations/l/models/m@2", "p"),
        ("/projects/p/locations/l/models/m%402:copy", "projects/p/locations/l/models/m@2", "p"),
        (
            "/projects/example.com%3ap/locations/l/models/%c3%a9",
            "projects/example.com:p/locations/l/models/é",
            "example.com:p",
        ),
        ("/projects/p/locations/l/models/%ff", "projects/p/locations/l/models/%ff", "p"),
    ] {
        let found = resource(below, None);
        assert_eq!((&*found.name, found.project.as_deref(), &*found.location), (name, Some(project), "l"), "{below}");
    }
    let check = |below: &str, named, name: &str| assert_eq!(&*resource(below, Some(named)).name, name, "{below}");
    check("/projects/p/locations/l/endpoints/1/invoke/a:b/c", 6, "projects/p/locations/l/endpoints/1");
    check("/projects/p/locations/l/endpoints/1/chat/completions", 6, "projects/p/locations/l/endpoints/1");
    check("/projects/p/locations/l/endpoints/1:predict", 6, "projects/p/locations/l/endpoints/1");
    check("/projects/p/locations/l/datasets", 5, "projects/p/locations/l/datasets");
}

/// A path that a pattern matches, and the values of its variables.
fn sample(pattern: &str, free: &str) -> (String, Vec<String>) {
    let spelled = pattern.replace("**", free).replace('*', "x1");
    let mut path = String::new();
    let mut values = Vec::new();
    let mut rest = spelled.as_str();
    if !rest.starts_with(':') {
        path.push('/');
    }
    while let Some((before, variable)) = rest.split_once('{') {
        let (variable, behind) = variable.split_once('}').unwrap();
        let value = variable.split_once('=').unwrap().1;
        path.push_str(before);
        path.push_str(value);
        values.push(value.to_owned());
        rest = behind;
    }
    path.push_str(rest);
    (path, values)
}

#[test]
fn every_row_is_found_as_itself_by_rest_and_by_grpc_and_the_schema_knows_its_resource() {
    let mut kinds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut rows = 0;
    for line in TABLE.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [action, group, version, verb, pattern, _, rpc, fields, ..] = columns[..] else { panic!("{line}") };
        let free = ["endpoints/x1", "models/x1", "datasets/x1", "others/x1"];
        for free in free.iter().take(if pattern.contains("**") { 4 } else { 1 }) {
            let (path, values) = sample(pattern, free);
            let verb = (verb != "-").then(|| verb.parse().unwrap());
            let found = table::find(version, &path, verb.as_ref()).unwrap_or_else(|| panic!("not found: {line}"));
            // operations below collections that the table knows are rows of their own
            if !(pattern.contains("**") && action.starts_with("Operations.")) {
                assert_eq!((&*found.action, found.group.name()), (action, group), "{line}");
            }
            let named = resource(&path, found.named);
            let kind = match named.kind {
                VertexKind::Endpoint => "Endpoint",
                VertexKind::Model { .. } => "Model",
                VertexKind::Dataset => "Dataset",
                VertexKind::Other => "Vertex",
            };
            kinds.entry(action).or_default().insert(kind);
            if rpc != "-" && fields != "-" {
                let method = table::rpc(rpc).unwrap_or_else(|| panic!("no gRPC: {line}"));
                assert_eq!(fields.split(';').count(), method.fields.len(), "{line}");
                let by_rpc = method.templates.iter().find_map(|template| {
                    let path = template.path(&method.fields, &values)?;
                    let found = table::find(method.version, &path, template.verb.as_ref())?;
                    (found.rpc == rpc).then(|| (found.action.clone(), resource(&path, found.named)))
                });
                assert_eq!(by_rpc, Some((found.action.clone(), named)), "{line}");
            }
        }
        rows += 1;
    }
    assert!(rows > 1000, "{rows} rows");
    for (action, found) in kinds {
        let declared = SCHEMA.lines().find(|line| line.starts_with(&format!("action \"{action}\" in [")));
        let declared = declared.unwrap_or_else(|| panic!("no {action}"));
        let list = declared.split_once("resource: [").unwrap().1.split_once(']').unwrap().0;
        assert_eq!(list.split(", ").collect::<BTreeSet<_>>(), found, "{action}");
    }
}
