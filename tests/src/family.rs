//! A process and its descendants, as the kernel knows them.

use std::path::Path;

/// A process at the moment of the look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Process id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its program's name, as the kernel keeps it: 15 bytes at most.
    pub name: String,
    /// Whether it has ended and nobody has asked how.
    pub zombie: bool,
}

/// Every process of this machine, or of the container that the test runs in.
pub fn everybody() -> Vec<Member> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| member(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// Fields 1 to 4 of `/proc/PID/stat` (proc(5)).
fn member(pid: u32, stat: &str) -> Option<Member> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let zombie = fields.next()? == "Z";
    Some(Member { pid, parent: fields.next()?.parse().ok()?, name: name.to_owned(), zombie })
}

/// The descendants of a process, without itself.
pub fn descendants(ancestor: u32) -> Vec<Member> {
    let all = everybody();
    let mut found: Vec<Member> = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for member in all.iter().filter(|member| member.parent == parent) {
            parents.push(member.pid);
            found.push(member.clone());
        }
    }
    found
}

/// Who works in this folder, whoever its parent is by now. A process inherits the folder of whoever started it.
pub fn living_in(folder: &Path) -> Vec<Member> {
    let at_home =
        |member: &Member| std::fs::read_link(format!("/proc/{}/cwd", member.pid)).is_ok_and(|place| place == folder);
    everybody().into_iter().filter(at_home).collect()
}
