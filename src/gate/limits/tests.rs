use tokio::time::advance;

use super::*;

fn settings(name: &str, per: Per, rates: &[(Quantity, &str)]) -> Settings {
    let rates = rates.iter().map(|&(quantity, rate)| {
        let unit = if quantity == Quantity::Bytes { Unit::Bytes } else { Unit::Things };
        (quantity, Rate::read(rate, None, unit).unwrap())
    });
    let rates = rates.collect();
    Settings { name: name.into(), per, roles: None, routes: None, actions: None, rates, streams: None }
}

/// A caller who wants something.
struct Wants {
    principal: Arc<str>,
    roles: Vec<Arc<str>>,
    exporter: Option<Arc<str>>,
    action: Arc<str>,
    bytes: Option<u64>,
    instances: Option<u64>,
}

impl Wants {
    fn new(principal: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().map(|&role| role.into()).collect();
        let (exporter, action) = (Some("app".into()), "Exporter.Scrape".into());
        Self { principal: principal.into(), roles, exporter, action, bytes: None, instances: None }
    }

    fn of(self, exporter: &str) -> Self {
        Self { exporter: Some(exporter.into()), ..self }
    }

    fn asking(self, instances: u64) -> Self {
        let action = "PredictionService.Predict".into();
        Self { exporter: None, instances: Some(instances), action, ..self }
    }

    fn sending(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    fn usage(&self) -> Use<'_> {
        Use {
            principal: &self.principal,
            roles: &self.roles,
            route: if self.exporter.is_some() { "exporter" } else { "vertex" },
            exporter: self.exporter.as_ref(),
            action: &self.action,
            bytes: self.bytes,
            instances: self.instances,
        }
    }

    fn spend(&self, limits: &Limits) -> Result<Spent, (String, &'static str)> {
        let spent = limits.spend(&self.usage(), &mut Fields::default());
        spent.map_err(|exceeded| (exceeded.limit.to_string(), exceeded.reason))
    }
}

