//! What the operating system says a process costs.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time that all threads of a process have used.
///
/// Summed over the threads' `schedstat` (nanoseconds). A thread that ends takes its time along, so this is for processes whose
/// threads live as long as the measurement; the tick-based `/proc/PID/stat` would round to 10 ms.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let used = text.split_ascii_whitespace().next().and_then(|first| first.parse::<u64>().ok());
        nanoseconds += used.unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory in KiB (`VmRSS`).
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
