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
    ("/api//pins", Arrives("/api//pins")),
    ("/api/%252e%252e/admin", Arrives("/api/%252e%252e/admin")),
    ("/api/pins?next=/../admin", Arrives("/api/pins?next=/../admin")),
    ("/api/../admin/users", Denied),
    ("/api/%2e%2e/admin/users", Denied),
    ("/api/.%2E/admin/users", Denied),
    ("/%61dmin/users", Denied),
    ("//api/pins", Denied),
    ("/API/pins", Denied),
    ("/apix", Denied),
    ("/api/closed/%6frders", Denied),
    ("/api/%63losed/orders", Denied),
    ("/api/..%2fadmin", Refused),
    ("/api%2F..%2Fadmin", Refused),
    ("/api/..%5cadmin", Refused),
    ("/api/pins%00.html", Refused),
    ("/api/..;/admin", Stopped),
    ("/api/..\\admin", Stopped),
    ("/api/pins%zz", Stopped),
    ("/api/..%c0%af/admin", Arrives("/api/..%C0%AF/admin")),
];

pub(super) fn table(world: &World) {
    let mut wrong = Vec::new();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (target, fate) in TABLE {
            let before = world.reached();
            let reply = world.curl("board.prod", target, &[version]);
            let arrived = world.reached() > before;
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
