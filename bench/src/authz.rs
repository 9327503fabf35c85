//! What a policy decision costs, beside plain Cedar, in one process and in turns; and what a bundle takes to load and to keep.
//!
//! Nothing is remembered between decisions: each is evaluated.

mod mix;
mod plain;
mod rpc;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_policy::{Bundle, Engine};

use crate::report::Sample;
use crate::spread::percentile;
use crate::subject::ASKING;
use crate::{chain, meter, report, root, spread, tool};
use mix::Call;
use plain::Plain;
use rpc::Checks;
pub(crate) use rpc::{Who, serve};

/// How many policies, and how often.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Numbers of policies.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    policies: Vec<usize>,
    /// Rounds; each decides on every call, and gives Cedar as many of them as it can be given in the time.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Different calls.
    #[arg(long, default_value_t = 5_000)]
    calls: usize,
    /// Milliseconds of a round that plain Cedar gets; at least 20 calls are decided.
    #[arg(long, default_value_t = 300)]
    cedar_ms: u64,
    /// Rounds of checks over ext_authz; each asks both servers. 0 leaves them out.
    #[arg(long, default_value_t = 10)]
    check_rounds: usize,
    /// Checks of one round.
    #[arg(long, default_value_t = 20_000)]
    checks: usize,
    /// Rounds of calls through two sidecars, ours that decide and Envoys that ask; 0 leaves them out.
    #[arg(long, default_value_t = 3)]
    pair_rounds: usize,
}

/// Connections of the calls through two sidecars.
const CONNECTIONS: u32 = 32;
/// Seconds of each such measurement.
const SECONDS: u64 = 5;

/// What was seen at one number of policies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    weft: Times,
    /// The 99th percentile over the calls of the best time of each: what is left without the machine's other business.
    calm_p99: f64,
    cedar: Times,
    load_ms: f64,
    rss_kib: u64,
}

/// Calls through two sidecars: ours, which decide themselves, and Envoys with the same configuration, which ask their agents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    weft: Pair,
    envoy: Pair,
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// CPU time of both sidecars, agents included, in microseconds a request.
    cpu_us: f64,
    /// 99th percentile of what a call took, in microseconds.
    p99_us: f64,
}

impl Pairs {
    fn measure(rounds: usize) -> Result<Self> {
        let mut results = chain::beside(&["weft", ASKING], rounds, SECONDS, &[CONNECTIONS])?;
        let mut seen = results.remove(&CONNECTIONS).unwrap_or_default();
        let mut pair = |name| {
            let samples = seen.remove(name).map(|case| case.samples).unwrap_or_default();
            ensure!(!samples.is_empty(), "nothing was measured of {name}");
            let median = |value: fn(&Sample) -> f64| spread::median(&samples.iter().map(value).collect::<Vec<_>>());
            Ok(Pair { cpu_us: median(|sample| sample.cpu_us_per_request), p99_us: median(|sample| sample.p99_us) })
        };
        Ok(Self { weft: pair("weft")?, envoy: pair(ASKING)? })
    }
}

/// Microseconds of one decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    p50: f64,
    p99: f64,
}

impl Times {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let us = |percent| percentile(&samples, percent).as_nanos() as f64 / 1e3;
        Self { p50: us(50.0), p99: us(99.0) }
    }
}

/// Measures, prints, and writes the results.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.calls > 0, "rounds and calls must be at least 1");
    ensure!(options.policies.iter().all(|policies| *policies > 0), "a bundle takes at least 1 policy");
    let mut results = BTreeMap::new();
    for policies in &options.policies {
        let case = measure(options, *policies).with_context(|| format!("with {policies} policies"))?;
        println!(
            "{policies:>6} policies  weft p50 {:>7.2} us  p99 {:>7.2} us  calm p99 {:>7.2} us   cedar p50 {:>9.1} us  p99 {:>9.1} us   load {:>6.1} ms  {:>6} KiB",
            case.weft.p50, case.weft.p99, case.calm_p99, case.cedar.p50, case.cedar.p99, case.load_ms, case.rss_kib
        );
        results.insert(*policies, case);
    }
    let checks = match options.check_rounds {
        0 => None,
        rounds => Some(rpc::measure(rounds, options.checks).context("checks over ext_authz")?),
    };
    let pairs = match options.pair_rounds {
        0 => None,
        rounds => Some(Pairs::measure(rounds).context("calls through two sidecars")?),
    };
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("authz.json");
    std::fs::write(&file, format!("{:#}\n", json(&results, checks, pairs)))?;
    println!("\n{}{}{}wrote {}", table::table(&results), table::checks(checks), table::pairs(pairs), file.display());
    let whole = options.rounds >= 20 && options.check_rounds >= 10 && options.pair_rounds >= 3;
    if options.policies == [10, 1_000, 10_000] && whole {
        let page = root().join("docs/benchmarks.md");
        report::put(&page, "authz", &table::page(&results, checks, pairs))?;
        println!("wrote the table into {}", page.display());
    }
    Ok(())
}

