use proptest::prelude::*;

use super::*;
use crate::series::NamePattern;

fn patterns(texts: &[&str]) -> Vec<NamePattern> {
    texts.iter().map(|text| NamePattern::parse(text).unwrap()).collect()
}

fn names(texts: &[&str]) -> Vec<Box<str>> {
    texts.iter().map(|text| (*text).into()).collect()
}

fn hiding(texts: &[&str]) -> ScrapeGuardrail {
    ScrapeGuardrail { hide: patterns(texts), ..ScrapeGuardrail::default() }
}

fn showing(texts: &[&str]) -> ScrapeGuardrail {
    ScrapeGuardrail { show: Some(patterns(texts)), ..ScrapeGuardrail::default() }
}

fn masking(texts: &[&str]) -> ScrapeGuardrail {
    ScrapeGuardrail { mask_labels: names(texts), mask: MaskKey::new(&[7; 32]), ..ScrapeGuardrail::default() }
}

fn dropping(texts: &[&str]) -> ScrapeGuardrail {
    ScrapeGuardrail { drop_labels: names(texts), ..ScrapeGuardrail::default() }
}

/// What is left of a page that comes in chunks of this size.
fn filtered(duties: &[ScrapeGuardrail], page: &[u8], chunk: usize) -> Result<String, FilterError> {
    let mut filter = ExpositionFilter::new(duties.into());
    let mut out = Vec::new();
    for chunk in page.chunks(chunk) {
        filter.push(chunk, &mut out)?;
    }
    filter.finish(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn check(duties: &[ScrapeGuardrail], page: &str, expected: Result<&str, FilterError>) {
    for chunk in [1, 2, 7, 1 << 16] {
        let found = filtered(duties, page.as_bytes(), chunk);
        assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text), "{duties:?} in chunks of {chunk}:\n{page}");
    }
}

/// What of the page lies between these two beginnings of lines.
fn part(from: &str, to: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(from).unwrap();
    let (part, _) = rest.split_once(to).unwrap_or((rest, ""));
    let start = PAGE.len() - rest.len() - from.len();
    PAGE.get(start..start + from.len() + part.len()).unwrap()
}

