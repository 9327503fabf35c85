//! The same decisions as the other implementations of Cedar's interface give: `cedarpy`, and `@cedar-policy/cedar-wasm` in Node.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use weft_policy::testing::{self, Choices};
use weft_policy::{Bundle, CallRequest, Engine, ServiceFacts};
use weft_tests::peers;

/// Bundles, and calls to each.
const BUNDLES: usize = 250;
const CALLS: usize = 4;

/// A decision as all can say it.
#[derive(Debug, PartialEq, Eq)]
struct Decided {
    allowed: bool,
    /// Those that determine it, and those that cannot be evaluated.
    policies: BTreeSet<String>,
    errors: BTreeSet<String>,
}

/// Bytes that are the same on every run, and look like none.
fn bytes(seed: usize, count: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn entity(facts: &ServiceFacts) -> Value {
    let mut attributes: serde_json::Map<String, Value> =
        facts.attributes.iter().map(|(name, value)| (name.to_string(), json!(**value))).collect();
    for (name, value) in [("name", facts.name.name()), ("namespace", facts.name.namespace())] {
        attributes.insert(name.to_owned(), json!(value));
    }
    let roles = facts.roles.iter().map(|role| json!({"type": "Role", "id": **role}));
    let parents: Vec<Value> =
        [json!({"type": "Namespace", "id": facts.name.namespace()})].into_iter().chain(roles).collect();
    json!({"uid": {"type": "Service", "id": facts.name.as_str()}, "attrs": attributes, "parents": parents})
}

fn context(request: &CallRequest<'_>) -> Value {
    let slashes: Vec<usize> = request.path.match_indices('/').map(|(at, _)| at).collect();
    let mut context = json!({
        "method": request.method,
        "path": request.path,
        "depth": slashes.len(),
        "host": request.host,
        "protocol": request.protocol,
    });
    for n in 1..=slashes.len() {
        let end = slashes.get(n).copied().unwrap_or(request.path.len());
        context[format!("first{n}")] = json!(request.path[..end]);
    }
    if let Some(ip) = request.source_ip {
        context["sourceIp"] = json!({"__extn": {"fn": "ip", "arg": ip.to_string()}});
    }
    context
}

/// All that a peer needs to decide, and what we decide: with the policies by their position in the bundle.
fn case(seed: usize) -> (Value, Vec<Decided>) {
    let bytes = bytes(seed, 3_000);
    let mut choices = Choices::new(&bytes);
    let bundle: Bundle = testing::random_bundle(&mut choices, 1 + seed % 12);
    let engine = Engine::new(&bundle).expect("an engine");
    let (mut requests, mut decided) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let (caller, [method, path, host, protocol], source_ip) = testing::random_call(&mut choices);
        let request = CallRequest { method, path, host, protocol, source_ip, ..testing::request(&caller) };
        let name = caller.service().expect("a service");
        requests.push(json!({"principal": name.as_str(), "context": context(&request)}));
        let decision = engine.decide(&request);
        let id = |line: u32| format!("policy{}", line - 1);
        let broken = |error: &String| {
            let (_, place) = error.split_once(':').expect("its place");
            id(place.split(' ').next().and_then(|line| line.parse().ok()).expect("its line"))
        };
        decided.push(Decided {
            allowed: decision.allowed,
            policies: decision.policies.iter().map(|policy| id(policy.line)).collect(),
            errors: decision.errors.iter().map(broken).collect(),
        });
    }
    let policies: Vec<&str> = bundle.policies.iter().map(|policy| &*policy.text).collect();
    let entities: Vec<Value> = bundle.callers.iter().chain([&bundle.service]).map(entity).collect();
    (json!({"policies": policies, "entities": entities, "requests": requests}), decided)
}

/// What a peer says of a call: our rule on errors is applied to it.
fn by_peer(case: &Value, answer: &Value) -> Decided {
    let ids = |of: &Value| -> BTreeSet<String> {
        of.as_array().expect("a list").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
    };
    let (reasons, errors) = (ids(&answer["reasons"]), ids(&answer["errors"]));
    let is_forbid = |id: &String| {
        let at: usize = id.strip_prefix("policy").and_then(|at| at.parse().ok()).expect("an id by position");
        case["policies"][at].as_str().expect("a policy").starts_with("forbid")
    };
    let broken: BTreeSet<String> = errors.iter().filter(|id| is_forbid(id)).cloned().collect();
    let denied_by_error = !broken.is_empty() && !reasons.iter().any(is_forbid);
    Decided {
        allowed: answer["allowed"].as_bool().expect("true or false") && !denied_by_error,
        policies: if denied_by_error { broken } else { reasons },
        errors,
    }
}

/// Gives a peer all cases at once, and asks for an answer a call.
fn agrees(mut peer: Command) {
    let (cases, ours): (Vec<Value>, Vec<Vec<Decided>>) = (0..BUNDLES).map(case).unzip();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cases.json");
    std::fs::write(&file, serde_json::to_vec(&cases).expect("JSON")).expect("it is written");
    let output = peer.arg(&file).stderr(Stdio::inherit()).output().expect("the peer runs");
    assert!(output.status.success(), "{}", output.status);
    let answers: Vec<Vec<Value>> = serde_json::from_slice(&output.stdout).expect("what the peer prints");
    assert_eq!(answers.len(), BUNDLES);
    let (mut allowed, mut errors) = (0, 0);
    for ((case, ours), answers) in cases.iter().zip(&ours).zip(&answers) {
        assert_eq!(answers.len(), CALLS);
        for ((request, ours), answer) in case["requests"].as_array().expect("a list").iter().zip(ours).zip(answers) {
            assert_eq!(*ours, by_peer(case, answer), "{request:#}\n{:#}", case["policies"]);
            allowed += usize::from(ours.allowed);
            errors += usize::from(!ours.errors.is_empty());
        }
    }
    // Calls of each kind were among them.
    let all = BUNDLES * CALLS;
    assert!((all / 10..all * 9 / 10).contains(&allowed), "{allowed} of {all} allowed");
    assert!((all / 10..all * 9 / 10).contains(&errors), "{errors} of {all} with a policy that cannot be evaluated");
}

#[test]
fn cedarpy_decides_the_same() {
    let mut python = Command::new(peers::venv("python"));
    python.arg(peers::script("cedar_decide.py"));
    agrees(python);
}

#[test]
fn cedar_wasm_decides_the_same() {
    let mut node = Command::new("node");
    node.arg(peers::script("cedar_decide.cjs")).env("NODE_PATH", peers::node_modules());
    agrees(node);
}
