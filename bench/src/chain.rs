//! The chain, measured: every subject in every round, in an order that turns, so that a drift of the machine meets all alike.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::process::Process;
use weft_tests::{peers, ports, wait};

use crate::report::{Results, Sample};
use crate::subject::{NAMES, Setup, Subject, label};
use crate::{counts, meter, report, root, table, wrk};

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
    /// Subjects to measure: direct, envoy, weft. A baseline is always one.
    #[arg(long, value_delimiter = ',', default_values_t = ["direct".to_owned(), "envoy".to_owned(), "weft".to_owned()])]
    subjects: Vec<String>,
    /// Another `weft`, such as the one before a change, to measure beside this one in the same rounds.
    #[arg(long, value_name = "PATH", env = "WEFT_BASELINE")]
    baseline: Option<PathBuf>,
    /// How often instructions and system calls are counted, after the rounds; 0 leaves them out.
    #[arg(long, default_value_t = 3)]
    counts: usize,
    /// Requests that one count is about.
    #[arg(long, default_value_t = 1000)]
    count_requests: u64,
}

impl Options {
    fn check(&self) -> Result<()> {
        ensure!(self.rounds > 0 && self.seconds > 0, "rounds and seconds must be at least 1");
        ensure!(self.count_requests > 0, "--count-requests must be at least 1; --counts 0 counts nothing");
        ensure!(!self.connections.contains(&0), "a measurement takes at least 1 connection");
        for name in &self.subjects {
            ensure!(
                ["direct", "envoy", "weft"].contains(&&**name),
                "no subject is called `{name}`: direct, envoy, weft"
            );
        }
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        self.subjects.iter().any(|s| s == name) || (name == "baseline" && self.baseline.is_some())
    }

    /// A partial run is for its reader; only a whole one may stand in the documentation.
    fn whole(&self) -> bool {
        self.rounds >= 3 && self.counts > 0 && ["direct", "envoy", "weft"].into_iter().all(|name| self.wants(name))
    }
}

/// The chain with these subjects at some numbers of connections, for another benchmark than this.
pub(crate) fn beside(names: &[&'static str], rounds: usize, seconds: u64, connections: &[u32]) -> Result<Results> {
    let options = Options {
        rounds,
        seconds,
        connections: connections.to_vec(),
        subjects: Vec::new(),
        baseline: None,
        counts: 0,
        count_requests: 1,
    };
    let folder = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    let (_app, setup) = start(folder.path(), None)?;
    let subjects = names.iter().map(|name| Subject::start(name, &setup, &[])).collect::<Result<Vec<_>>>()?;
    timed(&options, &setup, &subjects)
}

/// The app at the end of the chain, and what subjects are started from.
fn start(folder: &Path, baseline: Option<PathBuf>) -> Result<(Process, Setup)> {
    let app = ports::free();
    let program = std::env::current_exe()?;
    let process = Process::start(folder, "app", program, ["app", "--listen", &app.to_string()], &[]);
    wait::until("the app to listen", wait::SOON, || std::net::TcpStream::connect(app));
    Ok((process, Setup { folder: folder.to_owned(), app, weft: binary(&peers::weft())?, baseline }))
}

/// Measures, prints, and writes the results.
pub(crate) fn run(options: &Options) -> Result<()> {
    options.check()?;
    let folder = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    let baseline = options.baseline.as_deref().map(binary).transpose()?;
    let (_app, setup) = start(folder.path(), baseline)?;
    let wanted = NAMES.into_iter().filter(|name| options.wants(name));
    let subjects = wanted.map(|name| Subject::start(name, &setup, &[])).collect::<Result<Vec<_>>>()?;
    ensure!(!subjects.is_empty(), "no subject: choose from direct, envoy, weft");

    let mut results = timed(options, &setup, &subjects)?;
    if options.counts > 0 {
        let plan = counts::Plan {
            repetitions: options.counts,
            requests: options.count_requests,
            connections: &options.connections,
        };
        for (connections, counted) in counts::all(&plan, &setup, &subjects)? {
            for (name, counts) in counted {
                results.entry(connections).or_default().entry(name).or_default().counts = Some(counts);
            }
        }
    }
    write(options, &results)
}

/// The rounds. Nothing but the load runs while they last.
fn timed(options: &Options, setup: &Setup, subjects: &[Subject]) -> Result<Results> {
    let mut results = Results::new();
    for round in 0..options.rounds {
        for connections in &options.connections {
            for turn in 0..subjects.len() {
                let subject = &subjects[(round + turn) % subjects.len()];
                // The first second fills pools, caches and the certificate path; it is not measured.
                wrk::run(&setup.folder, subject.address, subject.host, *connections, 1)?;
                let sample = measure(&setup.folder, subject, *connections, options.seconds)?;
                println!(
                    "round {} of {}, {connections:>3} connections, {:<15}  {:>6.1} us CPU/request  p50 {:>6.0} us  p99 {:>6.0} us  {:>6.0} KiB  {:>6.0}/s",
                    round + 1,
                    options.rounds,
                    label(subject.name),
                    sample.cpu_us_per_request,
                    sample.p50_us,
                    sample.p99_us,
                    sample.rss_kib,
                    sample.rate,
                );
                results.entry(*connections).or_default().entry(subject.name).or_default().samples.push(sample);
            }
        }
    }
    Ok(results)
}

fn measure(folder: &Path, subject: &Subject, connections: u32, seconds: u64) -> Result<Sample> {
    let cpu = || subject.proxies.iter().map(|pid| meter::cpu(*pid)).sum::<Result<Duration>>();
    let before = cpu()?;
    let seen = wrk::run(folder, subject.address, subject.host, connections, seconds)
        .with_context(|| format!("{} at {connections} connections", label(subject.name)))?;
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

fn write(options: &Options, results: &Results) -> Result<()> {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("chain.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report::json(results))? + "\n")?;
    let table = table::table(results);
    println!("\n{table}\nwritten to {}", path.display());
    if options.whole() {
        let page = root().join("docs/benchmarks.md");
        // A baseline means nothing to anybody but who built it.
        let public = table::table(&without_baseline(results));
        report::put(&page, "chain", &format!("{}\n\n{public}", machine(options, results)))?;
        println!("and to {}", page.display());
    }
    Ok(())
}

fn without_baseline(results: &Results) -> Results {
    let mut results = results.clone();
    for subjects in results.values_mut() {
        subjects.remove("baseline");
    }
    results
}

/// The path of a program that is there, good from any folder.
fn binary(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().with_context(|| format!("no weft at {}", path.display()))?;
    ensure!(path.is_file(), "{} is no program", path.display());
    Ok(path)
}

/// One line that says what the numbers were taken on.
fn machine(options: &Options, results: &Results) -> String {
    let tools =
        counts::tools(results.values().flat_map(|subjects| subjects.values()).filter_map(|c| c.counts.as_ref()));
    format!(
        "Medians of {} interleaved rounds of {} s each, on {}; client and app share the cores. \
         Counts are medians of {} by {} requests{}.",
        options.rounds,
        options.seconds,
        report::machine(),
        options.counts,
        options.count_requests,
        if tools.is_empty() { String::new() } else { format!(" ({tools})") },
    )
}
