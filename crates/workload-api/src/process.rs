//! A hold on the process at the other end of a socket: whatever is read through it is of that very process, or nothing is.
//!
//! The number of a process says nothing once it has ended: another one may have it. The hold is its folder in /proc, which goes with it, and,
//! where the kernel has SO_PEERPIDFD (Linux 6.5), its pidfd, by which the kernel itself says whose folder that has to be. An older kernel leaves
//! the moment between the call of connect(2) and this one in which a process may end and another one get its number.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{FileStat, Mode, fstatat};
use tokio::net::UnixStream;

/// The most that is read of a file of /proc.
const MOST: u64 = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// /proc/PID.
    folder: OwnedFd,
    /// Readable once the process has ended.
    handle: Option<OwnedFd>,
}

impl Process {
    /// The process that has connected, which the kernel says is `pid`.
    pub(crate) fn at_the_end_of(stream: &UnixStream, pid: i32) -> io::Result<Self> {
        let handle = match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(handle) => Some(handle),
            Err(Errno::ENOPROTOOPT) => None,
            Err(error) => return Err(error.into()),
        };
        Self::held(pid, handle)
    }

    /// The process that has this number now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> io::Result<Arc<Self>> {
        Self::held(pid, None).map(Arc::new)
    }

    fn held(pid: i32, handle: Option<OwnedFd>) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = nix::fcntl::open(&*format!("/proc/{pid}"), flags, Mode::empty())?;
        let process = Self { pid, folder, handle };
        // After the folder was opened: it is that of the process of the handle if that still lives.
        if process.is_alive() { Ok(process) } else { Err(Errno::ESRCH.into()) }
    }

    /// Its number, as long as it lives.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended, nor waits for its end to be noticed.
    pub fn is_alive(&self) -> bool {
        match &self.handle {
            Some(handle) => {
                let mut ended = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
                poll(&mut ended, PollTimeout::ZERO) == Ok(0)
            }
            None => self.read("stat").is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X ")),
        }
    }

    /// A file of its folder in /proc, like `status`.
    ///
    /// # Errors
    /// It has ended, this process may not look, or the file is no text.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let file = openat(&self.folder, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        File::from(file).take(MOST).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Where a link of its folder leads to, like `exe`, in words of the kernel.
    ///
    /// # Errors
    /// It has ended, or this process may not look.
    pub fn link(&self, name: &str) -> io::Result<OsString> {
        Ok(readlinkat(&self.folder, name)?)
    }

    /// What a link of its folder leads to, whatever the words say.
    ///
    /// # Errors
    /// It has ended, or this process may not look.
    pub fn stat(&self, name: &str) -> io::Result<FileStat> {
        Ok(fstatat(&self.folder, name, AtFlags::empty())?)
    }

    /// The same, opened: to be read, or only to keep it from being another one by the same number.
    ///
    /// # Errors
    /// It has ended, or this process may not look.
    pub fn open(&self, name: &str, to_read: bool) -> io::Result<File> {
        let flags = if to_read { OFlag::O_RDONLY | OFlag::O_NONBLOCK } else { OFlag::O_PATH };
        Ok(File::from(openat(&self.folder, name, flags | OFlag::O_CLOEXEC, Mode::empty())?))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_process_that_has_ended_is_read_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let script =
            "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let pid = stream.peer_cred().unwrap().pid().unwrap();
        assert_eq!(u32::try_from(pid).unwrap(), child.id());
        let process = Process::at_the_end_of(&stream, pid).unwrap();
        assert!(process.is_alive() && process.read("status").unwrap().contains("python"));
        assert!(process.link("exe").unwrap().to_str().unwrap().contains("python"));
        drop(child.stdin.take());
        let ended = async {
            while process.is_alive() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, ended).await.expect("its end is seen before anybody has noticed it");
        child.wait().unwrap();
        assert!(!process.is_alive() && process.read("status").is_err() && process.stat("exe").is_err());
        assert!(Process::at_the_end_of(&stream, pid).is_err(), "too late to take hold of it");
    }

    #[test]
    fn without_a_handle_its_folder_says_as_much() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive() && process.read("stat").is_err());
        assert!(Process::of(process.pid()).is_err());
    }

    /// The number that a process had is given to another one.
    #[test]
    fn a_number_that_is_used_again_is_not_taken_for_the_same_process() {
        let program = "import os,subprocess,sys
first = subprocess.Popen(['sleep', '600'])
print(first.pid, flush=True); sys.stdin.readline()
first.kill(); first.wait()
with open('/proc/sys/kernel/ns_last_pid', 'w') as last: last.write(str(first.pid - 1))
second = subprocess.Popen(['sleep', '601'])
print(second.pid, flush=True); sys.stdin.readline()
second.kill(); second.wait()";
        // In a namespace of its own numbers can be chosen; that takes root.
        let mut child = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "python3", "-c", program])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = io::BufReader::new(child.stdout.take().unwrap());
        let mut say = child.stdin.take().unwrap();
        let mut line = || {
            let mut line = String::new();
            io::BufRead::read_line(&mut said, &mut line).unwrap();
            line.trim().to_owned()
        };
        let first = line();
        if first.is_empty() {
            child.wait().unwrap();
            eprintln!("skipped: no namespace can be made here");
            return;
        }
        // Seen from in there: the folder of that namespace's /proc, by its first process.
        let root = children(child.id()).into_iter().find_map(|pid| {
            let folder = format!("/proc/{pid}/root/proc/{first}");
            nix::fcntl::open(&*folder, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()
        });
        let process = Process { pid: first.parse().unwrap(), folder: root.unwrap(), handle: None };
        assert!(process.read("cmdline").unwrap().contains("600"));
        io::Write::write_all(&mut say, b"\n").unwrap();
        assert_eq!(line(), first, "the number is used again");
        assert!(!process.is_alive() && process.read("cmdline").is_err(), "and is another process");
        io::Write::write_all(&mut say, b"\n").unwrap();
        child.wait().unwrap();
    }

    fn children(pid: u32) -> Vec<u32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace().map(|child| child.parse().unwrap()).collect()
    }
}
