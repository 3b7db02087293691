//! What holds for any policies and any questions, and what single ones mean.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use cedar_policy::Schema;
use proptest::prelude::*;

use super::{
    compile::unvalidated,
    decision_cache::{DecisionCache, MAX_NAME_BYTES},
    *,
};
use crate::{
    clock::Timestamp,
    peer::{Certificate, Chain},
    principal::Principal,
};

const MODEL: &str = "projects/p/locations/l/models/m";

/// The shipped schema with a few of Vertex's methods.
fn schema_text() -> String {
    let shipped = include_str!("../../../policies/wicketgate.cedarschema");
    let (head, generated) = shipped.split_once("// ---- generated").unwrap();
    let few = ["PredictionService.Predict", "ModelService.UploadModel", "ModelService.GetModel"];
    let lines = generated.lines().filter(|line| few.iter().any(|name| line.contains(&format!("\"{name}\""))));
    format!("{head}\n{}", lines.collect::<Vec<_>>().join("\n"))
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::from_cedarschema_str(&schema_text()).unwrap().0);

fn file(path: &str, text: &str) -> PolicyFile {
    PolicyFile { path: path.into(), text: text.into() }
}

/// Policies as they are, whatever the validator would say.
fn unchecked(policies: &[String]) -> Policy {
    of_files(&[file("p.cedar", &policies.join("\n"))])
}

fn of_files(files: &[PolicyFile]) -> Policy {
    let cedar = cedar::CedarPolicies::of(unvalidated(&SCHEMA, files), files).unwrap();
    let labels = [("e".into(), vec![("team".to_owned(), "platform".to_owned())])];
    Policy { roles: Roles::default(), cedar, cache: DecisionCache::new(), shadow: None }.with_labels(labels.into_iter())
}

fn validated(policies: &str) -> Policy {
    let compiled = Policy::new(Roles::default(), &file("s", &schema_text()), &[file("p", policies)], [].into_iter());
    compiled.unwrap_or_else(|problems| panic!("{policies}: {problems:?}"))
}

fn model(name: &str) -> Resource {
    Resource::Vertex(VertexResource::parse(name))
}

/// A question of its own, to be put with what it borrows.
#[derive(Clone, Debug)]
struct TestRequest {
    roles: Vec<&'static str>,
    action: &'static str,
    resource: Resource,
    peer: [u8; 4],
    tls: bool,
    certificate: bool,
    get: bool,
    hour: i64,
    size: Option<u64>,
    named: Option<Vec<&'static str>>,
}

impl TestRequest {
    fn new(action: &'static str, resource: Resource) -> Self {
        Self {
            roles: vec!["infer"],
            action,
            resource,
            peer: [10, 0, 0, 1],
            tls: true,
            certificate: false,
            get: true,
            hour: 0,
            size: None,
            named: None,
        }
    }