const PAGE: &str = "\
# HELP go_goroutines how many
# TYPE go_goroutines gauge
go_goroutines 8
# HELP requests_seconds how long
# TYPE requests_seconds histogram
requests_seconds_bucket{user=\"ada\",le=\"1\"} 1
requests_seconds_bucket{user=\"ada\",le=\"+Inf\"} 2
requests_seconds_sum{user=\"ada\"} 1.5
requests_seconds_count{user=\"ada\"} 2
# TYPE logins_total counter
logins_total{user=\"ada\"} 3
logins_total{user=\"bob\"} 4
# TYPE up gauge
up 1
";

#[test]
fn a_hidden_family_is_hidden_with_all_that_is_said_of_it() {
    let rest = part("# HELP requests", "no such line");
    check(&[hiding(&["go_*"])], PAGE, Ok(rest));
    check(&[hiding(&["go_goroutines", "requests_seconds", "logins"])], PAGE, Ok("# TYPE up gauge\nup 1\n"));
    check(&[hiding(&["go_goroutines", "logins_total"]), hiding(&["requests_*"])], PAGE, Ok("# TYPE up gauge\nup 1\n"));
    check(&[hiding(&["*"])], PAGE, Ok(""));
    check(&[hiding(&["goroutines"])], PAGE, Ok(PAGE));
}

#[test]
fn only_the_families_that_are_shown_are_seen() {
    let histogram = part("# HELP requests", "# TYPE logins");
    check(&[showing(&["requests_seconds"])], PAGE, Ok(histogram));
    let counter = part("# TYPE logins", "# TYPE up");
    check(&[showing(&["logins"])], PAGE, Ok(counter));
    check(&[showing(&["logins_total"])], PAGE, Ok(counter));
    check(&[showing(&["up", "logins"]), showing(&["logins", "go_*"])], PAGE, Ok(counter));
    check(&[showing(&["logins"]), hiding(&["logins"])], PAGE, Ok(""));
    // what only looks like a part of a family is none
    check(&[showing(&["up"])], "# TYPE up gauge\nup 1\nup_count 2\nup_total 3\n", Ok("# TYPE up gauge\nup 1\n"));
}

#[test]
fn a_family_is_hidden_in_whatever_spelling_it_is_asked_for() {
    let page = "# TYPE \"app.secret\" counter\n{\"app.secret\",a=\"b\"} 1\napp_secret{a=\"b\"} 1\napp_other 1\n";
    let duty = ScrapeGuardrail {
        hide: vec![NamePattern::Exact(plain_name("app.secret").into())],
        ..ScrapeGuardrail::default()
    };
    check(&[duty], page, Ok("app_other 1\n"));
    let open = "# TYPE logins counter\nlogins_total{a=\"b\"} 1\nlogins_created{a=\"b\"} 1.5\n# EOF\n";
    check(&[hiding(&["logins"])], open, Ok("# EOF\n"));
    check(&[hiding(&["logins_total"])], open, Ok("# EOF\n"));
    check(&[showing(&["logins"])], open, Ok(open));
}

#[test]
fn comments_are_not_passed_on() {
    check(&[hiding(&["b"])], "# b 1\n#b 2\na 1\n\n# EOF\n", Ok("a 1\n\n# EOF\n"));
}

#[test]
fn labels_are_taken_away_or_masked() {
    let key = MaskKey::new(&[7; 32]).unwrap();
    let ada = key.mask("user", "ada");
    let bob = key.mask("user", "b\"ob");
    let page = "a{user=\"ada\",x=\"1\"} 1\na{x=\"1\", user=\"b\\\"ob\"} 2 9\na{user=\"\"} 3\nb{user=\"ada\"} 4\n";
    let masked = format!(
        "a{{user=\"{ada}\",x=\"1\"}} 1\na{{x=\"1\",user=\"{bob}\"}} 2 9\na{{user=\"\"}} 3\nb{{user=\"{ada}\"}} 4\n"
    );
    check(&[masking(&["user"])], page, Ok(&masked));
    check(&[dropping(&["user"])], "a{user=\"ada\",x=\"1\"} 1\nb{user=\"ada\"} 4\n", Ok("a{x=\"1\"} 1\nb 4\n"));
    check(&[masking(&["user"]), dropping(&["user"])], "b{user=\"ada\"} 4\n", Ok("b 4\n"));
    check(&[dropping(&["a_b"])], "{\"b.c\",\"a.b\"=\"ada\"} 4\n", Ok("{\"b.c\"} 4\n"));
}

#[test]
fn two_series_that_a_missing_label_would_make_one_end_the_page() {
    check(&[dropping(&["user"])], "a{user=\"ada\"} 1\na{user=\"bob\"} 2\n", Err(FilterError::DuplicateSeries(2)));
    check(
        &[dropping(&["user"])],
        "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\",user=\"bob\"} 2\n",
        Err(FilterError::DuplicateSeries(2)),
    );
    check(&[dropping(&["user"])], "a 1\nb{user=\"bob\"} 2\n", Ok("a 1\nb 2\n"));
    // what is hidden is no series
    check(&[dropping(&["user"]), hiding(&["a"])], "a{user=\"ada\"} 1\na{user=\"bob\"} 2\n", Ok(""));
}

#[test]
fn an_exemplar_says_no_more_than_its_series() {
    let page = "a{user=\"ada\"} 1 # {trace_id=\"t\"} 1 2\nb 1 # {user=\"ada\"} 1\nc 1 # {trace_id=\"t\"} 1\n";
    let dropped = "a 1 # {trace_id=\"t\"} 1 2\nb 1\nc 1 # {trace_id=\"t\"} 1\n";
    check(&[dropping(&["user"])], page, Ok(dropped));
    let hide_series = vec![("user".into(), "ada".into())];
    let duty = ScrapeGuardrail { hide_series, ..ScrapeGuardrail::default() };
    check(&[duty], page, Ok("b 1\nc 1 # {trace_id=\"t\"} 1\n"));
}

#[test]
fn series_are_hidden_by_label_and_value() {
    let duty = ScrapeGuardrail { hide_series: vec![("tenant".into(), "x".into())], ..ScrapeGuardrail::default() };
    let page = "a{tenant=\"x\"} 1\na{tenant=\"xy\"} 2\na{other=\"x\"} 3\na 4\n";
    check(&[duty], page, Ok("a{tenant=\"xy\"} 2\na{other=\"x\"} 3\na 4\n"));
}

#[test]
fn what_cannot_be_read_ends_the_page() {
    check(
        &[hiding(&["b"])],
        "a 1\n<html>\n",
        Err(FilterError::Malformed(2, "there is neither a label nor a space behind a name")),
    );
    assert_eq!(filtered(&[hiding(&["b"])], b"a 1\n\xff 1\n", 3), Err(FilterError::NotUtf8));
    let long = format!("a{{x=\"{}\"}} 1\n", "y".repeat(MAX_LINE));
    for chunk in [1000, 1 << 22] {
        assert_eq!(filtered(&[hiding(&["b"])], long.as_bytes(), chunk), Err(FilterError::LineTooLong));
    }
    check(&[hiding(&["b"])], "a 1", Ok("a 1"));
}

/// A page's line: a sample of a family that may be the hidden one, in any form.
fn any_line() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("hidden"), Just("hidden_total"), Just("shown"), Just("hid"), Just("shown_sum")];
    let value = "[a-z{}#,\"\\\\ ]{0,8}".prop_map(|value| value.replace('\\', "\\\\").replace('"', "\\\""));
    let labels = proptest::collection::vec(("[a-z]{1,3}", value), 0..3);
    (name, labels, any::<bool>(), any::<bool>(), 0..3u8).prop_map(|(name, labels, quoted, space, meta)| {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let exemplar = if space { " # {t=\"hidden 1\"} 1" } else { "" };
        match (meta, quoted) {
            (0, _) => format!("# TYPE {name} counter"),
            (_, true) => format!("{{\"{name}\",{}}} 1{exemplar}", labels.join(",")),
            (_, false) => format!("{name}{{{}}} 1{exemplar}", labels.join(", ")),
        }
    })
}

proptest! {
    #[test]
    fn no_line_of_a_hidden_family_passes_and_every_other_does(
        lines in proptest::collection::vec(any_line(), 0..20),
        chunk in 1..64usize,
    ) {
        let page: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let found = filtered(&[hiding(&["hidden"])], page.as_bytes(), chunk).unwrap();
        let is_hidden = |line: &&String| {
            ["hidden", "hidden_total"].iter().any(|name| {
                [format!("# TYPE {name} "), format!("{{\"{name}\""), format!("{name}{{")].iter().any(|start| line.starts_with(start))
            })
        };
        let expected: String = lines.iter().filter(|line| !is_hidden(line)).map(|line| format!("{line}\n")).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_no_rule_is_about_is_passed_on_byte_for_byte(
        lines in proptest::collection::vec(any_line(), 0..20),
        chunk in 1..64usize,
    ) {
        let page: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let duties = [hiding(&["other"]), showing(&["*"]), masking(&["user"])];
        prop_assert_eq!(filtered(&duties, page.as_bytes(), chunk).unwrap(), page);
    }

    #[test]
    fn any_bytes_are_passed_or_end_the_page_the_same_in_every_chunk(
        page in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'a'), Just(b' '), Just(b'{')], 0..200),
        chunk in 1..32usize,
    ) {
        let duties = [hiding(&["a"]), dropping(&["user"])];
        prop_assert_eq!(filtered(&duties, &page, chunk), filtered(&duties, &page, 1 << 20));
    }
}
