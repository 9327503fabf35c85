//! Our proxy and a real Envoy, with the same filter and the same ext_authz server: both ask the same, and make the same of each answer.

#![allow(clippy::unwrap_used)]

mod bodies;
mod server;
mod subject;

use serde_json::{Value, json};
use weft_tests::app::App;
use weft_tests::curl::{self, Reply};
use weft_tests::log;

use crate::server::Server;
use crate::subject::{Spec, Subject, envoy, weft};

/// Paths, and what is sent beside.
const CALLS: [(&str, &[&str]); 23] = [
    ("/ok", &[]),
    (
        "/ok?a=1",
        &[
            "-X",
            "POST",
            "-d",
            "hello",
            "-H",
            "x-two: 1",
            "-H",
            "x-two: 2",
            "-H",
            "connection: x-mine",
            "-H",
            "x-mine: 1",
        ],
    ),
    ("/nothing", &[]),
    ("/headers", &THERE),
    ("/append", &THERE),
    ("/path", &[]),
    ("/query?a=1&b=2&c=3", &[]),
    ("/response", &[]),
    ("/api/fields", &[]),
    ("/remove", &THERE),
    ("/empty?a=1&b=2", &THERE),
    ("/deny", &[]),
    ("/deny-no-status", &[]),
    ("/deny-cookies", &[]),
    ("/error", &[]),
    ("/error-plain", &[]),
    ("/deny", &["-I"]),
    ("/deny-grpc", &["-H", "content-type: application/grpc"]),
    ("/deny", &["-H", "content-type: application/grpc"]),
    ("/deny-by-default", &[]),
    ("/deny-in-ok", &[]),
    ("/fails", &[]),
    ("/silent", &[]),
];

const THERE: [&str; 10] =
    ["-H", "x-there: old", "-H", "x-there-2: old", "-H", "x-there-3: old", "-H", "x-there-4: old", "-H", "x-gone: old"];

/// What the caller, the app and the log were told.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: u16,
    fields: Vec<(String, String)>,
    body: Value,
    log: [Value; 7],
}

/// Differs from call to call, or is of the two proxies' own.
const OWN: [&str; 8] = [
    "date",
    "x-request-id",
    "traceparent",
    "tracestate",
    "proxy-status",
    "x-envoy-upstream-service-time",
    "content-length",
    "server",
];

fn outcome(reply: &Reply, line: &Value) -> Outcome {
    let is_shared = |name: &str| !OWN.contains(&name);
    let mut fields: Vec<_> = reply.headers.iter().filter(|(name, _)| is_shared(name)).cloned().collect();
    fields.sort();
    let mut body = serde_json::from_str(&reply.body).unwrap_or_else(|_| json!(reply.body));
    if let Some(headers) = body.get_mut("headers").and_then(Value::as_array_mut) {
        headers.retain(|pair| is_shared(pair[0].as_str().unwrap()));
        headers.sort_by_key(Value::to_string);
    }
    if let Some(problem) = body.as_object_mut() {
        // Envoy has no words of its own.
        problem.retain(|key, _| !["request_id", "detail"].contains(&&**key));
    }
    let keys = [
        "response_code",
        "response_flags",
        "response_code_details",
        "decision",
        "decision_id",
        "policy",
        "authz_failed_open",
    ];
    Outcome { status: reply.status, fields, body, log: keys.map(|key| line[key].clone()) }
}

fn outcomes(subject: &Subject) -> Vec<Outcome> {
    let log = subject.folder.path().join("access.json");
    let replies: Vec<_> = CALLS
        .iter()
        .enumerate()
        .map(|(number, (target, args))| {
            let id = format!("x-request-id: {}-{number}", subject.name);
            curl::get(subject.at, "board.prod", target, &[&["-H", &*id], *args].concat())
        })
        .collect();
    let each = replies.iter().enumerate();
    each.map(|(number, reply)| {
        let id = format!("{}-{number}", subject.name);
        let line = log::wait_line(&log, &format!("the line of {id}"), |line| line["request_id"] == *id);
        outcome(reply, &line)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ask_the_same_and_make_the_same_of_each_answer() {
    let server = Server::default();
    let authz = server.start().await;
    let app = tokio::task::spawn_blocking(|| App::start("v1")).await.unwrap();
    for rest in ["timeout: 500ms", "timeout: 500ms, failOpen: true"] {
        let spec = Spec { app: app.address(), authz, rest, body: None };
        let of = |subject: Subject| {
            let server = server.clone();
            tokio::task::spawn_blocking(move || (outcomes(&subject), server.take()))
        };
        let (ours, our_questions) = of(weft(&spec).await).await.unwrap();
        let (theirs, their_questions) = of(envoy(&spec)).await.unwrap();
        for (((target, args), ours), theirs) in CALLS.iter().zip(&ours).zip(&theirs) {
            assert_eq!(ours, theirs, "{rest}: {target} {args:?}, weft beside envoy");
        }
        assert_eq!(our_questions.len(), CALLS.len());
        for (ours, theirs) in our_questions.iter().zip(&their_questions) {
            assert_eq!(ours, theirs, "{rest}, weft beside envoy");
        }
    }
}
