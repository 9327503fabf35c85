//! The same calls are decided alike, for the same reasons, by our data plane and by Envoy with the policies behind ext_authz, and by both
//! when they ask the control plane.

mod cases;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use weft_tests::app::{App, echo_bytes};
use weft_tests::curl::Reply;
use weft_tests::mesh::Mesh;
use weft_tests::process::run;
use weft_tests::sidecar::DataPlane::{self, Envoy, Weft};
use weft_tests::sidecar::{Sidecar, Spec};
use weft_tests::{curl, log, ports, wait};

use cases::{Ask, BATCH, GLASS, GROUPS, Group, OF_BYTES, REPORT, STAGING, WEB};

/// What the caller was told and what the callee's log says.
#[derive(Debug, PartialEq)]
struct Outcome {
    call: String,
    status: u16,
    grpc_status: Option<String>,
    cause: Value,
    detail: String,
    decision: Value,
    policy: Value,
    shadow: Value,
}

/// A mesh with all callers and callees.
struct World {
    callers: Vec<(&'static str, Sidecar)>,
    board: Sidecar,
    lax: Sidecar,
    tally: Sidecar,
    /// Alice's.
    key: std::path::PathBuf,
    mesh: Mesh,
    _app: App,
    _keys: tempfile::TempDir,
}

impl World {
    /// Of callees whose sidecars decide by themselves, or ask the control plane.
    fn start(data_plane: DataPlane, authorization: &str) -> Self {
        let keys = tempfile::tempdir().expect("a temporary folder");
        let key = keys.path().join("alice");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f"]).arg(&key));
        let public = std::fs::read_to_string(key.with_extension("pub")).expect("a public key");
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("authz");
        let mesh = Mesh::start_from(&template, |repo| {
            // At the end of the documents of prod/board and prod/tally: no line moves, and each stands in the reason of a decision.
            for file in ["services/all.yaml", "services/tally.yaml", "services/lax.yaml"] {
                let services = repo.read(file);
                repo.write(file, &format!("{services}authorization: {authorization}\n"));
            }
            repo.write("operators.yaml", &format!("kind: Operator\nname: alice\nsshKeys: [{}]\n", public.trim()));
            let glass = "permit (principal == Operator::\"alice\", action == Action::\"breakGlass\", resource);\n";
            repo.write("policies/glass.cedar", glass);
        });
        let app = App::start("v1");
        let callee =
            |name: &str, address| mesh.sidecar(name, Spec::new(&format!("prod/{name}"), address).on(data_plane));
        let (board, lax, tally) =
            (callee("board", app.address()), callee("lax", app.address()), callee("tally", echo_bytes()));
        mesh.wait_endpoints("prod/tally", 1);
        let callers = [WEB, REPORT, STAGING, BATCH]
            .map(|caller| (caller, mesh.sidecar(&caller.replace('/', "-"), Spec::new(caller, ports::free()))));
        for (caller, sidecar) in &callers {
            sidecar.wait_knows(&board);
            if *caller == WEB {
                sidecar.wait_knows(&lax);
            }
        }
        Self { callers: callers.into(), board, lax, tally, key, mesh, _app: app, _keys: keys }
    }

    fn caller(&self, name: &str) -> &Sidecar {
        &self.callers.iter().find(|(caller, _)| *caller == name).expect("it is started").1
    }

    fn call(&self, caller: &str, host: &str, (method, target, headers): &Ask, id: &str) -> Reply {
        let (mut host, id) = (host, format!("x-request-id: {id}"));
        // curl would wait for the body that an answer to HEAD does not have.
        let mut args = if *method == "HEAD" { vec!["-I"] } else { vec!["-X", method] };
        args.extend(["-H", &*id]);
        for header in headers.lines() {
            match header.strip_prefix("host: ") {
                Some(other) => host = other,
                None => args.extend(["-H", header]),
            }
        }
        curl::get(self.caller(caller).egress, host, target, &args)
    }

    /// What becomes of the calls of these groups; `when` tells them from others.
    fn outcomes(&self, groups: &[Group], when: &str) -> Vec<Outcome> {
        let mut replies = Vec::new();
        for group in groups {
            for caller in group.callers {
                for ask in group.asks {
                    let (method, target, headers) = ask;
                    let call =
                        format!("{when}{caller} {method} {}{target} {}", group.host, headers.replace('\n', ", "));
                    let id = format!("{}{}", when.trim_end(), replies.len());
                    let reply = self.call(caller, group.host, ask, &id);
                    replies.push((call, id, reply));
                }
            }
        }
        // Envoy writes its log now and then: all lines are waited for at once.
        let lines = wait::until("a log line of each call", wait::SOON, || {
            let lines = [&self.board, &self.lax].map(|callee| log::json_lines(&callee.access_log));
            let by_id: HashMap<String, Value> = lines
                .into_iter()
                .flatten()
                .filter_map(|line| Some((line["request_id"].as_str()?.to_owned(), line)))
                .collect();
            let missing: Vec<_> = replies.iter().filter(|(_, id, _)| !by_id.contains_key(id)).collect();
            if missing.is_empty() { Ok(by_id) } else { Err(format!("none of {missing:#?}")) }
        });
        replies.into_iter().map(|(call, id, reply)| outcome(call, &reply, &lines[&id])).collect()
    }

