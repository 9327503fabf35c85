//! Machines of their own, as far as the network goes: two network namespaces with one wire between them and nothing else.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

use crate::process::{Process, run};
use crate::{curl, peers};

/// Two machines that see each other.
#[derive(Debug)]
pub struct Wired {
    /// At 10.77.0.1.
    pub one: Namespace,
    /// At 10.77.0.2.
    pub other: Namespace,
}

/// One of them; its end of the wire and itself go when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Its address on the wire.
    pub address: &'static str,
}

impl Wired {
    /// Makes them; nothing where only root may, which is said.
    pub fn make() -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: only root can make network namespaces");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("weft-{}-{count}{side}", std::process::id());
        let (one, other) = (Namespace::make(name("a"), "10.77.0.1"), Namespace::make(name("b"), "10.77.0.2"));
        let wire = ["link", "add", "wire", "netns", &one.name, "type", "veth", "peer", "name", "wire", "netns"];
        ip(&[&wire[..], &[&other.name]].concat());
        for namespace in [&one, &other] {
            let address = format!("{}/24", namespace.address);
            ip(&["-n", &namespace.name, "address", "add", &address, "dev", "wire"]);
            ip(&["-n", &namespace.name, "link", "set", "wire", "up"]);
        }
        Some(Self { one, other })
    }
}

impl Namespace {
    fn make(name: String, address: &'static str) -> Self {
        ip(&["netns", "add", &name]);
        let namespace = Self { name, address };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    fn under(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Starts a `weft` in it.
    #[track_caller]
    pub fn start(&self, folder: &Path, name: &str, args: &[&str]) -> Process {
        Process::start_under(&self.under(), folder, name, peers::weft(), args, &[])
    }

    /// Starts another program in it.
    #[track_caller]
    pub fn start_program(&self, folder: &Path, name: &str, program: &Path, args: &[&str]) -> Process {
        Process::start_under(&self.under(), folder, name, program, args, &[])
    }

    /// Runs `weft` in it.
    pub fn weft(&self, args: &[&str]) -> Output {
        Command::new("ip").args(&self.under()[1..]).arg(peers::weft()).args(args).output().expect("ip runs")
    }

    /// Runs curl in it.
    #[track_caller]
    pub fn curl(&self, args: &[&str]) -> curl::Reply {
        curl::curl_under(&self.under(), args)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status(); // nothing is left to tell it to
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}
