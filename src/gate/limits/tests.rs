use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::advance;

use super::{
    Limits, Per, Quantity, Rate, RateLimitHeaders, RequestUsage, Reservation, RouteFilter, Settings, Unit, limit::Limit,
};

fn settings(name: &str, per: Per, rates: &[(Quantity, &str)]) -> Settings {
    let rates = rates.iter().map(|&(quantity, rate)| {
        let unit = if quantity == Quantity::Bytes { Unit::Bytes } else { Unit::Count };
        (quantity, Rate::read(rate, None, unit).unwrap())
    });
    let rates = rates.collect();
    Settings { name: name.into(), per, roles: None, routes: None, actions: None, rates, streams: None }
}

/// A request of a caller.
struct TestRequest {
    principal: Arc<str>,
    roles: Vec<Arc<str>>,
    exporter: Option<Arc<str>>,
    action: Arc<str>,
    bytes: Option<u64>,
    instances: Option<u64>,
}

impl TestRequest {
    fn new(principal: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().map(|&role| role.into()).collect();
        let exporter = Some("app".into());
        let action = "Exporter.Scrape".into();
        Self { principal: principal.into(), roles, exporter, action, bytes: None, instances: None }
    }

    fn at_exporter(self, exporter: &str) -> Self {
        Self { exporter: Some(exporter.into()), ..self }
    }

    fn inference(self, instances: u64) -> Self {
        let action = "PredictionService.Predict".into();
        Self { exporter: None, instances: Some(instances), action, ..self }
    }

    fn with_body(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    fn usage(&self) -> RequestUsage<'_> {
        RequestUsage {
            principal: &self.principal,
            roles: &self.roles,
            route: if self.exporter.is_some() { "exporter" } else { "vertex" },
            exporter: self.exporter.as_ref(),
            action: &self.action,
            bytes: self.bytes,
            instances: self.instances,
        }
    }

    fn reserve(&self, limits: &Limits) -> Result<Reservation, (String, &'static str)> {
        let reservation = limits.reserve(&self.usage(), &mut RateLimitHeaders::default());
        reservation.map_err(|exceeded| (exceeded.limit.to_string(), exceeded.reason))
    }
}

