//! Request headers that only the mesh may set.

/// What the mesh says about a caller. Taken off every request as it comes in, at both ends, before anything reads it.
pub const IDENTITY: [&str; 3] = ["x-weft-principal", "x-weft-decision-id", "x-weft-source"];

/// What steers Envoy per request. Whoever may set these could retry what must not be retried, lift the route's timeout or forge
/// the path in the log, so they are taken off as well.
pub const STEERING: [&str; 14] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-original-path",
    "x-envoy-force-trace",
    "x-client-trace-id",
];
