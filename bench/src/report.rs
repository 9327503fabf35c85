//! From samples to `chain.json` and the table of `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

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

/// Connections -> subject -> samples, one a round.
pub(crate) type Samples = BTreeMap<u32, BTreeMap<&'static str, Vec<Sample>>>;

type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 4] = [
    ("cpu_us_per_request", |s| s.cpu_us_per_request),
    ("p50_us", |s| s.p50_us),
    ("p99_us", |s| s.p99_us),
    ("rss_kib", |s| s.rss_kib),
];

/// `{"cases": {"c1": {"direct": {"p50_us": {"median", "min", "max"}, ...}, ..., "ratio": {...}}}}`.
pub(crate) fn json(samples: &Samples) -> Value {
    let mut cases = serde_json::Map::new();
    for (connections, subjects) in samples {
        let mut case = serde_json::Map::new();
        for (subject, samples) in subjects {
            let figures = FIGURES.iter().map(|(name, figure)| ((*name).to_owned(), spread(samples, *figure))).collect();
            case.insert((*subject).to_owned(), Value::Object(figures));
        }
        if let (Some(weft), Some(envoy)) = (subjects.get("weft"), subjects.get("envoy")) {
            let ratio = FIGURES.iter().map(|(name, figure)| {
                ((*name).to_owned(), json!(round(median(weft, *figure) / median(envoy, *figure), 3)))
            });
            case.insert("ratio".to_owned(), Value::Object(ratio.collect()));
        }
        cases.insert(format!("c{connections}"), Value::Object(case));
    }
    json!({"cases": cases})
}

/// The same for people: medians, with the span of the rounds behind the CPU time.
pub(crate) fn table(samples: &Samples) -> String {
    let mut text = String::from(
        "| connections | subject | CPU of both proxies, us/request (min-max) | p50, us | p99, us | resident, each | requests/s |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (connections, subjects) in samples {
        for name in ["direct", "envoy", "weft"] {
            let Some(all) = subjects.get(name) else { continue };
            let cpu = sorted(all, |s| s.cpu_us_per_request);
            let proxies = name != "direct";
            let cpu = match proxies {
                true => {
                    format!("{:.1} ({:.1}-{:.1})", median(all, |s| s.cpu_us_per_request), cpu[0], cpu[cpu.len() - 1])
                }
                false => "-".to_owned(),
            };
            let rss = match proxies {
                true => format!("{:.1} MiB", median(all, |s| s.rss_kib) / 1024.0),
                false => "-".to_owned(),
            };
            text += &format!(
                "| {connections} | {name} | {cpu} | {:.0} | {:.0} | {rss} | {:.0} |\n",
                median(all, |s| s.p50_us),
                median(all, |s| s.p99_us),
                median(all, |s| s.rate),
            );
        }
        if let (Some(weft), Some(envoy)) = (subjects.get("weft"), subjects.get("envoy")) {
            let ratio = |figure: fn(&Sample) -> f64| median(weft, figure) / median(envoy, figure);
            text += &format!(
                "| {connections} | **weft / envoy** | **{:.2}x** | {:.2}x | **{:.2}x** | **{:.2}x** | {:.2}x |\n",
                ratio(|s| s.cpu_us_per_request),
                ratio(|s| s.p50_us),
                ratio(|s| s.p99_us),
                ratio(|s| s.rss_kib),
                ratio(|s| s.rate),
            );
        }
    }
    text
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

fn spread(samples: &[Sample], figure: fn(&Sample) -> f64) -> Value {
    let values = sorted(samples, figure);
    json!({
        "median": round(median(samples, figure), 2),
        "min": round(values[0], 2),
        "max": round(values[values.len() - 1], 2),
    })
}

fn sorted(samples: &[Sample], figure: fn(&Sample) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle one, or the mean of the two in the middle.
fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let values = sorted(samples, figure);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu: f64) -> Sample {
        Sample { cpu_us_per_request: cpu, p50_us: 2.0 * cpu, p99_us: 3.0 * cpu, rss_kib: 4.0 * cpu, rate: 1.0 }
    }

    #[test]
    fn ratios_are_of_medians() {
        let subjects = BTreeMap::from([
            ("direct", vec![sample(0.0)]),
            ("envoy", vec![sample(90.0), sample(10.0), sample(20.0)]),
            ("weft", vec![sample(5.0), sample(7.0), sample(6.0)]),
        ]);
        let report = json(&BTreeMap::from([(32, subjects)]));
        let case = &report["cases"]["c32"];
        assert_eq!(case["envoy"]["cpu_us_per_request"], json!({"median": 20.0, "min": 10.0, "max": 90.0}));
        assert_eq!(case["weft"]["rss_kib"], json!({"median": 24.0, "min": 20.0, "max": 28.0}));
        assert_eq!(case["ratio"]["cpu_us_per_request"], json!(0.3));
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