fn check(limits: &Limits, request: &TestRequest, refused: Option<(&str, &'static str)>) {
    let found = request.reserve(limits).err();
    assert_eq!(found, refused.map(|(limit, reason)| (limit.to_owned(), reason)));
}

#[tokio::test(start_paused = true)]
async fn each_bucket_is_shared_by_the_requests_of_its_key() {
    const USED: Option<(&str, &str)> = Some(("l", "limit_requests"));
    let one = |per| Limits::new(vec![settings("l", per, &[(Quantity::Requests, "1/m")])], None);
    let ann = || TestRequest::new("corp:ann", &["scrape"]);
    let bob = || TestRequest::new("corp:bob", &["scrape", "observe"]);
    let limits = one(Per::Principal);
    check(&limits, &ann(), None);
    check(&limits, &ann().at_exporter("other"), USED);
    check(&limits, &bob(), None);
    let limits = one(Per::Role);
    check(&limits, &ann(), None);
    check(&limits, &bob(), USED);
    // the bucket of the other role was not charged for the refused request
    check(&limits, &TestRequest::new("corp:cid", &["observe"]), None);
    check(&limits, &TestRequest::new("corp:dan", &[]), None);
    let limits = one(Per::Route);
    check(&limits, &ann(), None);
    check(&limits, &bob(), USED);
    check(&limits, &bob().at_exporter("other"), None);
    check(&limits, &ann().inference(1), None);
    let limits = one(Per::Gate);
    check(&limits, &ann(), None);
    check(&limits, &bob().inference(1), USED);
}

#[tokio::test(start_paused = true)]
async fn a_limit_applies_to_its_roles_routes_and_actions_only() {
    let filter =
        |route: &str, exporter: Option<&str>| RouteFilter { route: route.into(), exporter: exporter.map(Into::into) };
    let base = || settings("l", Per::Gate, &[(Quantity::Requests, "1/h")]);
    let applies = |settings: Settings, request: TestRequest| Limit::new(settings).applies_to(&request.usage());
    let ann = || TestRequest::new("corp:ann", &["scrape"]);
    for (roles, expected) in [(vec!["scrape"], true), (vec!["infer", "scrape"], true), (vec!["infer"], false)] {
        let roles = Some(roles.into_iter().map(Into::into).collect());
        assert_eq!(applies(Settings { roles, ..base() }, ann()), expected);
    }
    for (routes, expected) in [
        (vec![filter("exporter", None)], true),
        (vec![filter("vertex", None), filter("exporter", Some("app"))], true),
        (vec![filter("exporter", Some("other"))], false),
        (vec![filter("vertex", None)], false),
    ] {
        assert_eq!(applies(Settings { routes: Some(routes.clone()), ..base() }, ann()), expected, "{routes:?}");
    }
    let actions = Some(BTreeSet::from(["Exporter.Scrape".into()]));
    assert!(applies(Settings { actions: actions.clone(), ..base() }, ann()));
    assert!(!applies(Settings { actions, ..base() }, ann().inference(1)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_one_limit_refuses_is_charged_to_none() {
    let limits = Limits::new(
        vec![
            settings("all", Per::Gate, &[(Quantity::Requests, "3/h"), (Quantity::Bytes, "100/h")]),
            settings("each", Per::Principal, &[(Quantity::Requests, "1/m")]),
        ],
        None,
    );
    let ann = || TestRequest::new("corp:ann", &[]).with_body(10);
    check(&limits, &ann(), None);
    for _ in 0..100 {
        check(&limits, &ann(), Some(("each", "limit_requests")));
    }
    check(&limits, &TestRequest::new("corp:bob", &[]).with_body(80), None);
    check(&limits, &TestRequest::new("corp:cid", &[]).with_body(10), None);
    // of several exceeded limits the one with the longest wait is named
    check(&limits, &ann(), Some(("all", "limit_requests")));
}

#[tokio::test(start_paused = true)]
async fn usage_known_later_is_charged_later() {
    let limits = Limits::new(
        vec![settings("l", Per::Principal, &[(Quantity::Bytes, "100/s"), (Quantity::Tokens, "60/m")])],
        None,
    );
    let ann = || TestRequest::new("corp:ann", &[]);
    let reservation = ann().with_body(40).reserve(&limits).unwrap();
    // its length was known in advance
    reservation.charge_request_bytes(40);
    reservation.charge_response_bytes(60);
    check(&limits, &ann(), Some(("l", "limit_bytes")));
    advance(Duration::from_secs(1)).await;
    let reservation = ann().reserve(&limits).unwrap();
    reservation.charge_request_bytes(120);
    reservation.charge_response_bytes(150);
    let exceeded = limits.reserve(&ann().usage(), &mut RateLimitHeaders::default()).err().unwrap();
    assert_eq!(exceeded.wait, Some(Duration::from_secs(2)), "{exceeded:?}");
    advance(Duration::from_secs(2)).await;
    // tokens count for prediction requests only
    ann().reserve(&limits).unwrap().charge_tokens(1000);
    let inference = ann().inference(1).reserve(&limits).unwrap();
    inference.charge_tokens(90);
    advance(Duration::from_secs(1)).await;
    check(&limits, &ann(), None);
    let exceeded = limits.reserve(&ann().inference(1).usage(), &mut RateLimitHeaders::default()).err().unwrap();
    assert_eq!((exceeded.reason, exceeded.wait), ("limit_tokens", Some(Duration::from_secs(30))), "{exceeded:?}");
    // and that is known before the body is read
    assert_eq!(
        limits.check_principal(&ann().inference(1).usage(), &mut RateLimitHeaders::default()).err().map(|e| e.reason),
        Some("limit_tokens")
    );
    assert!(limits.check_principal(&ann().usage(), &mut RateLimitHeaders::default()).is_ok());
    assert!(
        limits
            .check_principal(&TestRequest::new("corp:bob", &[]).inference(1).usage(), &mut RateLimitHeaders::default())
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_the_burst_is_refused_for_good() {
    let limits = Limits::new(
        vec![settings("l", Per::Gate, &[(Quantity::Bytes, "1KiB/s"), (Quantity::Instances, "10/s")])],
        None,
    );
    for (request, reason) in [
        (TestRequest::new("corp:ann", &[]).inference(1).with_body(1025), "limit_bytes"),
        (TestRequest::new("corp:ann", &[]).inference(11), "limit_instances"),
    ] {
        let exceeded = limits.reserve(&request.usage(), &mut RateLimitHeaders::default()).err().unwrap();
        assert_eq!((exceeded.reason, exceeded.wait), (reason, None), "{exceeded:?}");
        assert!(exceeded.text.contains("never pass"), "{exceeded:?}");
    }
    check(&limits, &TestRequest::new("corp:ann", &[]).inference(10).with_body(1024), None);
}

#[tokio::test(start_paused = true)]
async fn open_requests_are_counted_until_they_end() {
    let limits = Limits::new(vec![Settings { streams: Some(2), ..settings("l", Per::Principal, &[]) }], None);
    let ann = || TestRequest::new("corp:ann", &[]);
    let first = ann().reserve(&limits).unwrap();
    let _second = ann().reserve(&limits).unwrap();
    check(&limits, &ann(), Some(("l", "limit_streams")));
    assert_eq!(
        limits.check_principal(&ann().usage(), &mut RateLimitHeaders::default()).err().map(|e| e.reason),
        Some("limit_streams")
    );
    drop(first);
    check(&limits, &ann(), None);
    check(&limits, &ann(), None);
    // a refused request is not open
    let _third = ann().reserve(&limits).unwrap();
    for _ in 0..3 {
        check(&limits, &ann(), Some(("l", "limit_streams")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_buckets_of_limits_with_equal_settings() {
    let each = || settings("each", Per::Principal, &[(Quantity::Requests, "1/h")]);
    let ann = TestRequest::new("corp:ann", &[]);
    let before = Limits::new(vec![each()], None);
    check(&before, &ann, None);
    let other = settings("other", Per::Gate, &[(Quantity::Requests, "100/h")]);
    let after = Limits::new(vec![other, each()], Some(&before));
    check(&after, &ann, Some(("each", "limit_requests")));
    let changed = settings("each", Per::Principal, &[(Quantity::Requests, "2/h")]);
    check(&Limits::new(vec![changed], Some(&after)), &ann, None);
}
