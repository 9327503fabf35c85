//! Looks at a process by the kernel's word: nothing that it says of itself counts.
//!
//! Each look is bracketed. The hold on the process ([`Process`]) makes that nothing of another one is read, whoever gets its number; and what
//! was read first is read once more at the end, so that no look is half of before an exec(2) and half of after.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::sys::stat::FileStat;
use nix::unistd::{Gid, Group, Uid, User};
use weft_workload_api::{Caller, Process};

use crate::cgroup;
use crate::facts::{Executable, Facts, FileId};

/// How often a look is tried again because the process has just become another program.
const ATTEMPTS: usize = 5;

/// Why a process was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSeen {
    /// It has ended.
    Gone,
    /// It runs as another user than the one that has connected.
    OtherUser,
    /// It becomes another program all the time.
    Unsteady,
    /// The listener took no hold on it.
    NotHeld,
}

/// What a caller is, with names of users and groups if somebody asks for them. May block.
///
/// # Errors
/// Nothing can be said of it, so it is nobody.
pub fn look(caller: &Caller, names: bool) -> Result<Facts, NotSeen> {
    let process = caller.process.as_deref().ok_or(NotSeen::NotHeld)?;
    for _ in 0..ATTEMPTS {
        let before = moment(process)?;
        let executable = executable(process);
        let file = process.read("cgroup").map_err(|_| NotSeen::Gone)?;
        let after = moment(process)?;
        if before != after || executable.as_ref().map(|it| it.file) != after.executable {
            continue;
        }
        if after.uid != caller.uid {
            return Err(NotSeen::OtherUser);
        }
        let (uid, gid) = (after.uid, after.gid);
        return Ok(Facts {
            pid: process.pid(),
            uid,
            gid,
            user: names.then(|| user(uid)).flatten(),
            group: names.then(|| group(gid)).flatten(),
            executable,
            cgroup: cgroup::path(&file).map(Arc::from),
        });
    }
    Err(NotSeen::Unsteady)
}

/// Whether a process runs the file that it ran at an earlier look, and lives. It is one call of the kernel, to be made often.
pub fn is_same(process: &Process, facts: &Facts) -> bool {
    let present = process.stat("exe").ok().map(|stat| file_id(&stat));
    process.is_alive() && present == facts.executable.as_ref().map(|executable| executable.file)
}

/// What must not change while everything else is read.
#[derive(PartialEq, Eq)]
struct Moment {
    uid: u32,
    gid: u32,
    started: u64,
    executable: Option<FileId>,
}

fn moment(process: &Process) -> Result<Moment, NotSeen> {
    let status = process.read("status").map_err(|_| NotSeen::Gone)?;
    let stat = process.read("stat").map_err(|_| NotSeen::Gone)?;
    let executable = process.stat("exe").ok().map(|stat| file_id(&stat));
    if !process.is_alive() {
        return Err(NotSeen::Gone);
    }
    let parsed = || Some((effective(&status, "Uid:")?, effective(&status, "Gid:")?, started(&stat)?));
    let (uid, gid, started) = parsed().ok_or(NotSeen::Gone)?;
    Ok(Moment { uid, gid, started, executable })
}

/// The second of the four ids of a line of /proc/PID/status: real, effective, saved, of the file system.
fn effective(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Field 22 of /proc/PID/stat, in ticks since the machine was started. The name of the program, field 2, may have any characters.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn executable(process: &Process) -> Option<Executable> {
    let pinned = process.open("exe", false).ok()?;
    let state = pinned.metadata().ok()?;
    let file = FileId {
        file: (state.dev(), state.ino()),
        size: state.size(),
        modified: (state.mtime(), state.mtime_nsec()),
        changed: (state.ctime(), state.ctime_nsec()),
    };
    let path = process.link("exe").ok().and_then(|path| own(path, file.file));
    Some(Executable { file, path: path.map(Arc::from), pinned: Arc::new(pinned) })
}

/// The path, if it leads to this very file here too.
fn own(path: OsString, file: (u64, u64)) -> Option<String> {
    let state = std::fs::metadata(&path).ok()?;
    let path = path.into_string().ok()?;
    ((state.dev(), state.ino()) == file).then_some(path)
}

fn file_id(stat: &FileStat) -> FileId {
    FileId {
        file: (stat.st_dev, stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn user(uid: u32) -> Option<Arc<str>> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name.into())
}

fn group(gid: u32) -> Option<Arc<str>> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name.into())
}

