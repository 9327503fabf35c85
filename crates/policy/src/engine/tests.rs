use cedar_policy::{Authorizer, Entities, PolicySet, Request};
use proptest::prelude::*;
use weft_model::intent::{Allow, Caller, EscapedSlashes, Intent, Member, Slashes};

use super::*;
use crate::check::read_and_check;
use crate::context;
use crate::testing;

fn call(method: Option<&str>, path: &str) -> Allow {
    Allow { method: method.map(Into::into), path: path.into() }
}

fn board() -> Intent {
    let mut intent = testing::intent(&["prod/web", "prod/board", "staging/web"]);
    testing::allow(
        &mut intent,
        "prod/board",
        Caller::Service(testing::name("prod/web")),
        vec![call(Some("GET"), "/api/**")],
    );
    intent
}

fn decide(intent: &Intent, caller: &str, method: &str, path: &str) -> Decision {
    let id = testing::id(caller);
    testing::engine(intent, "prod/board").decide(&CallRequest { method, path, ..testing::request(&id) })
}

#[test]
fn a_decision_names_the_policy_that_determined_it() {
    let mut intent = board();
    testing::policies(
        &mut intent,
        "\n\nforbid(principal, action, resource) when { context.path like \"/api/secret*\" };",
    );
    let allowed = decide(&intent, "prod/web", "GET", "/api/x");
    assert!(allowed.allowed);
    assert_eq!(&*allowed.reason, "permit services/prod-board.yaml:11");
    assert_eq!(&*allowed.places, "services/prod-board.yaml:11");
    let forbidden = decide(&intent, "prod/web", "GET", "/api/secret");
    assert!(!forbidden.allowed);
    assert_eq!(&*forbidden.reason, "forbid policies/x.cedar:3");
    let other = decide(&intent, "prod/web", "POST", "/api/x");
    assert!(!other.allowed && other.policies.is_empty());
    assert_eq!(
        &*other.reason,
        "no access rule of prod/board (services/prod-board.yaml:10) and no policy allows prod/web POST /api/x"
    );
}

/// `prod/web` may GET everything but what is below `/admin`, and `prod/board` keeps encoded slashes.
fn kept() -> Engine {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    let board = intent.services.get_mut(&testing::name("prod/board")).expect("it is there");
    board.paths.escaped_slashes = EscapedSlashes::Keep;
    let allow = vec![call(Some("GET"), "/repos/*/files"), call(Some("GET"), "/admin%2Fkey"), call(Some("PUT"), "/**")];
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), allow);
    testing::policies(&mut intent, "forbid(principal, action, resource) when { context.path like \"/admin/*\" };");
    testing::engine(&intent, "prod/board")
}

#[test]
fn a_path_must_be_allowed_in_each_way_to_read_it() {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.slashes = Slashes::Keep;
    let allow = vec![call(Some("GET"), "/cars/**"), call(Some("GET"), "/cars;lot=1/**"), call(Some("GET"), "/a;v=1")];
    testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), allow);
    testing::policies(
        &mut intent,
        "permit(principal, action, resource) when { context.method == \"PUT\" } unless { context.path like \"/admin/*\" };
        forbid(principal, action, resource) when { context.path like \"/cars/secret*\" };",
    );
    let (engine, id) = (testing::engine(&intent, "prod/board"), testing::id("prod/web"));
    let decide = |method, path| engine.decide(&CallRequest { method, path, ..testing::request(&id) });
    for path in ["/cars/red", "/cars;lot=1/red", "/cars//red"] {
        assert!(decide("GET", path).allowed, "{path}");
    }
    assert!(decide("PUT", "/a;b/c").allowed);
    for (method, path, reason) in [
        (
            "GET",
            "/cars;lot=1/secret",
            "forbid policies/x.cedar:2; some read the path as /cars/secret (no parameters after ;)",
        ),
        (
            "GET",
            "/cars//secret",
            "forbid policies/x.cedar:2; some read the path as /cars/secret (several slashes as one)",
        ),
        (
            "PUT",
            "/admin;x/users",
            "allows prod/web PUT /admin/users; some read the path as /admin/users (no parameters after ;)",
        ),
        ("PUT", "//admin;x/users", "/admin/users (no parameters after ;, several slashes as one)"),
        ("GET", "/a;v=1", "allows prod/web GET /a; some read the path as /a (no parameters after ;)"),
    ] {
        let decision = decide(method, path);
        assert!(!decision.allowed && decision.reason.ends_with(reason), "{method} {path}: {decision:?}");
    }
}

