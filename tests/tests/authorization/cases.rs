//! The calls: who makes them, of which service, and what they say.

/// Callers, the host that they call, and their calls: method, target, and headers, each on a line of its own. A header `host:` is sent in place
/// of the host.
pub(crate) struct Group {
    pub(crate) callers: &'static [&'static str],
    pub(crate) host: &'static str,
    pub(crate) asks: &'static [Ask],
}

pub(crate) type Ask = (&'static str, &'static str, &'static str);

pub(crate) const WEB: &str = "prod/web";
pub(crate) const REPORT: &str = "prod/report-daily";
pub(crate) const STAGING: &str = "staging/web";
pub(crate) const BATCH: &str = "ops/batch";

const BOARD: &str = "board.prod";
const LAX: &str = "lax.prod";

pub(crate) const GROUPS: &[Group] = &[
    Group { callers: &[WEB, REPORT], host: BOARD, asks: RULES },
    // Of another environment, and with rules that say so.
    Group {
        callers: &[STAGING],
        host: BOARD,
        asks: &[
            ("GET", "/api/", ""),
            ("GET", "/api/public", ""),
            ("GET", "/api/public;v=1", ""),
            ("POST", "/api/public", ""),
            ("GET", "/reports", ""),
            ("GET", "/open?tag=black", ""),
            ("GET", "/open", "x-plan: expired"),
            ("GET", "/overflow", ""),
        ],
    },
    Group {
        callers: &[WEB, REPORT, BATCH],
        host: BOARD,
        asks: &[
            ("GET", "/job/run/1", ""),
            ("GET", "/job/list", ""),
            ("DELETE", "/job/list", ""),
            ("GET", "/attribute/has", ""),
            ("GET", "/attribute/low", ""),
            ("GET", "/attribute/none", ""),
            ("GET", "/attribute/name", ""),
            ("GET", "/attribute/namespace", ""),
            ("GET", "/attribute/id", ""),
            ("GET", "/attribute/both", ""),
            ("GET", "/several/permits", ""),
            ("GET", "/several/permits/closed", ""),
            ("DELETE", "/several/permits/closed", ""),
            ("GET", "/shadow/open", ""),
            ("GET", "/shadow/closed", ""),
        ],
    },
    Group { callers: &[WEB], host: BOARD, asks: OF_WEB },
    Group {
        callers: &[WEB, BATCH],
        host: LAX,
        asks: &[("GET", "/ops", ""), ("GET", "/OPS", ""), ("GET", "/Admin/x", ""), ("POST", "/open/x", "")],
    },
    Group {
        callers: &[WEB],
        host: LAX,
        asks: &[
            ("GET", "/open/x", ""),
            ("GET", "/Open/X", ""),
            ("GET", "/OPEN/%41", ""),
            ("GET", "/open//x", ""),
            ("GET", "/a/x/b", ""),
            ("GET", "/a//b", ""),
            ("GET", "/A/%C3%89/B", ""),
            ("GET", "/open/x%2Fy", ""),
            ("GET", "/admin", ""),
            ("GET", "//admin", ""),
            ("GET", "/open/../aDmin", ""),
            ("GET", "/admin%2Fx", ""),
            ("GET", "/open/admin", ""),
        ],
    },
];

/// While the glass is whole, and while it is broken.
pub(crate) const GLASS: Group = Group {
    callers: &[WEB, BATCH],
    host: BOARD,
    asks: &[("GET", "/glass/opens", ""), ("GET", "/glass/lifts", ""), ("GET", "/glass/closes", "")],
};

const RULES: &[Ask] = &[
    ("GET", "/api/", ""),
    ("GET", "/api", ""),
    ("GET", "/api/a/b/c?x=1", ""),
    ("GET", "/api/%70ins", ""),
    ("GET", "//api///a", ""),
    ("GET", "/x/../api/a", ""),
    ("GET", "/x/%2e%2e/api/a", ""),
    ("GET", "/apix", ""),
    ("GET", "/API/", ""),
    ("PUT", "/api/", ""),
    ("DELETE", "/api/a", ""),
    ("GET", "/api/public", ""),
    ("GET", "/api/public;v=1", ""),
    ("GET", "/api/secrets/x", ""),
    ("GET", "/api/secrets", ""),
    ("GET", "/api//secrets", ""),
    ("GET", "/api/secrets;x/y", ""),
    ("GET", "/api/%73ecrets", ""),
    ("POST", "/pins/7/notes", ""),
    ("POST", "/pins/7/8/notes", ""),
    ("POST", "/pins//notes", ""),
    ("GET", "/reports", ""),
    ("GET", "/reports/2026/11", ""),
    ("POST", "/reports", ""),
    ("POST", "/reports/x", ""),
    ("GET", "/open", ""),
    ("GET", "/open/", ""),
    ("GET", "/open?tag=black", ""),
    ("GET", "/open?tag=red&tag=black", ""),
    ("GET", "/open?tag=%62lack", ""),
    ("GET", "/open?TAG=black", ""),
    ("GET", "/open", "x-plan: gold"),
    ("GET", "/open", "x-plan: expired"),
    ("GET", "/open", "X-Plan: gold, expired"),
    ("GET", "/tenants/a", "x-tenant: a"),
    ("GET", "/tenants/a/x", "x-tenant: a"),
    ("GET", "/tenants/a", "x-tenant: b"),
    ("GET", "/tenants/a", ""),
    ("GET", "/tags?tag=red", ""),
    ("GET", "/tags?tag=red&tag=blue", ""),
    ("GET", "/tags?tag", ""),
    ("POST", "/acme.Board/Get", "content-type: application/grpc"),
    ("POST", "/acme.Board/Erase", "content-type: application/grpc"),
    ("POST", "/acme.Board/Erase", "content-type: application/grpc-web"),
    ("GET", "/sni", ""),
    ("GET", "/no-sni", ""),
    ("GET", "/port", ""),
    ("GET", "/some-office", ""),
    ("GET", "/no-office", ""),
    ("GET", "/since-2020", ""),
    // Policies that cannot be evaluated.
    ("GET", "/overflow", ""),
    ("GET", "/overflow-too", ""),
];

const GRPC: &str = "content-type: application/grpc";

const OF_WEB: &[Ask] = &[
    ("GET", "/attribute/typo", ""),
    // gRPC.
    ("POST", "/acme.Hall/List", GRPC),
    ("POST", "/acme.Hall/List", "content-type: application/grpc+proto"),
    ("POST", "/acme.Hall/List", "content-type: application/grpc;charset=utf-8"),
    ("POST", "/acme.Hall/List", "content-type: application/grpcx"),
    ("POST", "/acme.Hall/List", ""),
    ("POST", "/acme.Hall/Lists", GRPC),
    ("POST", "/acme.hall/List", GRPC),
    ("POST", "/acme.Hall/List/more", GRPC),
    ("POST", "/acme.Hall", GRPC),
    ("POST", "/deep.a.b.Hall/Any", GRPC),
    ("GET", "/deep.Hall/Any", GRPC),
    // Queries.
    ("GET", "/query/all?tag=a&tag=b", ""),
    ("GET", "/query/all?tag=b&x=1&tag=c&tag=a", ""),
    ("GET", "/query/all?tag=a", ""),
    ("GET", "/query/all?tag=a,b", ""),
    ("GET", "/query/any?tag=c&tag=b", ""),
    ("GET", "/query/any?tag=c", ""),
    ("GET", "/query/any?t%61g=a", ""),
    ("GET", "/query/any?x=1;tag=a", ""),
    ("GET", "/query/any?x=?tag=a&tag=a", ""),
    ("GET", "/query/none", ""),
    ("GET", "/query/none?", ""),
    ("GET", "/query/none?tag", ""),
    ("GET", "/query/empty?tag=", ""),
    ("GET", "/query/empty?tag=&tag", ""),
    ("GET", "/query/empty?tag=&tag=x", ""),
    ("GET", "/query/space?tag=a+b", ""),
    ("GET", "/query/space?tag=a%20b", ""),
    ("GET", "/query/space?tag=a%2Bb", ""),
    ("GET", "/query/letter?tag=%C3%A9", ""),
    ("GET", "/query/letter?tag=%E9", ""),
    // Headers.
    ("GET", "/header/joined", "x-tenant: a\nx-tenant: b"),
    ("GET", "/header/joined", "x-tenant: a,b"),
    ("GET", "/header/joined", "x-tenant: a, b"),
    ("GET", "/header/joined", "x-tenant: b\nx-tenant: a"),
    ("GET", "/header/empty", "x-tenant;"),
    ("GET", "/header/empty", "x-tenant: -"),
    ("GET", "/header/like", "x-tenant: t-1-9"),
    ("GET", "/header/like", "x-tenant: T-1-9"),
    ("GET", "/header/like", "x-tenant:   t-  -9  "),
    ("GET", "/header/absent", ""),
    ("GET", "/header/absent", "x_tenant: a"),
    ("GET", "/header/absent", "X-TENANT: a"),
    ("GET", "/header/two", "x-tenant: a\nx-plan: a"),
    ("GET", "/header/two", "x-tenant: a\nx-plan: b"),
    ("GET", "/header/two", "x-tenant: a\nx-plan: a\nconnection: x-plan"),
    // Hosts, methods, protocols, addresses.
    ("GET", "/host", ""),
    ("GET", "/host", "host: board.prod:8080"),
    ("GET", "/host", "host: BOARD.Prod"),
    ("GET", "/method/safe", ""),
    ("HEAD", "/method/safe", ""),
    ("OPTIONS", "/method/safe", ""),
    ("POST", "/method/safe", ""),
    ("PATCH", "/method/p", ""),
    ("PURGE", "/method/p", ""),
    ("DELETE", "/method/p", ""),
    ("GET", "/protocol/2", ""),
    ("GET", "/protocol/1", ""),
    ("GET", "/source/near", ""),
    ("GET", "/source/far", ""),
    ("GET", "/source/far", "x-forwarded-for: 10.1.2.3"),
    // Paths.
    ("GET", "/deep/a/b", ""),
    ("GET", "/deep/a/b/", ""),
    ("GET", "/deep/a", ""),
    ("GET", "/deep/a/../b/c", ""),
    ("GET", "/deep//a/b", ""),
    ("GET", "/like/a/end", ""),
    ("GET", "/like/a/b/c/end", ""),
    ("GET", "/like/end", ""),
    ("GET", "/like/*/end", ""),
    ("GET", "/like/a/end;x", ""),
    ("GET", "/a/b/c/d/e/f/g/eight", ""),
    ("GET", "/a/b/c/d/e/f/g/eight/nine", ""),
    ("GET", "/a/b/c/d/e/f/eight", ""),
    ("GET", "/1/2/3/4/5/6/7/8/9", ""),
    ("GET", "/1/2/3/4/5/6/7/80", ""),
    ("GET", "/caf%c3%a9", ""),
    ("GET", "/caf%C3%A9/", ""),
    ("GET", "/caf%65%CC%81", ""),
    ("GET", LONG, ""),
    // Time.
    ("GET", "/time/zones", ""),
    ("GET", "/time/of-day", ""),
    ("GET", "/time/weekday", ""),
    ("GET", "/time/date", ""),
    ("GET", "/time/past", ""),
    // Errors beside what can be evaluated.
    ("GET", "/error/permits", ""),
    ("GET", "/error/forbids", ""),
    ("GET", "/error/later", ""),
    ("POST", "/error/later", ""),
    // Several that determine, and shadows beside them.
    ("DELETE", "/several/permits", ""),
    ("GET", "/several/shadow", ""),
    ("DELETE", "/several/shadow", ""),
    ("GET", "/shadow/open/error", ""),
    ("GET", "/shadow/open/other", ""),
    ("GET", "/shadow/twice", ""),
];

/// Longer than what a decision is remembered by.
const LONG: &str = match std::str::from_utf8(&LONG_BYTES) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

const LONG_BYTES: [u8; 1200] = {
    let mut bytes = [b'x'; 1200];
    (bytes[0], bytes[1], bytes[5]) = (b'/', b'y', b'/');
    bytes
};

/// Connections of bytes: each caller makes one.
pub(crate) const OF_BYTES: &[&str] = &[WEB, REPORT, BATCH];
