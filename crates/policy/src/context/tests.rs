use std::time::{Duration, UNIX_EPOCH};

use cedar_policy::Policy;

use super::*;

fn inputs() -> PolicyInputs {
    PolicyInputs {
        redact: Vec::new(),
        headers: vec!["x-plan".into(), "x-tenant".into()],
        query: vec!["tag".into()],
        claims: vec!["team".into()],
        time_zones: [("office".into(), "Europe/Berlin".into())].into(),
    }
}

fn reads_of(conditions: &str) -> Vec<String> {
    let text = format!("permit(principal, action, resource) {conditions};");
    let policy = Policy::parse(None, text).expect("parses");
    let reads = reads(&policy, &inputs());
    reads.iter().map(|attribute| format!("{attribute:?}")).collect()
}

#[test]
fn a_policy_reads_what_it_mentions() {
    assert!(reads_of("").is_empty());
    assert!(reads_of("when { principal.name == \"context\" && resource has path }").is_empty());
    for (conditions, expected) in [
        ("when { context.path like \"/a*\" } unless { context.method == \"GET\" }", &["Method", "Path"][..]),
        ("when { context has sourceIp }", &["SourceIp"]),
        ("when { context[\"host\"] == \"x\" || [context.depth].contains(3) }", &["Depth", "Host"]),
        ("when { if context has first2 then context.first2 == \"/a/b\" else false }", &["First(2)"]),
        ("when { context has segment8 && context.segment8 == \"x\" }", &["Segment(8)"]),
        ("when { {\"Var\": context.host} == {\"Var\": \"x\"} }", &["Host"]),
        ("when { context has host.name }", &["Host"]),
        ("when { ip(\"1.2.3.4\") == context.sourceIp }", &["SourceIp"]),
        ("when { context.headers has \"x-plan\" && context.headers[\"x-plan\"] == \"a\" }", &["Header(\"x-plan\")"]),
        ("when { context.query has tag && context.query.tag.contains(\"a\") }", &["Query(\"tag\")"]),
        ("when { context.time.office.hour >= 9 || context.time.utc.hour < 3 }", &["Zone(\"office\")", "Zone(\"utc\")"]),
        ("when { context has user.claims.team }", &["User"]),
        ("when { context has query.tag }", &["Query(\"tag\")"]),
        ("when { context has tls }", &["Tls"]),
        ("when { context has tls.sni && context.tls.sni == \"x\" }", &["ServerName"]),
        ("when { context.tls == {sni: \"x\"} }", &["Tls", "ServerName"]),
        ("when { context.now > datetime(\"2026-11-27\") && context.breakGlass }", &["Now", "BreakGlass"]),
        ("when { context has headers }", &["Header(\"x-plan\")", "Header(\"x-tenant\")"]),
        ("when { {h: context.headers} == {h: 1} }", &["Header(\"x-plan\")", "Header(\"x-tenant\")"]),
    ] {
        assert_eq!(reads_of(conditions), expected, "{conditions}");
    }
}

#[test]
fn context_as_a_whole_reads_everything() {
    let all: Vec<String> = Reads::all(&inputs()).iter().map(|attribute| format!("{attribute:?}")).collect();
    assert_eq!(all.len(), 13 + 16 + 2 + 1 + 2);
    for whole in [
        "when { context == {\"path\": \"/\"} }",
        "when { {a: context}.a.path == \"/\" }",
        "when { context.what == 1 }",
        "when { context.first9 == 1 }",
    ] {
        assert_eq!(reads_of(whole), all, "{whole}");
    }
    for name in ["path", "depth", "first1", "first8", "segment1", "grpc"] {
        assert!(Reads::named(name, &inputs()).has_path(), "{name}");
    }
}

#[test]
fn a_bundle_says_only_what_is_read() {
    let reads = |conditions: &str| {
        let policy = Policy::parse(None, format!("permit(principal, action, resource) when {{ {conditions} }};"));
        super::reads(&policy.expect("parses"), &inputs()).inputs(&inputs())
    };
    assert_eq!(reads("context.method == \"GET\""), PolicyInputs::default());
    assert_eq!(reads("context == {}"), inputs());
    let tenant = PolicyInputs { headers: vec!["x-tenant".into()], ..PolicyInputs::default() };
    assert_eq!(reads("context.headers has \"x-tenant\""), tenant);
    assert_eq!(reads("context.time.utc.hour == 3"), PolicyInputs::default());
    assert_eq!(reads("context.time.office.hour == 3").time_zones, inputs().time_zones);
}

#[test]
fn segments_are_counted_by_their_slashes() {
    assert_eq!(first("/a/b/c", 1), Some("/a"));
    assert_eq!(first("/a/b/c", 3), Some("/a/b/c"));
    assert_eq!(first("/a/b/c", 4), None);
    assert_eq!(first("/", 1), Some("/"));
    assert_eq!(first("//x", 1), Some("/"));
    assert_eq!(first("*", 1), None);
    assert_eq!((depth("/"), depth("/a/b"), depth("/a/"), depth("*")), (1, 2, 2, 0));
    let segments = |path| (1..=4).map(|n| segment(path, n)).collect::<Vec<_>>();
    assert_eq!(segments("/a/b/c"), [Some("a"), Some("b"), Some("c"), None]);
    assert_eq!(segments("/"), [Some(""), None, None, None]);
    assert_eq!(segments("*"), [None; 4]);
}

#[test]
fn a_clock_follows_its_zone_over_both_days_of_change() {
    let clock = Clock::new(&inputs()).expect("Berlin is known");
    let shows = |zone: &str, seconds: u64| {
        let local = clock.local(zone, minute(UNIX_EPOCH + Duration::from_secs(seconds))).expect("there");
        format!("{} {}", clock::weekday(local.date().weekday()), local.strftime("%F %H:%M"))
    };
    // 29 March 2026, 01:00 UTC: 02:00 becomes 03:00.
    assert_eq!(shows("office", 1_774_745_999), "sunday 2026-03-29 01:59");
    assert_eq!(shows("office", 1_774_746_000), "sunday 2026-03-29 03:00");
    // 25 October 2026, 01:00 UTC: 03:00 becomes 02:00, and there is 02:30 twice.
    assert_eq!(shows("office", 1_792_886_400 - 1_800 + 3_600), "sunday 2026-10-25 02:30");
    assert_eq!(shows("office", 1_792_886_400 + 1_800 + 3_600), "sunday 2026-10-25 02:30");
    assert_eq!(shows("utc", 1_792_886_400 + 3_659), "sunday 2026-10-25 01:00");
    let nowhere = PolicyInputs { time_zones: [("x".into(), "Europe/Nowhere".into())].into(), ..inputs() };
    assert_eq!(Clock::new(&nowhere).unwrap_err(), "Europe/Nowhere".into());
}