#[test]
fn an_encoded_slash_is_a_part_of_its_segment_and_passes_no_forbid() {
    let (engine, id) = (kept(), testing::id("prod/web"));
    let decide = |method, path| engine.decide(&CallRequest { method, path, ..testing::request(&id) });
    assert!(decide("GET", "/repos/a%2Fb/files").allowed);
    assert!(!decide("GET", "/repos/a/b/files").allowed);
    assert!(decide("PUT", "/repos/a%2Fadmin%2Fb").allowed);
    for path in ["/admin%2Fkey", "/admin%2F", "/%2Fadmin%2Fkey", "/admin%2F%2Fkey", "/admin/a%2Fb"] {
        for method in ["GET", "PUT"] {
            assert!(!decide(method, path).allowed, "{method} {path}");
        }
        assert_eq!(&*decide("PUT", path).places, "policies/x.cedar:1", "{path}");
    }
    assert_eq!(
        &*decide("PUT", "/admin%2Fkey").reason,
        "forbid policies/x.cedar:1; some read the path as /admin/key (%2F as a slash)"
    );
}

#[test]
fn callers_without_a_place_in_the_bundle_are_denied_with_the_reason() {
    let engine = testing::engine(&board(), "prod/board");
    let reason = |principal: Option<&str>| {
        let id: Option<SpiffeId> = principal.map(|id| id.parse().expect("legal"));
        let principal = id.as_ref().map_or(Principal::Unknown, Principal::Id);
        let decision = engine.decide(&CallRequest { principal, ..testing::request(&testing::id("prod/web")) });
        assert!(!decision.allowed);
        decision.reason.to_string()
    };
    assert_eq!(reason(None), "the caller has shown no identity: no client certificate with a SPIFFE ID");
    assert_eq!(
        reason(Some("spiffe://acme.internal/ns/staging/sa/web")),
        "no access rule of prod/board (services/prod-board.yaml:10) and no policy allows staging/web anything"
    );
    assert_eq!(
        reason(Some("spiffe://other.org/ns/prod/sa/web")),
        "the caller spiffe://other.org/ns/prod/sa/web is not of the trust domain acme.internal, and no access rule of prod/board (services/prod-board.yaml:10) and no policy names it"
    );
    assert_eq!(
        reason(Some("spiffe://acme.internal/x")),
        "the caller spiffe://acme.internal/x is no service of this mesh"
    );
}

#[test]
fn a_forbid_that_cannot_be_evaluated_denies() {
    let overflow = "9223372036854775807 + context.depth > 0";
    let mut intent = board();
    testing::policies(&mut intent, &format!("forbid(principal, action, resource)\nwhen {{ {overflow} }};"));
    let decision = decide(&intent, "prod/web", "GET", "/api/x");
    assert!(!decision.allowed);
    assert_eq!(&*decision.places, "policies/x.cedar:1");
    assert!(decision.reason.starts_with("forbid policies/x.cedar:1 could not be evaluated: "), "{}", decision.reason);
    assert!(decision.reason.ends_with(", and a forbid that cannot be evaluated denies"), "{}", decision.reason);
    assert_eq!(decision.errors.len(), 1);

    let mut intent = board();
    testing::policies(&mut intent, &format!("permit(principal, action, resource) when {{ {overflow} }};"));
    let allowed = decide(&intent, "prod/web", "GET", "/api/x");
    assert!(allowed.allowed);
    assert_eq!(allowed.errors.len(), 1);
    let denied = decide(&intent, "prod/web", "PUT", "/api/x");
    assert!(!denied.allowed);
    assert!(
        denied.reason.contains("allows prod/web PUT /api/x; permit policies/x.cedar:1 could not be"),
        "{}",
        denied.reason
    );
}