fn check(limits: &Limits, wants: &Wants, refused: Option<(&str, &'static str)>) {
    let found = wants.spend(limits).err();
    assert_eq!(found, refused.map(|(limit, reason)| (limit.to_owned(), reason)));
}

#[tokio::test(start_paused = true)]
async fn each_budget_is_shared_by_those_it_is_for() {
    const USED: Option<(&str, &str)> = Some(("l", "limit_requests"));
    let one = |per| Limits::new(vec![settings("l", per, &[(Quantity::Requests, "1/m")])], None);
    let (ann, bob) = (|| Wants::new("corp:ann", &["scrape"]), || Wants::new("corp:bob", &["scrape", "observe"]));
    let limits = one(Per::Principal);
    check(&limits, &ann(), None);
    check(&limits, &ann().of("other"), USED);
    check(&limits, &bob(), None);
    let limits = one(Per::Role);
    check(&limits, &ann(), None);
    check(&limits, &bob(), USED);
    // what the other role had was not used for the refused one
    check(&limits, &Wants::new("corp:cid", &["observe"]), None);
    check(&limits, &Wants::new("corp:dan", &[]), None);
    let limits = one(Per::Route);
    check(&limits, &ann(), None);
    check(&limits, &bob(), USED);
    check(&limits, &bob().of("other"), None);
    check(&limits, &ann().asking(1), None);
    let limits = one(Per::Gate);
    check(&limits, &ann(), None);
    check(&limits, &bob().asking(1), USED);
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_whom_it_is_and_for_nobody_else() {
    let place = |route: &str, exporter: Option<&str>| Place { route: route.into(), exporter: exporter.map(Into::into) };
    let base = || settings("l", Per::Gate, &[(Quantity::Requests, "1/h")]);
    let holds = |settings: Settings, wants: Wants| Limit::new(settings).is_for(&wants.usage());
    let ann = || Wants::new("corp:ann", &["scrape"]);
    for (roles, expected) in [(vec!["scrape"], true), (vec!["infer", "scrape"], true), (vec!["infer"], false)] {
        let roles = Some(roles.into_iter().map(Into::into).collect());
        assert_eq!(holds(Settings { roles, ..base() }, ann()), expected);
    }
    for (routes, expected) in [
        (vec![place("exporter", None)], true),
        (vec![place("vertex", None), place("exporter", Some("app"))], true),
        (vec![place("exporter", Some("other"))], false),
        (vec![place("vertex", None)], false),
    ] {
        assert_eq!(holds(Settings { routes: Some(routes.clone()), ..base() }, ann()), expected, "{routes:?}");
    }
    let actions = Some(BTreeSet::from(["Exporter.Scrape".into()]));
    assert!(holds(Settings { actions: actions.clone(), ..base() }, ann()));
    assert!(!holds(Settings { actions, ..base() }, ann().asking(1)));
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_one_limit_has_used_nothing_of_the_others() {
    let limits = Limits::new(
        vec![
            settings("everybody", Per::Gate, &[(Quantity::Requests, "3/h"), (Quantity::Bytes, "100/h")]),
            settings("each", Per::Principal, &[(Quantity::Requests, "1/m")]),
        ],
        None,
    );
    let ann = || Wants::new("corp:ann", &[]).sending(10);
    check(&limits, &ann(), None);
    for _ in 0..100 {
        check(&limits, &ann(), Some(("each", "limit_requests")));
    }
    check(&limits, &Wants::new("corp:bob", &[]).sending(80), None);
    check(&limits, &Wants::new("corp:cid", &[]).sending(10), None);
    // of several the one that keeps waiting longest is named
    check(&limits, &ann(), Some(("everybody", "limit_requests")));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_later_is_owed() {
    let limits = Limits::new(
        vec![settings("l", Per::Principal, &[(Quantity::Bytes, "100/s"), (Quantity::Tokens, "60/m")])],
        None,
    );
    let ann = || Wants::new("corp:ann", &[]);
    let spent = ann().sending(40).spend(&limits).unwrap();
    // its length was known
    spent.asked(40);
    spent.answered(60);
    check(&limits, &ann(), Some(("l", "limit_bytes")));
    advance(Duration::from_secs(1)).await;
    let spent = ann().spend(&limits).unwrap();
    spent.asked(120);
    spent.answered(150);
    let exceeded = limits.spend(&ann().usage(), &mut Fields::default()).err().unwrap();
    assert_eq!(exceeded.wait, Some(Duration::from_secs(2)), "{exceeded:?}");
    advance(Duration::from_secs(2)).await;
    // tokens count only where a model is asked
    ann().spend(&limits).unwrap().counted(1000);
    let asked = ann().asking(1).spend(&limits).unwrap();
    asked.counted(90);
    advance(Duration::from_secs(1)).await;
    check(&limits, &ann(), None);
    let exceeded = limits.spend(&ann().asking(1).usage(), &mut Fields::default()).err().unwrap();
    assert_eq!((exceeded.reason, exceeded.wait), ("limit_tokens", Some(Duration::from_secs(30))), "{exceeded:?}");
    // and that is known before the body is read
    assert_eq!(
        limits.look(&ann().asking(1).usage(), &mut Fields::default()).err().map(|e| e.reason),
        Some("limit_tokens")
    );
    assert!(limits.look(&ann().usage(), &mut Fields::default()).is_ok());
    assert!(limits.look(&Wants::new("corp:bob", &[]).asking(1).usage(), &mut Fields::default()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_the_burst_is_told_that_it_never_passes() {
    let limits = Limits::new(
        vec![settings("l", Per::Gate, &[(Quantity::Bytes, "1KiB/s"), (Quantity::Instances, "10/s")])],
        None,
    );
    for (wants, reason) in [
        (Wants::new("corp:ann", &[]).asking(1).sending(1025), "limit_bytes"),
        (Wants::new("corp:ann", &[]).asking(11), "limit_instances"),
    ] {
        let exceeded = limits.spend(&wants.usage(), &mut Fields::default()).err().unwrap();
        assert_eq!((exceeded.reason, exceeded.wait), (reason, None), "{exceeded:?}");
        assert!(exceeded.text.contains("never pass"), "{exceeded:?}");
    }
    check(&limits, &Wants::new("corp:ann", &[]).asking(10).sending(1024), None);
}

#[tokio::test(start_paused = true)]
async fn open_requests_are_counted_until_they_end() {
    let limits = Limits::new(vec![Settings { streams: Some(2), ..settings("l", Per::Principal, &[]) }], None);
    let ann = || Wants::new("corp:ann", &[]);
    let (first, _second) = (ann().spend(&limits).unwrap(), ann().spend(&limits).unwrap());
    check(&limits, &ann(), Some(("l", "limit_streams")));
    assert_eq!(limits.look(&ann().usage(), &mut Fields::default()).err().map(|e| e.reason), Some("limit_streams"));
    drop(first);
    check(&limits, &ann(), None);
    check(&limits, &ann(), None);
    // a refused request holds no place
    let _third = ann().spend(&limits).unwrap();
    for _ in 0..3 {
        check(&limits, &ann(), Some(("l", "limit_streams")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_was_counted_where_the_settings_are_the_same() {
    let each = || settings("each", Per::Principal, &[(Quantity::Requests, "1/h")]);
    let ann = Wants::new("corp:ann", &[]);
    let before = Limits::new(vec![each()], None);
    check(&before, &ann, None);
    let other = settings("other", Per::Gate, &[(Quantity::Requests, "100/h")]);
    let after = Limits::new(vec![other, each()], Some(&before));
    check(&after, &ann, Some(("each", "limit_requests")));
    let changed = settings("each", Per::Principal, &[(Quantity::Requests, "2/h")]);
    check(&Limits::new(vec![changed], Some(&after)), &ann, None);
}