    fn of_bytes(&self) -> Vec<Outcome> {
        let said = OF_BYTES.iter().map(|caller| (*caller, self.says_hello(caller)));
        let said: Vec<_> = said.collect();
        let outcome = |(caller, heard): (&str, bool)| {
            let id = format!("spiffe://test.internal/ns/{}", caller.replace('/', "/sa/"));
            let line =
                log::wait_line(&self.tally.access_log, &format!("a line of {caller}"), |line| line["peer_id"] == *id);
            Outcome {
                call: format!("{caller} tally.prod, {}", if heard { "heard" } else { "not heard" }),
                status: 0,
                grpc_status: None,
                cause: Value::Null,
                detail: String::new(),
                decision: line["decision"].clone(),
                policy: line["policy"].clone(),
                shadow: line["shadow"].clone(),
            }
        };
        said.into_iter().map(outcome).collect()
    }

    /// Whether a caller of the database hears what it says.
    fn says_hello(&self, caller: &str) -> bool {
        let mut stream = TcpStream::connect(self.caller(caller).egress).expect("the egress listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("a timeout");
        stream.write_all(b"CONNECT tally.prod:5432 HTTP/1.1\r\nhost: tally.prod:5432\r\n\r\n").expect("it reads");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if !stream.read(&mut byte).is_ok_and(|length| length == 1) {
                return false;
            }
            head.push(byte[0]);
        }
        let _ = stream.write_all(b"hello");
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).is_ok() && &heard == b"hello"
    }

    fn break_glass(&self) {
        let key = self.key.display().to_string();
        let args = ["policy", "break-glass", "--as", "alice", "--for", "10m", "--reason", "a test", "--key", &key];
        let output = self.mesh.weft(&args);
        assert!(output.status.success(), "{output:?}");
        wait::until("the glass to be broken", wait::SOON, || {
            let reply = self.call(WEB, GLASS.host, &GLASS.asks[0], "probe");
            if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
}

fn outcome(call: String, reply: &Reply, line: &Value) -> Outcome {
    let problem: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    // A gRPC caller is told by the status, and the reason is followed by the decision's id.
    let detail = match reply.header("grpc-message") {
        Some(message) => message.split(" (decision").next().unwrap_or_default().replace("%3B", ";"),
        None => problem["detail"].as_str().unwrap_or_default().to_owned(),
    };
    Outcome {
        call,
        status: reply.status,
        grpc_status: reply.header("grpc-status").map(str::to_owned),
        cause: problem["cause"].clone(),
        detail,
        decision: line["decision"].clone(),
        policy: line["policy"].clone(),
        shadow: line["shadow"].clone(),
    }
}

fn outcomes(data_plane: DataPlane, authorization: &str) -> Vec<Outcome> {
    let world = World::start(data_plane, authorization);
    let mut all = world.outcomes(GROUPS, "");
    all.extend(world.of_bytes());
    all.extend(world.outcomes(&[GLASS], "whole "));
    world.break_glass();
    all.extend(world.outcomes(&[GLASS], "broken "));
    all
}

#[test]
fn the_same_calls_are_decided_alike_on_both_data_planes() {
    const BY_SIDECAR: &str = "{by: sidecar}";
    const BY_SERVER: &str = "{by: server, timeout: 10s}";
    let both = |by: &'static str| {
        std::thread::scope(|scope| {
            let envoy = scope.spawn(move || outcomes(Envoy, by));
            (outcomes(Weft, by), envoy.join().expect("Envoy's calls have an outcome"))
        })
    };
    let (weft, envoy) = both(BY_SIDECAR);
    let different: BTreeSet<_> = weft.iter().map(|one| &one.call).collect();
    assert!(different.len() == weft.len() && weft.len() >= 200, "{} of {}", different.len(), weft.len());
    let (weft_asks, envoy_asks) = both(BY_SERVER);
    for (what, other) in [("Envoy", envoy), ("Weft, by server", weft_asks), ("Envoy, by server", envoy_asks)] {
        let differ: Vec<_> = weft.iter().zip(&other).filter(|(weft, other)| weft != other).collect();
        assert!(differ.is_empty(), "{what}: {} of {} differ: {differ:#?}", differ.len(), weft.len());
    }
    let told = |one: &Outcome| {
        let shadow = one.shadow.as_str().map(|shadow| format!("; shadow {shadow}")).unwrap_or_default();
        format!("{} -> {} {} {}{shadow}\n", one.call, one.status, one.decision, one.detail)
    };
    insta::assert_snapshot!(weft.iter().map(told).collect::<String>());
}
