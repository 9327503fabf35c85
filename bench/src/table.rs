//! The results for people: medians, with the span of the rounds behind what is compared most.

use std::collections::BTreeSet;

use crate::counts::{Count, Counts};
use crate::report::{Case, Results, Sample, ratio};
use crate::spread::{ends, median};
use crate::subject::{NAMES, label};

const HEAD: &str = "\
| connections | subject | CPU, us/request (min-max) | user instructions/request (min-max) | system calls/request (min-max) | p50, us | p99, us | resident, each | requests/s |
|---|---|---|---|---|---|---|---|---|
";

/// A Markdown table, and below it why a column is empty, if one is.
pub(crate) fn table(results: &Results) -> String {
    let mut text = HEAD.to_owned();
    for (connections, subjects) in results {
        for name in NAMES {
            if let Some(case) = subjects.get(name) {
                text +=
                    &format!("| {connections} | {} | {} |\n", label(name), cells(case, name != "direct").join(" | "));
            }
        }
        for other in ["envoy", "baseline"] {
            if let (Some(weft), Some(peer)) = (subjects.get("weft"), subjects.get(other)) {
                text += &format!("| {connections} | **weft / {other}** | {} |\n", ratios(weft, peer).join(" | "));
            }
        }
    }
    for reason in reasons(results) {
        text += &format!("\n{reason}\n");
    }
    text
}

fn cells(case: &Case, proxies: bool) -> Vec<String> {
    let with_proxies = |cell: String| if proxies { cell } else { "-".to_owned() };
    let count = |count: fn(&Counts) -> &Count, show: fn(f64) -> String| match case.counts.as_ref().map(count) {
        Some(Count::Seen { values, .. }) => span(values, show),
        Some(Count::Missing(_)) => "none, see below".to_owned(),
        None => "-".to_owned(),
    };
    vec![
        with_proxies(span(&case.values(|s| s.cpu_us_per_request), |us| format!("{us:.1}"))),
        count(|c| &c.instructions, |many| format!("{:.1}k", many / 1000.0)),
        count(|c| &c.system_calls, |many| format!("{many:.2}")),
        format!("{:.0}", case.median(|s| s.p50_us)),
        format!("{:.0}", case.median(|s| s.p99_us)),
        with_proxies(format!("{:.1} MiB", case.median(|s| s.rss_kib) / 1024.0)),
        format!("{:.0}", case.median(|s| s.rate)),
    ]
}

fn span(values: &[f64], show: fn(f64) -> String) -> String {
    let (min, max) = ends(values);
    format!("{} ({}-{})", show(median(values)), show(min), show(max))
}

/// What is compared most stands out.
fn ratios(weft: &Case, other: &Case) -> Vec<String> {
    let figure = |figure: fn(&Sample) -> f64| format!("{:.2}x", weft.median(figure) / other.median(figure));
    let count = |count| ratio(weft, other, count).map_or_else(|| "-".to_owned(), |ratio| format!("**{ratio:.2}x**"));
    vec![
        format!("**{}**", figure(|s| s.cpu_us_per_request)),
        count(|c| &c.instructions),
        count(|c| &c.system_calls),
        figure(|s| s.p50_us),
        format!("**{}**", figure(|s| s.p99_us)),
        format!("**{}**", figure(|s| s.rss_kib)),
        figure(|s| s.rate),
    ]
}

/// Each reason once.
fn reasons(results: &Results) -> BTreeSet<String> {
    let all = results.values().flat_map(|subjects| subjects.values()).filter_map(|case| case.counts.as_ref());
    let missing = |what: &str, count: &Count| match count {
        Count::Seen { .. } => None,
        Count::Missing(why) => Some(format!("No {what} were counted: {}.", why.trim_end_matches('.'))),
    };
    all.flat_map(|counts| {
        [missing("user instructions", &counts.instructions), missing("system calls", &counts.system_calls)]
    })
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::tests::case;

    #[test]
    fn rows_are_subjects_and_ratios() {
        let subjects = BTreeMap::from([
            ("direct", Case { counts: None, ..case(&[0.0]) }),
            ("envoy", case(&[20.0])),
            ("baseline", case(&[10.0])),
            ("weft", case(&[5.0, 4.0, 6.0])),
        ]);
        let text = table(&BTreeMap::from([(32, subjects)]));
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| 32 | direct | - | - | - | 0 | 0 | - | 1 |",
                "| 32 | envoy | 20.0 (20.0-20.0) | 2.0k (2.0k-2.0k) | none, see below | 40 | 60 | 0.1 MiB | 1 |",
                "| 32 | weft (baseline) | 10.0 (10.0-10.0) | 1.0k (1.0k-1.0k) | none, see below | 20 | 30 | 0.0 MiB | 1 |",
                "| 32 | weft | 5.0 (4.0-6.0) | 0.5k (0.4k-0.6k) | none, see below | 10 | 15 | 0.0 MiB | 1 |",
                "| 32 | **weft / envoy** | **0.25x** | **0.25x** | - | 0.25x | **0.25x** | **0.25x** | 1.00x |",
                "| 32 | **weft / baseline** | **0.50x** | **0.50x** | - | 0.50x | **0.50x** | **0.50x** | 1.00x |",
                "",
                "No system calls were counted: no strace.",
            ]
        );
    }
}