#[test]
fn several_determining_policies_are_named_in_the_order_of_their_places() {
    let mut intent = board();
    testing::role(&mut intent, "reader", vec![Caller::Namespace("prod".into())]);
    let span = testing::span("services/prod-board.yaml", 20);
    let from = vec![Caller::Role("reader".into()), Caller::Service(testing::name("prod/web"))];
    let service = intent.services.get_mut(&testing::name("prod/board")).expect("in the mesh");
    service.access.push(weft_model::intent::AccessRule { from, allow: Vec::new(), shadow: false, span });
    let decision = decide(&intent, "prod/web", "GET", "/api/x");
    assert_eq!(&*decision.reason, "permit services/prod-board.yaml:11, services/prod-board.yaml:20");
    assert_eq!(decision.policies.len(), 3);
    assert_eq!(&*decision.places, "services/prod-board.yaml:11, services/prod-board.yaml:20");
    assert!(decide(&intent, "prod/board", "PUT", "/x").allowed, "a service may be given access to itself");
}

#[test]
fn attributes_and_the_source_address_decide() {
    let mut intent = board();
    intent.mesh = testing::mesh(&[("sensitivity", &["low", "high"])]);
    let service = intent.services.get_mut(&testing::name("staging/web")).expect("in the mesh");
    service.attributes.insert("sensitivity".into(), "low".into());
    testing::policies(
        &mut intent,
        r#"permit(principal in Namespace::"staging", action == Action::"call", resource == Service::"prod/board")
           when { principal has sensitivity && principal.sensitivity == "low" && principal.name == resource.namespace.x };"#
            .replace(" && principal.name == resource.namespace.x", " && principal.spiffeId like \"spiffe://acme.internal/*\"")
            .as_str(),
    );
    testing::policies(
        &mut intent,
        r#"forbid(principal, action, resource) when { context has sourceIp && context.sourceIp.isInRange(ip("10.0.0.0/8")) };"#,
    );
    let engine = testing::engine(&intent, "prod/board");
    let id = testing::id("staging/web");
    let from = |ip: &str| {
        engine
            .decide(&CallRequest { source_ip: Some(ip.parse().expect("an address")), ..testing::request(&id) })
            .allowed
    };
    assert!(from("192.168.0.1") && from("::1") && !from("10.1.2.3"));
    assert!(engine.decide(&testing::request(&id)).allowed);
}

#[test]
fn an_engine_says_what_its_policies_read() {
    let mut intent = board();
    let web = testing::id("prod/web");
    let reads = |intent: &Intent| testing::engine(intent, "prod/board").reads(Principal::Id(&web))[0].clone();
    let read: Vec<Attribute> = reads(&intent).iter().cloned().collect();
    assert!(
        read.contains(&Attribute::Method) && read.iter().all(|one| one.is_of_path() || *one == Attribute::Method),
        "{read:?}"
    );
    testing::policies(&mut intent, "forbid(principal, action, resource) when { context == context };");
    assert_eq!(reads(&intent), Reads::all(&intent.mesh.policy));
}

