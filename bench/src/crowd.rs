//! What the agent of a machine needs for many workloads: each a process of a user of its own, with a certificate of its own, that listens.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use weft_tests::agent::{Agent, may_be_others};
use weft_tests::mesh::Mesh;
use weft_tests::peers;

use crate::{meter, root};

/// Processes, each of which is another service.
pub(crate) const WORKLOADS: usize = 1_000;
/// The users that they are; no account is for them.
const FIRST_USER: usize = 300_000;

/// Resident memory of the agent while all of them listen, in KiB; `None` where programs cannot be run as other users.
pub(crate) fn agent_rss_kib() -> Result<Option<u64>> {
    if !may_be_others() {
        return Ok(None);
    }
    let mesh = Mesh::start_program(&peers::weft(), &root().join("bench/mesh"), |repo| {
        let service = |number: usize| {
            let uid = FIRST_USER + number;
            format!(
                "kind: Service\nname: crowd-{number}\nnamespace: bench\nport: 8080\nprotocol: http\nattest: [{{uid: {uid}}}]\n"
            )
        };
        let all: Vec<String> = (0..WORKLOADS).map(service).collect();
        repo.write("crowd.yaml", &all.join("---\n"));
    });
    let mut agent = Agent::start(&mesh, "crowded");
    let mut crowd = Command::new(peers::venv("python"))
        .arg(peers::script("workload_crowd.py"))
        .arg(&agent.socket)
        .args([FIRST_USER.to_string(), WORKLOADS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("starting Python")?;
    let mut said = String::new();
    let read = BufReader::new(crowd.stdout.take().context("it is piped")?).read_line(&mut said);
    let rss = meter::rss_kib(agent.process().id());
    drop(crowd.stdin.take());
    let _ = crowd.wait(); // it ends itself and all others by a signal
    read?;
    ensure!(said.trim() == format!("ready {WORKLOADS}"), "not all workloads have their certificates: {said}");
    rss.map(Some)
}
