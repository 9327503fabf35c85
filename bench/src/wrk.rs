//! The load: wrk, with a script that prints its counters for us instead of for a reader.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Complete answers.
    pub(crate) requests: u64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile in microseconds.
    pub(crate) p99_us: f64,
    /// Answers a second.
    pub(crate) rate: f64,
}

const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("weft-bench %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// One thread, `connections` kept connections, for `seconds`.
///
/// # Errors
/// When wrk cannot run or any answer was not a success: a subject that drops requests is not measured.
pub(crate) fn run(folder: &Path, address: SocketAddr, host: &str, connections: u32, seconds: u64) -> Result<Seen> {
    let script = folder.join("report.lua");
    std::fs::write(&script, SCRIPT)?;
    let output = Command::new("wrk")
        .args(["-t1", "--timeout", "10s", "-c", &connections.to_string(), "-d", &format!("{seconds}s")])
        .args(["-H", &format!("Host: {host}"), "-s"])
        .arg(&script)
        .arg(format!("http://{address}/bench"))
        .output()
        .context("wrk is missing: `make setup` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("weft-bench "));
    let Some(line) = line.filter(|_| output.status.success()) else {
        bail!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    let numbers = line.split(' ').map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    let &[requests, duration_us, p50, p99, errors] = numbers.as_slice() else { bail!("wrk's script wrote `{line}`") };
    if errors > 0 || requests == 0 {
        bail!("{errors} of {requests} requests to {host} at {address} failed:\n{text}");
    }
    let rate = requests as f64 / (duration_us as f64 / 1e6);
    Ok(Seen { requests, p50_us: p50 as f64, p99_us: p99 as f64, rate })
}
