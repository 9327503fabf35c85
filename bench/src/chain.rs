//! The chain, measured: every subject in every round, in an order that turns, so that a drift of the machine meets all alike.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::process::Process;
use weft_tests::{ports, wait};

use crate::report::{Sample, Samples};
use crate::{envoy, meter, report, root, weft, wrk};

/// How long, how often, and whom.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; each measures every subject at every number of connections.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load a measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256])]
    connections: Vec<u32>,
    /// Subjects to measure.
    #[arg(long, value_delimiter = ',', default_values_t = ["direct".to_owned(), "envoy".to_owned(), "weft".to_owned()])]
    subjects: Vec<String>,
}

/// Someone that answers on an address, and the processes whose cost counts.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    host: &'static str,
    proxies: Vec<u32>,
}

/// Measures, prints, and writes the results.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.seconds > 0, "rounds and seconds must be at least 1");
    let folder = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    let wanted = |name: &str| options.subjects.iter().any(|s| s == name);
    let app = ports::free();
    let program = std::env::current_exe()?;
    let _app = Process::start(folder.path(), "app", program, ["app", "--listen", &app.to_string()], &[]);
    wait::until("the app to listen", wait::SOON, || std::net::TcpStream::connect(app));

    let mut subjects = Vec::new();
    if wanted("direct") {
        subjects.push(Subject { name: "direct", address: app, host: "app.bench", proxies: Vec::new() });
    }
    let envoys = wanted("envoy").then(|| envoy::start(folder.path(), app)).transpose()?;
    if let Some(pair) = &envoys {
        let proxies = pair.processes.iter().map(Process::id).collect();
        subjects.push(Subject { name: "envoy", address: pair.egress, host: "app.bench", proxies });
    }
    let wefts = wanted("weft").then(|| weft::start(app));
    if let Some(pair) = &wefts {
        subjects.push(Subject { name: "weft", address: pair.egress(), host: "app.bench", proxies: pair.proxies() });
    }
    ensure!(!subjects.is_empty(), "no subject: choose from direct, envoy, weft");

    let mut samples: Samples = BTreeMap::new();
    for round in 0..options.rounds {
        for connections in &options.connections {
            for turn in 0..subjects.len() {
                let subject = &subjects[(round + turn) % subjects.len()];
                // The first second fills pools, caches and the certificate path; it is not measured.
                wrk::run(folder.path(), subject.address, subject.host, *connections, 1)?;
                let sample = measure(folder.path(), subject, *connections, options.seconds)?;
                println!(
                    "round {} of {}, {connections:>3} connections, {:<6}  {:>6.1} us CPU/request  p50 {:>6.0} us  p99 {:>6.0} us  {:>6.0} KiB  {:>6.0}/s",
                    round + 1,
                    options.rounds,
                    subject.name,
                    sample.cpu_us_per_request,
                    sample.p50_us,
                    sample.p99_us,
                    sample.rss_kib,
                    sample.rate,
                );
                samples.entry(*connections).or_default().entry(subject.name).or_default().push(sample);
            }
        }
    }

    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("chain.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report::json(&samples))? + "\n")?;
    let table = report::table(&samples);
    println!("\n{table}\nwritten to {}", path.display());
    // A partial run is for its reader; only a whole one may stand in the documentation.
    if ["direct", "envoy", "weft"].into_iter().all(wanted) && options.rounds >= 3 {
        let page = root().join("docs/benchmarks.md");
        report::put(&page, "chain", &format!("{}\n\n{table}", machine(options)))?;
        println!("and to {}", page.display());
    }
    Ok(())
}

fn measure(folder: &std::path::Path, subject: &Subject, connections: u32, seconds: u64) -> Result<Sample> {
    let cpu = || subject.proxies.iter().map(|pid| meter::cpu(*pid)).sum::<Result<Duration>>();
    let before = cpu()?;
    let seen = wrk::run(folder, subject.address, subject.host, connections, seconds)
        .with_context(|| format!("{} at {connections} connections", subject.name))?;
    let used = cpu()? - before;
    let rss = subject.proxies.iter().map(|pid| meter::rss_kib(*pid)).sum::<Result<u64>>()?;
    Ok(Sample {
        cpu_us_per_request: used.as_secs_f64() * 1e6 / seen.requests as f64,
        p50_us: seen.p50_us,
        p99_us: seen.p99_us,
        rss_kib: rss as f64 / subject.proxies.len().max(1) as f64,
        rate: seen.rate,
    })
}

/// One line that says what the numbers were taken on.
fn machine(options: &Options) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Medians of {} interleaved rounds of {} s each, on {cores} cores ({model}), Linux {}; client and app share the cores.",
        options.rounds,
        options.seconds,
        kernel.trim(),
    )
}