/// Opens the file that a process runs, to be read.
///
/// # Errors
/// It has ended, or the agent may not look.
pub(crate) fn open(process: &Process) -> io::Result<std::fs::File> {
    process.open("exe", true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    /// Ended with the test.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    impl Running {
        fn start(command: &mut Command) -> Self {
            Self(command.spawn().unwrap())
        }

        fn caller(&self, uid: u32) -> Caller {
            let pid = i32::try_from(self.0.id()).unwrap();
            Caller { uid, pid: Some(pid), process: Some(Process::of(pid).unwrap()) }
        }
    }

    /// Looks again until something holds: a program takes a moment to become itself.
    fn until(caller: &Caller, holds: impl Fn(&Facts) -> bool) -> Facts {
        let start = Instant::now();
        loop {
            match look(caller, true) {
                Ok(facts) if holds(&facts) => return facts,
                other => assert!(start.elapsed() < Duration::from_secs(20), "{other:?}"),
            }
            std::thread::yield_now();
        }
    }

    fn runs(facts: &Facts, path: &std::path::Path) -> bool {
        facts.executable.as_ref().is_some_and(|it| it.path.as_deref() == path.to_str())
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
        let own = Uid::effective().as_raw();
        let running = Running::start(Command::new("sleep").arg("600"));
        let facts = until(&running.caller(own), |facts| runs(facts, &sleep));
        assert_eq!((facts.uid, facts.gid), (own, Gid::effective().as_raw()));
        let name = User::from_uid(Uid::effective()).unwrap().map(|user| user.name);
        assert_eq!(facts.user.as_deref(), name.as_deref());
        assert!(facts.cgroup.is_some() && facts.to_string().contains(sleep.to_str().unwrap()), "{facts}");
        let process = running.caller(own).process.unwrap();
        assert!(is_same(&process, &facts));
        assert_eq!(look(&running.caller(own + 1), false).unwrap_err(), NotSeen::OtherUser);
        let unheld = Caller { process: None, ..running.caller(own) };
        assert_eq!(look(&unheld, false).unwrap_err(), NotSeen::NotHeld);
        let caller = running.caller(own);
        drop(running);
        assert_eq!(look(&caller, false).unwrap_err(), NotSeen::Gone);
        assert!(!is_same(&process, &facts));
    }

    #[test]
    fn another_program_in_the_same_process_is_noticed() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; exec sleep 600"]).stdin(std::process::Stdio::piped());
        let mut running = Running::start(&mut command);
        let caller = running.caller(Uid::effective().as_raw());
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let before = until(&caller, |facts| runs(facts, &shell));
        assert!(is_same(caller.process.as_ref().unwrap(), &before));
        drop(running.0.stdin.take());
        let after = until(&caller, |facts| !runs(facts, &shell));
        assert!(runs(&after, &std::fs::canonicalize("/bin/sleep").unwrap()), "{after}");
        assert!(!is_same(caller.process.as_ref().unwrap(), &before));
    }

    #[test]
    fn a_path_in_a_file_system_of_its_own_is_none() {
        // What the process calls /bin/true is a copy of sleep that it has mounted there itself.
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("fake");
        std::fs::copy("/bin/sleep", &fake).unwrap();
        let script = format!("mount --bind {} /bin/true && exec /bin/true 600", fake.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let running = Running::start(&mut command);
        let fake = std::fs::metadata(&fake).unwrap();
        let is_fake =
            |facts: &Facts| facts.executable.as_ref().is_some_and(|it| it.file.file == (fake.dev(), fake.ino()));
        if !Uid::effective().is_root() {
            return; // nobody else may mount
        }
        let facts = until(&running.caller(0), is_fake);
        assert_eq!(facts.executable.unwrap().path, None);
        let said = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).unwrap();
        assert_eq!(
            said,
            std::fs::canonicalize("/bin/true").unwrap(),
            "the kernel's own words would have been believed"
        );
    }

    #[test]
    fn another_user_is_told_apart() {
        if !Uid::effective().is_root() {
            return; // nobody else may become another
        }
        let running = Running::start(Command::new("sleep").arg("600").uid(54_321).gid(54_322));
        let facts = until(&running.caller(54_321), |facts| facts.executable.is_some());
        assert_eq!((facts.uid, facts.gid, facts.user), (54_321, 54_322, None));
    }

    /// A group of the machine's own, removed with the test.
    struct Group(std::path::PathBuf);

    impl Group {
        fn make(name: &str) -> Option<Self> {
            let roots =
                ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(std::path::Path::new);
            let roots = roots.into_iter().filter(|root| root.join("cgroup.procs").exists());
            roots.map(|root| root.join(name)).find(|group| std::fs::create_dir(group).is_ok()).map(Self)
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn a_container_is_told_by_its_control_group() {
        let id = format!("{:064x}", std::process::id());
        let name = format!("docker-{id}.scope");
        let Some(group) = Group::make(&name) else {
            return eprintln!("skipped: no control group can be made here");
        };
        let running = Running::start(Command::new("sleep").arg("600"));
        std::fs::write(group.0.join("cgroup.procs"), running.0.id().to_string()).unwrap();
        let expected = format!("/{name}");
        let caller = running.caller(Uid::effective().as_raw());
        let facts = until(&caller, |facts| facts.cgroup.as_deref() == Some(&*expected));
        let selectors = weft_model::attest::Selectors {
            cgroup: Some("/docker-*".into()),
            container_id: Some(id.into()),
            systemd_unit: Some(name.into()),
            ..Default::default()
        };
        let service: weft_model::ServiceName = "prod/web".parse().unwrap();
        let svid_ttl = Duration::from_secs(60);
        let all = [weft_identity::Assignment { service: service.clone(), any: vec![selectors], svid_ttl }];
        assert_eq!(crate::matching::services(&all, &facts, None), [service]);
        drop(running); // a group goes when it is empty
    }

    #[test]
    fn fields_are_read_whatever_the_program_calls_itself() {
        assert_eq!(effective("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n", "Gid:"), Some(6));
        let fields: String = (4..=21).map(|n| format!(" {n}")).collect();
        assert_eq!(started(&format!("7 (a) S 9 (b)) R{fields} 777 0")), Some(777));
        assert_eq!((started(""), effective("", "Uid:")), (None, None));
    }
}
