//! Side-by-side measurements of Weft against peers, on one machine and in one interleaved run.
//!
//! `weft-bench chain` measures the chain client -> sidecar -> mutual TLS -> sidecar -> app for three subjects: `direct` (no
//! proxy), `envoy` (stock Envoy as both sidecars) and `weft`; with `--baseline`, also for an older `weft`. It writes
//! `target/bench/chain.json` and the table in `docs/benchmarks.md`. Absolute numbers do not travel between machines; ratios
//! within one run do, and counts of instructions and system calls on machines that are busy too.
//!
//! `weft-bench authz` measures decisions of the policy engine beside plain Cedar, in one process, and checks of ext_authz beside a plain
//! tonic server.
//!
//! `weft-bench identity` measures renewals of certificates over the control plane's API, in CPU time of the server.

mod app;
mod authz;
mod callgrind;
mod chain;
mod counts;
mod crowd;
mod envoy;
mod h2load;
mod identity;
mod meter;
mod perf;
mod report;
mod spread;
mod strace;
mod subject;
mod table;
mod tool;
mod weft;
mod wrk;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The allocator of `weft`, so that what is measured in this process is what a sidecar does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Side-by-side measurements against peers")]
struct Arguments {
    #[command(subcommand)]
    case: Case,
}

#[derive(Subcommand)]
enum Case {
    /// One call through a pair of sidecars: CPU, instructions, system calls, latency, memory.
    Chain(chain::Options),
    /// One policy decision: latency beside plain Cedar, and what a bundle takes to load and to keep.
    Authz(authz::Options),
    /// One certificate: what its renewal costs the control plane, beside a bare signature and a bare handshake.
    Identity(identity::Options),
    /// Answers checks of ext_authz (the benchmark starts it by itself).
    AuthzServer {
        /// Whose server.
        #[arg(long)]
        who: authz::Who,
        /// Unix socket to listen on.
        #[arg(long)]
        socket: PathBuf,
    },
    /// Loads a bundle and says what it took (the benchmark starts it by itself).
    Load {
        /// The file.
        #[arg(long)]
        bundle: PathBuf,
    },
    /// The app at the end of the chain (the benchmark starts it by itself).
    App {
        /// Where to listen.
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().case {
        Case::Chain(options) => chain::run(&options),
        Case::Authz(options) => authz::run(&options),
        Case::Identity(options) => identity::run(&options),
        Case::AuthzServer { who, socket } => authz::serve(who, &socket),
        Case::Load { bundle } => authz::load(&bundle),
        Case::App { listen } => app::serve(listen),
    }
}

/// The root of the source tree.
fn root() -> PathBuf {
    weft_tests::peers::root()
}