    fn put<T>(&self, ask: impl FnOnce(AccessRequest<'_>) -> T) -> T {
        let given: Arc<[Arc<str>]> = self.roles.iter().map(|role| Arc::from(*role)).collect();
        let mut proof = [0; 32];
        for (byte, role) in proof.iter_mut().zip(&self.roles) {
            *byte = u8::try_from(role.len()).unwrap();
        }
        let principal = Principal { roles: Some(given), proof, ..Principal::test("corp", "{}") };
        let certificate = Certificate {
            thumbprint: [1; 32],
            trusted: true,
            uris: vec!["spiffe://x/a".into()],
            dns_names: vec![],
            malformed: false,
            not_after: Timestamp::MAX,
            chain: Chain { certificates: vec![], digest: [1; 32] },
        };
        let resources = self.named.iter().flatten().map(|name| VertexResource::parse(name)).collect();
        let named = BodyNames { resources, buckets: ["b".into()].into(), ..BodyNames::default() };
        let action: Arc<str> = self.action.into();
        ask(AccessRequest {
            principal: &principal,
            granted_roles: &[],
            active_role: None,
            action: &action,
            resource: &self.resource,
            context: RequestContext {
                now: Timestamp::from_second(self.hour * 3600).unwrap(),
                tls: self.tls,
                certificate: self.certificate.then_some(&certificate),
                method: if self.get { &http::Method::GET } else { &http::Method::POST },
                size: self.size,
                names: self.named.is_some().then_some(&named),
                ..RequestContext::test(IpAddr::from(self.peer))
            },
        })
    }

    /// The same in other context, one thing changed each time.
    fn varied(&self) -> Vec<Self> {
        let this = || self.clone();
        vec![
            this(),
            Self { peer: [192, 0, 2, 9], ..this() },
            Self { tls: !self.tls, ..this() },
            Self { certificate: !self.certificate, ..this() },
            Self { get: !self.get, ..this() },
            Self { hour: 1 - self.hour, ..this() },
            Self { size: if self.size.is_some() { None } else { Some(5) }, ..this() },
            Self { named: if self.named.is_some() { None } else { Some(vec![]) }, ..this() },
        ]
    }

    fn decided(&self, policy: &Policy) -> PolicyDecision {
        self.put(|request| policy.evaluate(request))
    }

    /// By every policy and with every circumstance.
    fn decided_by_all(&self, policy: &Policy) -> PolicyDecision {
        self.put(|request| {
            let roles = request.principal.roles.clone().unwrap();
            policy.cedar.evaluate_all(request, roles)
        })
    }
}

fn asks() -> impl Strategy<Value = TestRequest> {
    let roles = prop::sample::subsequence(vec!["infer", "observe", "scrape"], 0..=3);
    let action = prop::sample::select(vec![
        "PredictionService.Predict",
        "ModelService.UploadModel",
        "ModelService.GetModel",
        "Exporter.Scrape",
        "Gate.Home",
        "Unknown.Action",
    ]);
    let resource = prop::sample::select(vec![
        model(MODEL),
        model(&format!("{MODEL}@2")),
        model(&format!("{MODEL}@3")),
        model("projects/p/locations/l/endpoints/1"),
        Resource::Exporter("e".into()),
        Resource::Exporter("f".into()),
        Resource::Service("home".into()),
    ]);
    let named = prop::option::of(prop::sample::subsequence(
        vec!["projects/p/locations/l/models/m@2", "projects/p/locations/l/endpoints/1"],
        0..=2,
    ));
    let size = prop::sample::select(vec![None, Some(5), Some(i64::MAX.unsigned_abs())]);
    let peer = prop::sample::select(vec![[10, 0, 0, 1], [192, 0, 2, 1]]);
    let truths = (any::<bool>(), any::<bool>(), any::<bool>(), 0..2i64);
    (roles, action, resource, named, size, peer, truths).prop_map(
        |(roles, action, resource, named, size, peer, (tls, certificate, get, hour))| TestRequest {
            roles,
            action,
            resource,
            peer,
            tls,
            certificate,
            get,
            hour,
            size,
            named,
        },
    )
}

/// Policies of every form of scope, with conditions that read this and that, and some that fail.
fn policy() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        "principal".to_owned(),
        "principal is Principal".into(),
        "principal is Role".into(),
        "principal == Principal::\"corp:s\"".into(),
        "principal in Principal::\"corp:s\"".into(),
        "principal == Principal::\"corp:t\"".into(),
        "principal in Role::\"infer\"".into(),
        "principal in Role::\"scrape\"".into(),
        "principal is Principal in Role::\"observe\"".into(),
    ]);
    let action = prop::sample::select(vec![
        "action",
        "action == Action::\"PredictionService.Predict\"",
        "action in Action::\"infer\"",
        "action in Action::\"scrape\"",
        "action in [Action::\"observe\", Action::\"Exporter.Scrape\"]",
        "action in Action::\"Exporter.Scrape\"",
        "action == Action::\"infer\"",
    ]);
    let resource = prop::sample::select(vec![
        "resource".to_owned(),
        "resource is Model".into(),
        "resource is Exporter".into(),
        "resource == Exporter::\"e\"".into(),
        format!("resource == Model::\"{MODEL}\""),
        format!("resource == Model::\"{MODEL}@2\""),
        format!("resource in Model::\"{MODEL}\""),
        format!("resource is Model in Model::\"{MODEL}\""),
        format!("resource is Endpoint in Model::\"{MODEL}\""),
    ]);
    let condition = prop::sample::select(vec![
        "".to_owned(),
        "".into(),
        "when { context.tls }".into(),
        "unless { context.peer.isInRange(ip(\"10.0.0.0/8\")) }".into(),
        "when { context.method == \"GET\" }".into(),
        "when { context.time < datetime(\"1970-01-01T00:30:00Z\") }".into(),
        "when { context has certificate && context.certificate.uris.contains(\"spiffe://x/a\") }".into(),
        "when { context has size && context.size + 9223372036854775800 > 0 }".into(),
        "when { context has names && context.names.models.isEmpty() }".into(),
        "when { context == {} }".into(),
        "unless { context has certificate && context has size }".into(),
        "when { resource.version == \"2\" }".into(),
        "when { resource has version && resource.version == \"2\" }".into(),
        "when { resource has project.x }".into(),
        "when { resource.hasTag(\"team\") }".into(),
        format!("when {{ Model::\"{MODEL}@2\" in Model::\"{MODEL}\" }}"),
        format!("when {{ Model::\"{MODEL}@2\".location == \"l\" }}"),
        format!("when {{ resource in [Model::\"{MODEL}@3\", Model::\"{MODEL}\"] }}"),
        "when { principal.issuer == \"corp\" && principal in [Role::\"infer\", Role::\"x\"] }".into(),
        "when { if context.tls then context.method == \"GET\" else context.missing }".into(),
    ]);
    (any::<bool>(), principal, action, resource, condition).prop_map(
        |(permit, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

/// With an id each, so that they can be told apart wherever they stand.
fn policies(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(policy(), 0..most).prop_map(|policies| {
        policies.into_iter().enumerate().map(|(n, policy)| format!("@id(\"{n}\") {policy}")).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_slice_decides_as_all_policies_would(policies in policies(12), asks in prop::collection::vec(asks(), 12)) {
        let policy = unchecked(&policies);
        for asks in asks {
            prop_assert_eq!(asks.decided(&policy), asks.decided_by_all(&policy), "{:?}", asks);
        }
    }

    #[test]
    fn a_remembered_answer_is_the_fresh_one(policies in policies(8), asks in prop::collection::vec(asks(), 4)) {
        let policy = unchecked(&policies);
        let asks: Vec<TestRequest> = asks.iter().flat_map(TestRequest::varied).collect();
        for asks in asks.iter().chain(&asks) {
            let remembered = asks.put(|request| policy.decide(request));
            prop_assert_eq!(&*remembered, &asks.decided_by_all(&policy), "{:?}", asks);
        }
    }

    #[test]
    fn one_more_forbid_never_allows_more(
        policies in policies(8), forbid in policy(), asks in prop::collection::vec(asks(), 12)
    ) {
        let forbid = format!("@id(\"more\") {}", forbid.replacen("permit", "forbid", 1));
        let more = unchecked(&policies.iter().cloned().chain([forbid]).collect::<Vec<_>>());
        let policy = unchecked(&policies);
        for asks in asks {
            prop_assert!(!asks.decided(&more).allowed || asks.decided(&policy).allowed, "{:?}", asks);
        }
    }

    #[test]
    fn the_order_of_policies_and_files_changes_no_decision(
        (policies, turned) in policies(8).prop_flat_map(|policies| (Just(policies.clone()), Just(policies).prop_shuffle())),
        cut in 0..8usize,
        asks in prop::collection::vec(asks(), 12),
    ) {
        let straight = unchecked(&policies);
        let (first, second) = turned.split_at(cut.min(turned.len()));
        let files = [file("b.cedar", &second.join("\n")), file("a.cedar", &first.join("\n"))];
        let turned = of_files(&files);
        for asks in asks {
            let a = asks.decided(&straight);
            let b = asks.decided(&turned);
            // the text of an error names the file
            prop_assert_eq!((a.allowed, &a.policies), (b.allowed, &b.policies), "{:?}", asks);
        }
    }
}

#[test]
fn a_version_of_a_model_can_be_pinned_in_three_ways() {
    let check = |scope: &str, expected: [bool; 3]| {
        let policy = validated(&format!("permit (principal, action in Action::\"observe\", {scope};"));
        let found = ["", "@2", "@3"].map(|version| {
            TestRequest::new("ModelService.GetModel", model(&format!("{MODEL}{version}"))).decided(&policy)
        });
        assert_eq!(found.map(|decision| decision.allowed), expected, "{scope}");
    };
    check(&format!("resource == Model::\"{MODEL}@2\")"), [false, true, false]);
    check(&format!("resource == Model::\"{MODEL}\")"), [true, false, false]);
    check(&format!("resource in Model::\"{MODEL}\")"), [true, true, true]);
    check(&format!("resource in Model::\"{MODEL}@2\")"), [false, true, false]);
    check("resource is Model) when { resource has version && resource.version == \"2\" }", [false, true, false]);
    check("resource is Model) unless { resource has version }", [true, false, false]);
    check("resource == Model::\"projects/p/locations/l/models/n\")", [false, false, false]);
}

#[test]
fn a_model_that_the_body_names_can_be_pinned_too() {
    let condition = format!("context has names && context.names.models.contains(Model::\"{MODEL}@2\")");
    let policy = validated(&format!(
        "permit (principal, action == Action::\"ModelService.UploadModel\", resource) when {{ {condition} }};"
    ));
    let asks = TestRequest::new("ModelService.UploadModel", model("projects/p/locations/l/models"));
    for (named, allowed) in
        [(None, false), (Some(vec![]), false), (Some(vec!["projects/p/locations/l/models/m@2"]), true)]
    {
        let asks = TestRequest { named, ..asks.clone() };
        // not from memory either
        assert_eq!(asks.put(|request| policy.decide(request)).allowed, allowed, "{asks:?}");
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies_whatever_another_permits() {
    let asks = TestRequest { size: Some(1), ..TestRequest::new("ModelService.GetModel", model(MODEL)) };
    let check = |condition: &str, effect: &str, told: Option<&str>| {
        let policy = validated(&format!(
            "permit (principal, action, resource);\n{effect} (principal, action, resource is Model) when {{ {condition} }};"
        ));
        let decision = asks.decided(&policy);
        match (&decision.denial, told) {
            (None, None) => {}
            (Some(Denial::Error(text)), Some(told)) if text.contains(told) => {}
            _ => panic!("{effect} {condition}: {decision:?}"),
        }
        assert_eq!(decision.policies.is_empty(), told.is_some(), "{decision:?}");
    };
    for effect in ["permit", "forbid"] {
        check("context has size && context.size + 9223372036854775807 > 0", effect, Some("overflow"));
        // looks right to the validator: there is such an attribute, if there is such a model
        check("Model::\"nobody's\".location == \"l\"", effect, Some("does not exist"));
        check("Model::\"nobody's\" has project && Model::\"nobody's\".location == \"l\"", effect, None);
    }
    // a scope that does not match is not looked into
    let elsewhere = validated(
        "permit (principal, action, resource);\n\
         permit (principal in Role::\"other\", action, resource) when { 9223372036854775807 + 1 > 0 };",
    );
    assert!(asks.decided(&elsewhere).allowed);
}

#[test]
fn exporters_have_their_labels_as_tags() {
    let policy = validated(
        "permit (principal, action in Action::\"scrape\", resource is Exporter)\n\
         when { resource.hasTag(\"team\") && resource.getTag(\"team\") == \"platform\" };",
    );
    let label = |team: &str| vec![("team".to_owned(), team.to_owned())];
    let labels = [("e".into(), label("platform")), ("f".into(), label("data"))];
    let policy = policy.with_labels(labels.into_iter());
    for (name, allowed) in [("e", true), ("f", false), ("g", false)] {
        let asks = TestRequest::new("Exporter.Scrape", Resource::Exporter(name.into()));
        assert_eq!(asks.decided(&policy).allowed, allowed, "{name}");
    }
}

#[test]
fn what_depends_on_the_time_is_never_remembered_past_it() {
    let policy = validated(
        "permit (principal, action in Action::\"observe\", resource)\n\
         when { context.time < datetime(\"1970-01-01T00:30:00Z\") };",
    );
    let asks = TestRequest::new("ModelService.GetModel", model(MODEL));
    assert!(asks.put(|request| policy.decide(request)).allowed);
    assert!(!TestRequest { hour: 1, ..asks.clone() }.put(|request| policy.decide(request)).allowed);
    assert!(asks.put(|request| policy.decide(request)).allowed);
}

#[test]
fn a_callers_long_names_are_not_remembered() {
    let policy = validated("permit (principal, action in Action::\"scrape\", resource) when { context.tls };");
    let check = |length: usize, remembered: (usize, usize)| {
        let asks = TestRequest::new("Exporter.Scrape", Resource::Exporter("a".repeat(length).into()));
        assert!(asks.put(|request| policy.decide(request)).allowed);
        assert_eq!(policy.cache.len(), remembered, "{length} bytes");
    };
    check(MAX_NAME_BYTES + 1, (0, 0));
    check(MAX_NAME_BYTES, (1, 1));
    check(MAX_NAME_BYTES, (1, 1));
    check(MAX_NAME_BYTES + 1, (1, 1));
}
