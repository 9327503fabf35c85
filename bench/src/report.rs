//! From samples and counts to `chain.json`, and the place of the table in `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::counts::{Count, Counts};
use crate::spread::{ends, median};

/// One run of one subject.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU time of all proxies of the subject, per request.
    pub(crate) cpu_us_per_request: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Resident memory of one proxy (mean of the pair), at the end of the run.
    pub(crate) rss_kib: f64,
    /// Requests a second; for the reader, not in the JSON.
    pub(crate) rate: f64,
}

/// Everything about one subject at one number of connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// One a round; at least one.
    pub(crate) samples: Vec<Sample>,
    /// `None` for a subject without proxies, or when nothing was to be counted.
    pub(crate) counts: Option<Counts>,
}

impl Case {
    /// One figure of every round.
    pub(crate) fn values(&self, figure: fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }

    /// The median of one figure.
    pub(crate) fn median(&self, figure: fn(&Sample) -> f64) -> f64 {
        median(&self.values(figure))
    }
}

/// Connections -> subject -> what was seen.
pub(crate) type Results = BTreeMap<u32, BTreeMap<&'static str, Case>>;

type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 4] = [
    ("cpu_us_per_request", |s| s.cpu_us_per_request),
    ("p50_us", |s| s.p50_us),
    ("p99_us", |s| s.p99_us),
    ("rss_kib", |s| s.rss_kib),
];

type Counted = (&'static str, fn(&Counts) -> &Count);

const COUNTS: [Counted; 2] =
    [("instructions_per_request", |c| &c.instructions), ("system_calls_per_request", |c| &c.system_calls)];

/// `{"cases": {"c1": {"direct": {"p50_us": {"median", "min", "max"}, ...}, ..., "ratio": {...}, "ratio_to_baseline": {...}}}}`.
///
/// `ratio` is Weft by Envoy. A count that could not be taken is `{"missing": "why"}`, and has no ratio.
pub(crate) fn json(results: &Results) -> Value {
    let mut cases = Map::new();
    for (connections, subjects) in results {
        let mut case: Map<_, _> = subjects.iter().map(|(name, case)| ((*name).to_owned(), figures(case))).collect();
        for (name, other) in [("ratio", "envoy"), ("ratio_to_baseline", "baseline")] {
            if let (Some(weft), Some(other)) = (subjects.get("weft"), subjects.get(other)) {
                case.insert(name.to_owned(), ratios(weft, other));
            }
        }
        cases.insert(format!("c{connections}"), Value::Object(case));
    }
    json!({"cases": cases})
}

fn figures(case: &Case) -> Value {
    let mut all: Map<_, _> =
        FIGURES.iter().map(|(name, figure)| ((*name).to_owned(), spread(&case.values(*figure)))).collect();
    for (name, count) in COUNTS {
        let Some(counts) = &case.counts else { continue };
        let value = match count(counts) {
            Count::Seen { by, values } => {
                let mut value = spread(values);
                value["by"] = json!(by);
                value
            }
            Count::Missing(why) => json!({"missing": why}),
        };
        all.insert(name.to_owned(), value);
    }
    Value::Object(all)
}

fn ratios(weft: &Case, other: &Case) -> Value {
    let mut all: Map<_, _> = FIGURES
        .iter()
        .map(|(name, figure)| ((*name).to_owned(), json!(round(weft.median(*figure) / other.median(*figure), 3))))
        .collect();
    for (name, count) in COUNTS {
        if let Some(ratio) = ratio(weft, other, count) {
            all.insert(name.to_owned(), json!(round(ratio, 3)));
        }
    }
    Value::Object(all)
}

/// How one count of two subjects compares, if both have it.
pub(crate) fn ratio(weft: &Case, other: &Case, count: fn(&Counts) -> &Count) -> Option<f64> {
    match (count(weft.counts.as_ref()?), count(other.counts.as_ref()?)) {
        (Count::Seen { values: weft, .. }, Count::Seen { values: other, .. }) => Some(median(weft) / median(other)),
        _ => None,
    }
}

/// Puts `text` between `<!-- name -->` and `<!-- /name -->`.
///
/// # Errors
/// When the file or a marker is missing.
pub(crate) fn put(file: &Path, name: &str, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let start = page.find(&open).with_context(|| format!("no {open} in {}", file.display()))? + open.len();
    let end = page.find(&close).with_context(|| format!("no {close} in {}", file.display()))?;
    Ok(std::fs::write(file, format!("{}\n{}\n{}", &page[..start], text.trim_end(), &page[end..]))?)
}

/// What the numbers were taken on: `2 cores (AMD EPYC), Linux 6.18`.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({model}), Linux {}", kernel.trim())
}

fn spread(values: &[f64]) -> Value {
    let (min, max) = ends(values);
    json!({"median": round(median(values), 2), "min": round(min, 2), "max": round(max, 2)})
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A case with a sample for each CPU time, and a hundred instructions for each microsecond of it.
    pub(crate) fn case(cpu: &[f64]) -> Case {
        let sample = |cpu: f64| Sample {
            cpu_us_per_request: cpu,
            p50_us: 2.0 * cpu,
            p99_us: 3.0 * cpu,
            rss_kib: 4.0 * cpu,
            rate: 1.0,
        };
        let instructions = Count::Seen { by: "perf", values: cpu.iter().map(|cpu| 100.0 * cpu).collect() };
        let system_calls = Count::Missing("no strace".to_owned());
        let counts = Some(Counts { instructions, system_calls });
        Case { samples: cpu.iter().map(|cpu| sample(*cpu)).collect(), counts }
    }

    #[test]
    fn ratios_are_of_medians() {
        let subjects = BTreeMap::from([
            ("direct", Case { counts: None, ..case(&[0.0]) }),
            ("envoy", case(&[90.0, 10.0, 20.0])),
            ("baseline", case(&[12.0])),
            ("weft", case(&[5.0, 7.0, 6.0])),
        ]);
        let report = json(&BTreeMap::from([(32, subjects)]));
        let case = &report["cases"]["c32"];
        assert_eq!(case["envoy"]["cpu_us_per_request"], json!({"median": 20.0, "min": 10.0, "max": 90.0}));
        assert_eq!(case["weft"]["rss_kib"], json!({"median": 24.0, "min": 20.0, "max": 28.0}));
        assert_eq!(case["ratio"]["cpu_us_per_request"], json!(0.3));
        assert_eq!(case["ratio_to_baseline"]["p99_us"], json!(0.5));
    }

    #[test]
    fn counts_say_who_counted_or_why_nobody_did() {
        let subjects = BTreeMap::from([("envoy", case(&[8.0])), ("weft", case(&[2.0, 4.0]))]);
        let report = json(&BTreeMap::from([(1, subjects)]));
        let case = &report["cases"]["c1"];
        let instructions = json!({"median": 300.0, "min": 200.0, "max": 400.0, "by": "perf"});
        assert_eq!(case["weft"]["instructions_per_request"], instructions);
        assert_eq!(case["weft"]["system_calls_per_request"], json!({"missing": "no strace"}));
        assert_eq!(case["ratio"]["instructions_per_request"], json!(0.375));
        assert!(case["ratio"].get("system_calls_per_request").is_none());
    }

    #[test]
    fn a_table_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        std::fs::write(&page, "a\n<!-- chain -->\nold\n<!-- /chain -->\nz\n").unwrap();
        put(&page, "chain", "new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), "a\n<!-- chain -->\nnew\n<!-- /chain -->\nz\n");
        assert!(put(&page, "other", "x").is_err());
    }
}