fn measure(options: &Options, policies: usize) -> Result<Case> {
    let intent = mix::intent(policies);
    let bundle = mix::bundle(&intent);
    ensure!(bundle.policies.len() == policies, "the bundle has {} policies", bundle.policies.len());
    let (engine, plain) = (Engine::new(&bundle)?, Plain::new(&bundle)?);
    let calls = mix::calls(policies, options.calls);
    same_decisions(&engine, &plain, &calls)?;

    let (mut weft, mut cedar) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        weft.extend(calls.iter().map(|call| {
            let start = Instant::now();
            std::hint::black_box(engine.decide(std::hint::black_box(&call.request())));
            start.elapsed()
        }));
        let end = Instant::now() + Duration::from_millis(options.cedar_ms);
        // Each round goes on where the last one ended.
        for at in 0..calls.len() {
            let call = &calls[(round * calls.len() / options.rounds + at) % calls.len()];
            let start = Instant::now();
            std::hint::black_box(plain.decide(std::hint::black_box(call))?);
            cedar.push(start.elapsed());
            if at >= 20 && Instant::now() > end {
                break;
            }
        }
    }
    let best = |at: usize| weft.iter().skip(at).step_by(calls.len()).min().copied().unwrap_or_default();
    let calm_p99 = Times::of((0..calls.len()).map(best).collect()).p99;
    let (load_ms, rss_kib) = load_elsewhere(&bundle)?;
    Ok(Case { weft: Times::of(weft), calm_p99, cedar: Times::of(cedar), load_ms, rss_kib })
}

/// What is fast and wrong is not worth a figure.
fn same_decisions(engine: &Engine, plain: &Plain, calls: &[Call]) -> Result<()> {
    let mut allowed = 0;
    for call in calls.iter().take(200) {
        let decision = engine.decide(&call.request());
        let expected = plain.decide(call)?;
        ensure!(decision.allowed == expected, "weft: {decision:?}, cedar: {expected}, {:?}", call.request());
        allowed += usize::from(expected);
    }
    ensure!((1..calls.len().min(200)).contains(&allowed), "{allowed} calls are allowed: that measures one thing only");
    Ok(())
}

/// Loads a bundle in a process of its own, as a sidecar does: from its bytes.
fn load_elsewhere(bundle: &Bundle) -> Result<(f64, u64)> {
    let folder = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    let file = folder.path().join("bundle.json");
    std::fs::write(&file, bundle.to_bytes())?;
    let output = tool::output(Command::new(std::env::current_exe()?).arg("load").arg("--bundle").arg(&file))?;
    ensure!(
        output.status.success(),
        "loading ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout).context("what `weft-bench load` prints")?;
    let (load, rss) = (seen["load_ms"].as_f64(), seen["rss_kib"].as_u64());
    load.zip(rss).with_context(|| format!("what `weft-bench load` prints: {seen}"))
}

/// The other process: prints what loading took, and all that it keeps in memory then.
pub(crate) fn load(bundle: &Path) -> Result<()> {
    let bytes = std::fs::read(bundle).with_context(|| format!("reading {}", bundle.display()))?;
    let start = Instant::now();
    let bundle = Bundle::from_bytes(&bytes)?;
    let engine = Engine::new(&bundle)?;
    let load = start.elapsed();
    drop((bundle, bytes));
    let rss_kib = meter::rss_kib(std::process::id())?;
    std::hint::black_box(&engine);
    println!("{}", json!({"load_ms": load.as_secs_f64() * 1e3, "rss_kib": rss_kib}));
    Ok(())
}

fn json(results: &BTreeMap<usize, Case>, checks: Option<Checks>, pairs: Option<Pairs>) -> Value {
    let round = |us: f64| (us * 100.0).round() / 100.0;
    let times = |times: Times| json!({"p50_us": round(times.p50), "p99_us": round(times.p99)});
    let case = |case: &Case| {
        let mut weft = times(case.weft);
        weft["calm_p99_us"] = json!(round(case.calm_p99));
        json!({
            "weft": weft,
            "cedar": times(case.cedar),
            "load_ms": round(case.load_ms),
            "rss_kib": case.rss_kib,
        })
    };
    let policies: serde_json::Map<_, _> =
        results.iter().map(|(policies, seen)| (policies.to_string(), case(seen))).collect();
    json!({
        "policies": policies,
        "ext_authz_checks_per_cpu_second": checks.map(|checks| checks.weft.round()),
        "plain_checks_per_cpu_second": checks.map(|checks| checks.plain.round()),
        "ext_authz_to_plain": checks.map(|checks| round(checks.ratio())),
        "end_to_end": pairs.map(|Pairs { weft, envoy }| {
            let pair = |pair: Pair| json!({"cpu_us_per_request": round(pair.cpu_us), "p99_us": round(pair.p99_us)});
            json!({"weft": pair(weft), "envoy_ext_authz": pair(envoy), "ratio": round(weft.cpu_us / envoy.cpu_us)})
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_case_for_each_number_of_policies() {
        let times = Times::of((1..=1_000).map(Duration::from_nanos).collect());
        let case = Case { weft: times, calm_p99: 0.7, cedar: times, load_ms: 1.234, rss_kib: 7 };
        let checks = Checks { weft: 30_000.4, plain: 40_000.0 };
        let pairs = Pairs { weft: Pair { cpu_us: 20.0, p99_us: 900.0 }, envoy: Pair { cpu_us: 80.0, p99_us: 3_000.0 } };
        let report = json(&BTreeMap::from([(10, case)]), Some(checks), Some(pairs));
        assert_eq!(
            report,
            json!({
                "policies": {"10": {
                    "weft": {"p50_us": 0.5, "p99_us": 0.99, "calm_p99_us": 0.7},
                    "cedar": {"p50_us": 0.5, "p99_us": 0.99},
                    "load_ms": 1.23,
                    "rss_kib": 7,
                }},
                "ext_authz_checks_per_cpu_second": 30_000.0,
                "plain_checks_per_cpu_second": 40_000.0,
                "ext_authz_to_plain": 0.75,
                "end_to_end": {
                    "weft": {"cpu_us_per_request": 20.0, "p99_us": 900.0},
                    "envoy_ext_authz": {"cpu_us_per_request": 80.0, "p99_us": 3_000.0},
                    "ratio": 0.25,
                },
            })
        );
    }
}
