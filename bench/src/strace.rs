//! System calls, counted by strace, which stops a process at each: never while anything is timed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tool;

/// How long strace may take to attach, or to let go and write.
const BOUND: Duration = Duration::from_secs(30);

/// Whether strace can be used here.
///
/// # Errors
/// When it cannot, with what to do.
pub(crate) fn ready() -> Result<()> {
    tool::output(Command::new("strace").arg("-V")).map(|_| ())
}

/// The number of system calls of all threads of `pids` while `load` runs.
///
/// # Errors
/// When strace may not attach, or the load fails.
pub(crate) fn count(folder: &Path, pids: &[u32], load: impl FnOnce() -> Result<()>) -> Result<u64> {
    let table = folder.join("strace.txt");
    let _ = fs::remove_file(&table);
    let said = fs::File::create(folder.join("strace.err"))?;
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&table);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let mut tracer = Tracer(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn()?);
    let why = || fs::read_to_string(folder.join("strace.err")).unwrap_or_default().trim().to_owned();
    tracer.until("attach", why, |_| pids.iter().map(|pid| traced(*pid)).try_fold(true, |all, one| Ok(all && one?)))?;
    load()?;
    kill(Pid::from_raw(tracer.0.id() as i32), Signal::SIGINT)?;
    tracer.until("let go", why, Ok)?;
    let text = fs::read_to_string(&table).with_context(|| format!("strace wrote no table: {}", why()))?;
    total(&text).with_context(|| format!("strace wrote no table of calls:\n{text}"))
}

/// A running strace. Dropping it ends it, at which the kernel lets go of what it traced.
struct Tracer(Child);

impl Tracer {
    /// Looks until `done`, which is told whether strace has ended.
    fn until(&mut self, what: &str, why: impl Fn() -> String, done: impl Fn(bool) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        loop {
            let ended = self.0.try_wait()?.is_some();
            if done(ended)? {
                return Ok(());
            }
            ensure!(!ended, "strace could not {what}: {}", why());
            if start.elapsed() > BOUND {
                bail!("strace did not {what} within {} s: {}", BOUND.as_secs(), why());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether every thread of a process has a tracer.
fn traced(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        // A thread may end between the two looks.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line.split_ascii_whitespace().eq(["TracerPid:", "0"])) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The calls of the table of `strace -c`: its fourth column, summed over the rows between the two rules.
///
/// The row `total` is not asked, because its columns differ between versions.
fn total(table: &str) -> Option<u64> {
    let mut rows = table.lines().skip_while(|line| !line.starts_with("------"));
    rows.next()?;
    let calls = |row: &str| row.split_ascii_whitespace().nth(3)?.parse::<u64>().ok();
    rows.take_while(|line| !line.starts_with("------")).map(calls).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_whether_they_failed_or_not() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.54    0.000640           0      2003           epoll_wait
 38.46    0.000400           0      4012      2005 recvfrom
  0.00    0.000000           0         2         1 connect
------ ----------- ----------- --------- --------- ----------------
100.00    0.001040           0      6017      2006 total
";
        assert_eq!(total(table), Some(6017));
    }

    #[test]
    fn older_tables_leave_a_cell_of_the_sum_empty() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
100.00    0.000640           3       200           writev
------ ----------- ----------- --------- --------- ----------------
100.00    0.000640                   200           total
";
        assert_eq!(total(table), Some(200));
    }

    #[test]
    fn what_is_no_table_counts_nothing() {
        assert_eq!(total("strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted\n"), None);
        assert_eq!(total("% time     seconds\n------ ------\n what is this\n------ ------\n"), None);
    }

    #[test]
    fn a_process_is_counted_from_outside() {
        if let Err(error) = ready() {
            eprintln!("not run: {error:#}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        // Each answer of `cat` is one read and one write.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut ask, mut answer) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
        let counted = count(folder.path(), &[cat.id()], || {
            for _ in 0..50 {
                std::io::Write::write_all(&mut ask, b"x")?;
                std::io::Read::read_exact(&mut answer, &mut [0])?;
            }
            Ok(())
        });
        cat.kill().unwrap();
        cat.wait().unwrap();
        match counted {
            // The read that it waits in when strace comes and goes may count once more or less.
            Ok(calls) => assert!((98..=103).contains(&calls), "{calls}"),
            // Some sandboxes forbid tracing.
            Err(error) => assert!(format!("{error:#}").contains("not permitted"), "{error:#}"),
        }
    }
}
