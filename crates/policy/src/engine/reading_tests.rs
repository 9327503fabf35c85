//! Paths that an app may read in other ways than a policy does.

use weft_model::intent::{Allow, Caller, Case, EscapedSlashes};

use super::*;
use crate::testing;

/// `prod/web` may call all of `prod/board` but what the policies forbid.
fn open(case: Case, policies: &str) -> Engine {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.case = case;
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), Vec::new());
    testing::policies(&mut intent, policies);
    testing::engine(&intent, "prod/board")
}

fn decide(engine: &Engine, path: &str) -> Decision {
    let web = testing::id("prod/web");
    engine.decide(&CallRequest { path, ..testing::request(&web) })
}

#[test]
fn what_some_app_takes_for_a_forbidden_path_is_forbidden() {
    let engine =
        open(Case::Sensitive, "forbid(principal, action, resource) when { context.path == \"/admin/users\" };");
    for (path, how) in [
        ("/admin/users/", "no slash at the end"),
        ("/admin/users%3Fx", "nothing from %3F or %23 on"),
        ("/admin/users/%23", "nothing from %3F or %23 on, no slash at the end"),
        ("/admin%3Bx/users", "%3B as ;, no parameters after ;"),
    ] {
        let decision = decide(&engine, path);
        assert!(!decision.allowed, "{path}");
        let told = format!("forbid policies/x.cedar:1; some read the path as /admin/users ({how})");
        assert_eq!(*decision.reason, *told);
    }
    for path in ["/admin/users/x", "/admin/usersx", "/wiki/What%3F", "/", "/a%3Bb", "/ADMIN/users"] {
        assert!(decide(&engine, path).allowed, "{path}");
    }
}

/// They mostly are what they seem: nobody has to permit `/docs` for `/docs/` to be served.
#[test]
fn a_lenient_reading_needs_no_permit() {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    let paths = ["/docs/", "/wiki/*", "/pairs/*"];
    let allow = paths.map(|path| Allow { method: None, path: path.into() }).to_vec();
    testing::allow(&mut intent, "prod/board", Caller::Anyone, allow);
    let engine = testing::engine(&intent, "prod/board");
    for path in ["/docs/", "/wiki/%3F", "/wiki/C%23", "/pairs/a%3Bb"] {
        assert!(decide(&engine, path).allowed, "{path}: {:?}", decide(&engine, path));
    }
    for path in ["/docs", "/wiki/", "/wiki/;x", "/wiki"] {
        assert!(!decide(&engine, path).allowed, "{path}");
    }
}

#[test]
fn where_case_does_not_matter_to_the_app_it_does_not_to_policies() {
    let forbid =
        "forbid(principal, action, resource) when { context.path like \"/admin/*\" || context.path like \"/Old/*\" };";
    let engine = open(Case::Ignore, forbid);
    for path in [
        "/admin/x",
        "/ADMIN/x",
        "/%C4%B0/../admin/X",
        "/adm%C4%B0n/x",
        "/Admin;x/x",
        "/ADMIN%2Fx",
        "/Old/x",
        "/Old;y/x",
    ] {
        let Ok(path) = path::normalize(path, Paths { escaped_slashes: EscapedSlashes::Keep, ..engine.paths() }) else {
            panic!("{path}")
        };
        assert!(!decide(&engine, &path).allowed, "{path}");
    }
    assert!(decide(&engine, "/Users/Ada").allowed);
    let told = decide(&engine, "/ADMIN/x").reason;
    assert_eq!(
        &*told,
        "forbid policies/x.cedar:1; some read the path as /admin/x (no difference between upper and lower case)"
    );
    assert!(decide(&open(Case::Sensitive, forbid), "/ADMIN/x").allowed, "another path");
}

#[test]
fn access_of_a_service_that_ignores_case_holds_for_all_spellings() {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.case = Case::Ignore;
    let allow = vec![Allow { method: Some("GET".into()), path: "/Home/**".into() }];
    testing::allow(&mut intent, "prod/board", Caller::Anyone, allow);
    let engine = testing::engine(&intent, "prod/board");
    for path in ["/Home/Index", "/home/index", "/HOME/x"] {
        assert!(decide(&engine, path).allowed, "{path}");
    }
    assert!(!decide(&engine, "/Homes").allowed);
    let web = testing::id("prod/web");
    assert!(!engine.decide(&CallRequest { method: "get", path: "/home", ..testing::request(&web) }).allowed);
}

/// Whoever reads `tag` of a query, reads it as policies do.
#[test]
fn a_query_is_decided_on_as_other_readers_find_it() {
    let engine = |policies: &str| {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        intent.mesh.policy.query = vec!["tag".into()];
        testing::policies(&mut intent, policies);
        testing::engine(&intent, "prod/board")
    };
    let web = testing::id("prod/web");
    let decide = |engine: &Engine, query| engine.decide(&CallRequest { query: Some(query), ..testing::request(&web) });
    let open = "permit(principal, action, resource);\n";
    let forbid =
        "forbid(principal, action, resource) when { context.query has tag && context.query.tag.contains(\"red\") };";
    let fenced = engine(&format!("{open}{forbid}"));
    for query in ["tag=red", "x=1;tag=red", "tag[]=red", "TAG=red", "+tag=red", "tag=blue&tag%5B0%5D=red"] {
        let decision = decide(&fenced, query);
        assert!(!decision.allowed && decision.reason.starts_with("forbid policies/x.cedar:2"), "{query}: {decision:?}");
        assert_eq!(decision.reason.contains("some read the query otherwise"), query != "tag=red", "{query}");
    }
    for query in ["tag=blue", "x=1;tag=blue", "tags=red", "x=tag=red"] {
        assert!(decide(&fenced, query).allowed, "{query}");
    }
    let only_of = |tag: &str| {
        format!(
            "permit(principal, action, resource) when {{ context.query has tag && context.query.tag == [\"{tag}\"] }};"
        )
    };
    let only = engine(&only_of("red"));
    assert!(decide(&only, "tag=red&x=1;y=2").allowed);
    assert!(!decide(&only, "tag=red&tag[]=blue").allowed && !decide(&only, "tag[]=red").allowed);
    assert!(decide(&engine(open), "tag=a;tag=b").allowed, "nobody reads it");
    // A space as every form writes it need not be permitted as a `+` too, but only not be forbidden.
    let spaced = only_of("a b");
    assert!(decide(&engine(&spaced), "tag=a+b").allowed);
    let plus = forbid.replace("red", "a+b");
    let decision = decide(&engine(&format!("{open}{plus}")), "tag=a+b");
    assert!(!decision.allowed && decision.reason.contains("some read a `+` of the query as it is"), "{decision:?}");
}
