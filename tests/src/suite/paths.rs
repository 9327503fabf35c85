//! One table of confusing paths. What policy decides on is what the app receives, byte for byte.

use super::World;
use crate::curl::Reply;

/// What becomes of a request target.
enum Fate {
    /// The app receives this one. The case of hexadecimal digits may differ: Envoy keeps it, we write capitals (RFC 3986 s.6.2.2.1).
    Arrives(&'static str),
    /// Policy denies it (403).
    Denied,
    /// No two readers agree on it, so it is refused before policy (400).
    Refused,
    /// One reader repairs it, another refuses it; either way it must not arrive (400 or 403).
    Stopped,
}
use Fate::{Arrives, Denied, Refused, Stopped};

/// `prod/web` may GET `/api/**` and nothing under `/admin`.
const TABLE: &[(&str, Fate)] = &[
    ("/api/pins", Arrives("/api/pins")),
    ("/api/./pins", Arrives("/api/pins")),
    ("/api/x/../pins", Arrives("/api/pins")),
    ("/admin/../api/pins", Arrives("/api/pins")),
    ("/api/p%69ns", Arrives("/api/pins")),
    ("/api/caf%c3%a9", Arrives("/api/caf%C3%A9")),
    ("/api//pins", Arrives("/api/pins")),
    ("//api///pins//", Arrives("/api/pins/")),
    ("/api/cars;lot=1/red", Arrives("/api/cars;lot=1/red")),
    ("/api/a%3Bb", Arrives("/api/a%3Bb")),
    ("/api/%252e%252e/admin", Arrives("/api/%252e%252e/admin")),
    ("/api/pins?next=/../admin", Arrives("/api/pins?next=/../admin")),
    ("/api/../admin/users", Denied),
    ("/api/%2e%2e/admin/users", Denied),
    ("/api/.%2E/admin/users", Denied),
    ("/%61dmin/users", Denied),
    ("//admin/users", Denied),
    ("///api/closed/orders", Denied),
    ("/api//closed/orders", Denied),
    ("//api//closed;x/orders", Denied),
    ("/api;v=1/closed/orders", Denied),
    ("/api/closed;v=1/orders", Denied),
    ("/admin;x/users", Denied),
    ("/;/admin/users", Refused),
    ("/;x=y/api/pins", Refused),
    ("/api/;/pins", Refused),
    ("/api//;x", Refused),
    ("/API/pins", Denied),
    ("/apix", Denied),
    ("/api/closed/%6frders", Denied),
    ("/api/%63losed/orders", Denied),
    ("/api/..%2fadmin", Refused),
    ("/api%2F..%2Fadmin", Refused),
    ("/api/..%5cadmin", Refused),
    ("/api/pins%00.html", Refused),
    ("/api/pins%0A", Refused),
    ("/api/%0d%0apins", Refused),
    ("/api/pins%7f", Refused),
    ("/api/..;/admin", Stopped),
    ("/api/..\\admin", Stopped),
    ("/api/pins%zz", Stopped),
    ("/api/..%c0%af/admin", Refused),
];

pub(super) fn table(world: &World) {
    assert_table(world, "board.prod", TABLE, || world.reached());
}

fn assert_table(world: &World, host: &str, table: &[(&str, Fate)], reached: impl Fn() -> u64) {
    let mut wrong = Vec::new();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (target, fate) in table {
            let before = reached();
            let reply = world.curl(host, target, &[version]);
            let arrived = reached() > before;
            let right = match fate {
                Arrives(wanted) => reply.status == 200 && arrived_as(&reply, wanted),
                Denied => reply.status == 403 && !arrived,
                Refused => reply.status == 400 && !arrived,
                Stopped => matches!(reply.status, 400 | 403) && !arrived,
            };
            if !right {
                wrong.push(format!("{version} {target}: {} {}", reply.status, reply.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn arrived_as(reply: &Reply, wanted: &str) -> bool {
    reply.json()["target"].as_str().is_some_and(|target| target.eq_ignore_ascii_case(wanted))
}

/// What becomes of a path of a service that keeps slashes, encoded and in a row.
const KEPT: &[(&str, Fate)] = &[
    ("/api//pins", Arrives("/api//pins")),
    ("/api/a%2F/b", Arrives("/api/a%2F/b")),
    ("//api/pins", Denied),
    ("/api//closed/orders", Denied),
    ("/api/;/pins", Refused),
    ("/api/a%2Fb", Arrives("/api/a%2Fb")),
    ("/api/a%2fb", Arrives("/api/a%2Fb")),
    ("/api/x/../a%2Fb", Arrives("/api/a%2Fb")),
    ("/api/%2F", Arrives("/api/%2F")),
    ("/api/pins", Arrives("/api/pins")),
    ("/api%2Fpins", Denied),
    ("/admin%2Fusers", Denied),
    // The forbid on `/api/closed*`, for an app to which it is a slash.
    ("/api%2Fclosed/orders", Denied),
    ("/api/%2Fclosed/orders", Denied),
    ("/api/closed%2Forders", Denied),
    ("/api/..%2fadmin", Refused),
    ("/api/x%2F..%2Fclosed", Refused),
    ("/api/..%5cadmin", Refused),
    ("/api/a%5cb", Refused),
    ("/api/pins%00.html", Refused),
];

pub(super) fn kept_slashes(world: &World) {
    assert_table(world, "registry.prod", KEPT, || world.registry_app.requests());
    // Refused by the callee, since the caller's egress is for all services; as clearly as elsewhere.
    let refused = world.curl("board.prod", "/api/a%2Fb", &[]);
    let problem = refused.json();
    assert_eq!((refused.status, &problem["layer"]), (400, &"client".into()), "{problem:#}");
    assert!(problem["request_id"].is_string(), "{problem:#}");
}