#[test]
fn a_bundle_holds_only_what_concerns_its_service() {
    let mut intent = board();
    testing::allow(&mut intent, "staging/web", Caller::Anyone, vec![]);
    testing::policies(&mut intent, "forbid(principal == Service::\"staging/web\", action, resource);");
    let bundle = testing::bundle(&intent, "prod/board");
    assert_eq!(
        bundle.policies.len(),
        1,
        "neither the other service's rule nor the forbid of one who is never permitted"
    );
    assert_eq!(bundle.callers.iter().map(|caller| caller.name.as_str()).collect::<Vec<_>>(), ["prod/web"]);
    let nobody = testing::bundle(&testing::intent(&["prod/web"]), "prod/gone");
    assert!(nobody.callers.is_empty() && Engine::new(&nobody).is_ok());
}

const SERVICES: [&str; 5] = ["prod/web", "prod/board", "prod/db", "staging/web", "staging/board"];

fn any_caller() -> impl Strategy<Value = Caller> {
    prop_oneof![
        proptest::sample::select(&SERVICES[..]).prop_map(|name| Caller::Service(testing::name(name))),
        proptest::sample::select(&["prod", "staging"][..]).prop_map(|name| Caller::Namespace(name.into())),
        proptest::sample::select(&["r1", "r2"][..]).prop_map(|name| Caller::Role(name.into())),
        Just(Caller::Anyone),
    ]
}

fn any_policy() -> impl Strategy<Value = String> {
    let group = proptest::sample::select(
        &[
            "",
            " == Service::\"prod/web\"",
            " == Service::\"prod/board\"",
            " in Namespace::\"staging\"",
            " in Role::\"r1\"",
            " in Service::\"prod/db\"",
            " is Service",
            " is Service in Role::\"r2\"",
            " is Service in Service::\"staging/board\"",
        ][..],
    );
    let action =
        proptest::sample::select(&["", " == Action::\"call\"", " in [Action::\"call\"]", " in Action::\"call\""][..]);
    let condition = proptest::sample::select(
        &[
            "",
            "when { context.path like \"/a*\" }",
            "unless { context.method == \"GET\" }",
            "when { principal has tier && principal.tier == \"one\" }",
            "unless { resource has tier }",
            "when { principal.namespace == resource.namespace }",
            "when { principal in Role::\"r1\" || principal == resource }",
            "when { context.depth == 2 && context.host == \"h\" }",
            "when { context has first2 && context.first2 == \"/a/b\" }",
            "when { context has sourceIp && context.sourceIp.isLoopback() }",
            "when { 9223372036854775806 + context.depth > 0 }",
            "unless { context == context && context.protocol == \"HTTP/2\" }",
        ][..],
    );
    (any::<bool>(), group.clone(), action, group, condition).prop_map(
        |(permit, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{effect}(principal{principal}, action{action}, resource{resource}) {condition};\n")
        },
    )
}

fn any_intent() -> impl Strategy<Value = Intent> {
    let allow =
        proptest::sample::select(&["/a", "/a/**", "/*", "/a/*/**", "/**"][..]).prop_map(|path| call(Some("GET"), path));
    let rule = (proptest::sample::select(&SERVICES[..]), any_caller(), proptest::collection::vec(allow, 0..3));
    let members = || proptest::collection::vec(any_caller(), 0..3);
    (
        proptest::collection::vec(rule, 0..4),
        members(),
        members(),
        proptest::collection::vec(any_policy(), 0..5),
        proptest::collection::vec(proptest::option::of(proptest::sample::select(&["one", "two"][..])), SERVICES.len()),
    )
        .prop_map(|(rules, r1, r2, policies, tiers)| {
            let mut intent = testing::intent(&SERVICES);
            intent.mesh = testing::mesh(&[("tier", &["one", "two"])]);
            for (name, tier) in SERVICES.iter().zip(tiers) {
                let service = intent.services.get_mut(&testing::name(name)).expect("in the mesh");
                service.attributes.extend(tier.map(|tier| ("tier".into(), tier.into())));
            }
            for (name, members) in [("r1", r1), ("r2", r2)] {
                let members = members.into_iter().filter(|member| !matches!(member, Caller::Role(_))).collect();
                testing::role(&mut intent, name, members);
            }
            for (callee, from, allow) in rules {
                testing::allow(&mut intent, callee, from, allow);
            }
            testing::policies(&mut intent, &policies.concat());
            intent
        })
}

