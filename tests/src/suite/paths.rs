//! One table of confusing paths. What policy decides on is what the app receives, byte for byte.

use super::World;

/// What becomes of a request target.
enum Fate {
    /// The app receives this one.
    Arrives(&'static str),
    /// Policy denies it (403).
    Denied,
    /// No two readers agree on it, so it is refused before policy (400).
    Refused,
}
use Fate::{Arrives, Denied, Refused};

/// `prod/web` may GET `/api/**` and nothing under `/admin`.
const TABLE: &[(&str, Fate)] = &[
    ("/api/pins", Arrives("/api/pins")),
    ("/api/./pins", Arrives("/api/pins")),
    ("/api/x/../pins", Arrives("/api/pins")),
    ("/admin/../api/pins", Arrives("/api/pins")),
    ("/api/p%69ns", Arrives("/api/pins")),
    ("/api/caf%c3%a9", Arrives("/api/caf%C3%A9")),
    ("/api//pins", Arrives("/api//pins")),
    ("/api/..;/admin", Arrives("/api/..;/admin")),
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
];

pub(super) fn table(world: &World) {
    let mut wrong = Vec::new();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (target, fate) in TABLE {
            let before = world.reached();
            let reply = world.curl("board.prod", target, &[version]);
            let arrived = world.reached() > before;
            let right = match fate {
                Arrives(wanted) => reply.status == 200 && reply.json()["target"] == *wanted,
                Denied => reply.status == 403 && !arrived,
                Refused => reply.status == 400 && !arrived,
            };
            if !right {
                wrong.push(format!("{version} {target}: {} {}", reply.status, reply.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
