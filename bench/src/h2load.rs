//! A fixed number of requests, for what is counted and not timed: h2load over HTTP/1.1.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// `requests` over `connections` kept connections, one thread. The program and arguments of `under` run h2load, if any.
///
/// # Errors
/// When h2load cannot run, or any answer was not a success.
pub(crate) fn run(under: &[String], address: SocketAddr, host: &str, connections: u32, requests: u64) -> Result<()> {
    let mut words = under.to_vec();
    words.extend(["h2load", "--h1", "-t", "1"].map(str::to_owned));
    words.extend(["-c".to_owned(), connections.to_string(), "-n".to_owned(), requests.to_string()]);
    words.extend([format!("--connect-to={address}"), format!("http://{host}/bench")]);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .output()
        .with_context(|| format!("{} is missing: `make setup` installs it", words[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || succeeded(&text) != Some(requests) {
        bail!("not all of {requests} requests succeeded: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// From the line `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout`.
fn succeeded(output: &str) -> Option<u64> {
    let line = output.lines().find_map(|line| line.strip_prefix("requests: "))?;
    line.split(", ").find_map(|part| part.strip_suffix(" succeeded"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_successes_count() {
        let text = "finished in 1.02s, 9.76 req/s, 1.11KB/s\n\
                    requests: 10 total, 10 started, 10 done, 8 succeeded, 2 failed, 0 errored, 0 timeout\n\
                    status codes: 8 2xx, 0 3xx, 2 4xx, 0 5xx\n";
        assert_eq!(succeeded(text), Some(8));
        assert_eq!(succeeded("could not resolve\n"), None);
    }
}