/// The whole mesh in one policy set: Cedar as it comes.
struct Plain {
    set: PolicySet,
    entities: Entities,
}

impl Plain {
    fn of(intent: &Intent) -> Self {
        let (sources, _) = read_and_check(intent);
        let set = PolicySet::from_policies(sources.iter().map(|source| source.policy.clone())).expect("unique ids");
        let everyone = SERVICES.iter().map(|name| {
            let has = |member: &Member| match member {
                Member::Caller(Caller::Anyone) => true,
                Member::Caller(Caller::Namespace(namespace)) => name.starts_with(&format!("{namespace}/")),
                Member::Caller(Caller::Service(service)) => service.as_str() == *name,
                Member::Caller(Caller::Role(_) | Caller::PlainText | Caller::Foreign(_)) | Member::Pattern(_) => false,
            };
            let roles = intent
                .roles
                .values()
                .filter(|role| role.members.iter().any(has))
                .map(|role| role.name.clone())
                .collect();
            let attributes = intent.services[&testing::name(name)].attributes.clone();
            let facts = crate::ServiceFacts { name: testing::name(name), attributes, roles };
            facts.entity(&intent.mesh.trust_domain).expect("an entity")
        });
        Self { set, entities: Entities::from_entities(everyone, None).expect("entities") }
    }

    /// Everything in the context, no slices, and our rule for errors.
    fn allows(&self, caller: &str, callee: &str, request: &CallRequest<'_>) -> bool {
        let uid = |name| entities::service(&testing::name(name));
        let inputs = PolicyInputs::default();
        let clock = Clock::new(&inputs).expect("no zones");
        let around = Surroundings { port: 8080, clock: &clock, break_glass: false };
        let context = context::build(request, &Reads::all(&inputs), &around).expect("a context");
        let request = Request::new(uid(caller), entities::call(), uid(callee), context, None).expect("a request");
        let response = Authorizer::new().is_authorized(&request, &self.set, &self.entities);
        let broken = response.diagnostics().errors().any(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            self.set.policy(error.policy_id()).is_some_and(|policy| policy.effect() == Effect::Forbid)
        });
        response.decision() == cedar_policy::Decision::Allow && !broken
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Scopes, bundles, slices and partial contexts change no decision; what is allowed is in scope; what is equal in all that
    /// is read is decided equally.
    #[test]
    fn a_bundle_decides_as_plain_cedar_does_over_the_whole_mesh(
        intent in any_intent(),
        method in proptest::sample::select(&["GET", "POST"][..]),
        path in proptest::sample::select(&["/", "/a", "/a/b", "/a/b/c", "/x/"][..]),
        host in proptest::sample::select(&["h", "i"][..]),
        ip in proptest::option::of(proptest::sample::select(&["127.0.0.1", "10.0.0.1"][..])),
    ) {
        let model = crate::compile(&intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
        let plain = Plain::of(&intent);
        for callee in SERVICES {
            let bundle = model.bundle_for(&testing::name(callee));
            let read = Bundle::from_bytes(&bundle.to_bytes()).expect("what was written");
            prop_assert_eq!(&read, &bundle);
            let engine = Engine::new(&read).expect("an engine");
            for caller in SERVICES {
                let id = testing::id(caller);
                let source_ip = ip.map(|ip| ip.parse().expect("an address"));
                let request = CallRequest { method, path, host, source_ip, ..testing::request(&id) };
                let decision = engine.decide(&request);
                prop_assert_eq!(decision.allowed, plain.allows(caller, callee, &request), "{} -> {}: {:?}", caller, callee, decision);
                prop_assert!(!decision.allowed || model.may_call(&id.service().expect("a service"), &testing::name(callee)));
                prop_assert!(!decision.allowed || !decision.policies.is_empty());
                let reads = engine.reads(request.principal)[0];
                let other = CallRequest {
                    method: if reads.has(&Attribute::Method) { method } else { "PUT" },
                    path: if reads.has_path() { path } else { "/other/x/y" },
                    host: if reads.has(&Attribute::Host) { host } else { "j" },
                    protocol: if reads.has(&Attribute::Protocol) { request.protocol } else { "HTTP/1.1" },
                    source_ip: request.source_ip.filter(|_| reads.has(&Attribute::SourceIp)),
                    ..request
                };
                let again = engine.decide(&other);
                prop_assert_eq!((again.allowed, again.reason), (decision.allowed, decision.reason));
            }
        }
    }
}

/// How apps read a path: as it is, with `%2F` for a slash, without parameters, with repeated slashes as one, and by all of these in a
/// row.
fn as_apps_read_it(path: &str) -> Vec<String> {
    let decoded = path.replace("%2F", "/").replace("%2f", "/");
    let merged = |path: &str| {
        let mut path = path.to_owned();
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        path
    };
    let cut = |path: &str| {
        let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or("")).collect();
        segments.join("/")
    };
    let mut all = vec![path.to_owned(), decoded.clone(), cut(path), cut(&decoded), merged(path), merged(&decoded)];
    all.extend([merged(&cut(path)), merged(&cut(&decoded))]);
    for read in all.clone() {
        let mut segments: Vec<&str> = Vec::new();
        for segment in read.split('/').skip(1) {
            match segment {
                ".." => drop(segments.pop()),
                "." => {}
                other => segments.push(other),
            }
        }
        all.push(format!("/{}", segments.join("/")));
    }
    all
}

