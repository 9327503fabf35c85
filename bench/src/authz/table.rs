//! The results for people.

use std::collections::BTreeMap;

use super::{Case, Checks, Pair, Pairs};
use crate::report;

const HEAD: &str = "\
| policies | weft p50, us | weft p99, us | weft calm p99, us | cedar p50, us | cedar p99, us | weft / cedar, p50 | load, ms | resident, MiB |
|---|---|---|---|---|---|---|---|---|
";

/// A Markdown table.
pub(crate) fn table(results: &BTreeMap<usize, Case>) -> String {
    let mut text = HEAD.to_owned();
    for (policies, case) in results {
        let Case { weft, calm_p99, cedar, load_ms, rss_kib } = case;
        let ratio = weft.p50 / cedar.p50;
        text += &format!(
            "| {policies} | {:.1} | {:.1} | **{calm_p99:.1}** | {:.0} | {:.0} | **{ratio:.4}x** | {load_ms:.0} | {:.1} |\n",
            weft.p50,
            weft.p99,
            cedar.p50,
            cedar.p99,
            *rss_kib as f64 / 1024.0
        );
    }
    text
}

/// A Markdown table of the checks over ext_authz; nothing if there were none.
pub(crate) fn checks(checks: Option<Checks>) -> String {
    let Some(checks) = checks else { return String::new() };
    let Checks { weft, plain } = checks;
    format!(
        "\n| checks of ext_authz per second of the server's CPU | |\n|---|---|\n| weft, every check decided | {weft:.0} |\n\
         | tonic alone | {plain:.0} |\n| **weft / tonic alone** | **{:.2}x** |\n\n",
        checks.ratio()
    )
}

/// A Markdown table of the calls through two sidecars; nothing if there were none.
pub(crate) fn pairs(pairs: Option<Pairs>) -> String {
    let Some(Pairs { weft, envoy }) = pairs else { return String::new() };
    let row = |name: &str, pair: Pair| format!("| {name} | {:.1} | {:.0} |\n", pair.cpu_us, pair.p99_us);
    format!(
        "| through two sidecars, 32 connections | CPU of both, agents included, us a request | p99, us |\n|---|---|---|\n{}{}\
         | **weft / Envoy** | **{:.2}x** | **{:.2}x** |\n\n",
        row("weft, which decides itself", weft),
        row("Envoy, which asks over ext_authz", envoy),
        weft.cpu_us / envoy.cpu_us,
        weft.p99_us / envoy.p99_us,
    )
}

/// The tables with where they were taken.
pub(crate) fn page(results: &BTreeMap<usize, Case>, seen: Option<Checks>, both: Option<Pairs>) -> String {
    format!("On {}.\n\n{}{}{}", report::machine(), table(results), checks(seen), pairs(both))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Times;

    #[test]
    fn rows_are_numbers_of_policies() {
        let times = |p50, p99| Times { p50, p99 };
        let case =
            Case { weft: times(1.0, 2.26), calm_p99: 1.5, cedar: times(500.0, 900.4), load_ms: 12.6, rss_kib: 2048 };
        let text = table(&BTreeMap::from([(1_000, case)]));
        assert_eq!(text.lines().nth(2), Some("| 1000 | 1.0 | 2.3 | **1.5** | 500 | 900 | **0.0020x** | 13 | 2.0 |"));
    }
}
