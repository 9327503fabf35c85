//! Request headers that only the mesh may set.

/// What the mesh says about a caller. Taken off every request as it comes in, at both ends, before anything reads it.
pub const IDENTITY: [&str; 3] = ["x-weft-principal", "x-weft-decision-id", "x-weft-source"];

/// Of an answer that an ingress made: no app began to work on the request, so the caller's sidecar may ask another endpoint.
/// Taken off what apps answer, and off what callers get.
pub const UNTOUCHED: &str = "x-weft-untouched";

/// CGI's variables of the path (RFC 3875 s.4.1.5, s.4.1.13). Some app servers believe them of whoever calls from loopback, which is
/// where a sidecar calls from, and the path that was decided on would not be the one that is served.
pub const PATH: [&str; 2] = ["script-name", "path-info"];

/// Tells the app, and the log, that nobody could be asked whether this call is allowed, and that it is let through all the same.
pub const FAILED_OPEN: &str = "x-envoy-auth-failure-mode-allowed";

/// Who calls, as the ingress tells the app. Envoy itself takes it off in this spelling.
pub const CERTIFICATE: &str = "x-forwarded-client-cert";

/// Dashes and underscores of a name that are spelled in every way.
const DASHES_MAX: u32 = 8;

/// The spellings of a name that applications behind CGI or WSGI cannot tell from it: any of its dashes as an underscore, and the other way round.
///
/// Of a name with more than [`DASHES_MAX`] those alone in which the last ones stay: there are twice as many with each.
pub(crate) fn look_alikes(name: &str) -> impl Iterator<Item = String> {
    let dashes = (name.matches(['-', '_']).count() as u32).min(DASHES_MAX);
    (1..1u32 << dashes).map(move |others| {
        let mut dash = 0;
        let spell = |c: char| {
            let other = match c {
                '-' => '_',
                '_' => '-',
                _ => return c,
            };
            dash += 1;
            if dash <= dashes && others >> (dash - 1) & 1 == 1 { other } else { c }
        };
        name.chars().map(spell).collect()
    })
}

/// What steers Envoy per request. Whoever may set these could retry what must not be retried, lift the route's timeout or forge
/// the path in the log, so they are taken off as well.
pub const STEERING: [&str; 15] = [
    FAILED_OPEN,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_looks_like_itself_with_dashes_for_underscores_and_the_other_way_round() {
        let all = |name| look_alikes(name).collect::<Vec<_>>();
        assert_eq!(all("x-a"), ["x_a"]);
        assert_eq!(all("x-a-b"), ["x_a-b", "x-a_b", "x_a_b"]);
        assert_eq!(all("x_a-b"), ["x-a-b", "x_a_b", "x-a_b"]);
        assert!(all("plain").is_empty());
        let many = all("a-b-c-d-e-f-g-h-i-j");
        assert_eq!((many.len(), many.last().map(String::as_str)), (255, Some("a_b_c_d_e_f_g_h_i-j")));
    }
}