proptest! {
    /// With kept slashes, what is let through is below `/admin` in no way in which an app may read it.
    #[test]
    fn no_spelling_of_a_slash_passes_a_forbid(
        pieces in proptest::collection::vec(
            proptest::sample::select(&["/", "%2F", "%2f", "..", ".", "%2e", "admin", "repos", "x", ";", "%61dmin"][..]), 0..9)
    ) {
        let raw = format!("/{}", pieces.concat());
        let (engine, id) = (kept(), testing::id("prod/web"));
        let Ok(path) = crate::path::normalize(&raw, engine.paths()) else { return Ok(()) };
        let decision = engine.decide(&CallRequest { method: "PUT", path: &path, ..testing::request(&id) });
        let forbidden = as_apps_read_it(&path).into_iter().find(|read| read.starts_with("/admin/"));
        prop_assert_eq!(decision.allowed, forbidden.is_none(), "{} as {:?}: {:?}", path, forbidden, decision.reason);
    }
}

/// Not a test: prints what a decision costs. Run with an optimised build, `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_decision_costs() {
    for (title, callers, policies) in
        [("1 rule", 1, 0), ("10 policies", 1, 9), ("1,000 rules of 1,000 callers", 1000, 0)]
    {
        let names: Vec<String> =
            (0..callers).map(|n| format!("prod/web{n}")).chain(["prod/board".to_owned()]).collect();
        let mut intent = testing::intent(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &names[..callers] {
            let allow = vec![call(Some("GET"), "/api/**"), call(Some("POST"), "/api/pins/*")];
            testing::allow(&mut intent, "prod/board", Caller::Service(testing::name(name)), allow);
        }
        let text = "forbid(principal, action == Action::\"call\", resource) when { context.path like \"/admin/*\" && principal.namespace != \"ops\" };\n";
        testing::policies(&mut intent, &text.repeat(policies));
        let engine = testing::engine(&intent, "prod/board");
        let id = testing::id(&names[0]);
        let request = CallRequest { path: "/api/pins", ..testing::request(&id) };
        let rounds = 20_000;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert!(std::hint::black_box(engine.decide(std::hint::black_box(&request))).allowed);
        }
        println!("{title}: {:.2} us a decision", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    }
}
