//! Weft: a service mesh in one binary. Every role is a subcommand; this file only parses and hands over.

mod address;
mod agent;
mod command;
mod decisions;
mod demo;
mod http;
mod output;
mod proof;
mod sidecar;
mod state;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use weft_process::{child, core_dumps, exec, guard};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh in one binary: encrypted, authenticated, authorized, observable calls between services, from a Git
/// repository of intent, on plain machines.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Begin with `weft up examples/city`: a whole mesh on this machine.\nLogs go to standard error; RUST_LOG=debug shows more."
)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

/// What each does stands at its arguments.
#[derive(Debug, Subcommand)]
enum Role {
    Up(up::Args),
    Server(Box<command::server::Args>),
    Sidecar(Box<sidecar::Args>),
    Agent(Box<agent::Args>),
    Check(command::check::Args),
    Explain(Box<command::explain::Args>),
    #[command(subcommand)]
    Policy(command::policy::Policy),
    Logs(command::logs::Args),
    Status(command::status::Args),
    #[command(subcommand)]
    Identity(command::identity::Identity),
    Demo(demo::Args),
    #[command(hide = true)]
    Guard(guard::Args),
    #[command(hide = true)]
    Exec(exec::Args),
}

impl Role {
    /// Whether it runs until it is told to stop.
    fn lasts(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Server(_) | Self::Sidecar(_) | Self::Agent(_) | Self::Demo(_))
    }

    /// Whether it has private keys in memory.
    fn holds_keys(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Sidecar(_) | Self::Agent(_))
    }
}

fn main() -> ExitCode {
    child::follow_parent();
    let cli = Cli::parse();
    if cli.role.lasts() && guard::is_first_process() {
        return guard::as_init();
    }
    if cli.role.holds_keys()
        && let Err(error) = core_dumps::forbid()
    {
        eprintln!("warning: a crash may leave private keys in a core dump: {error}");
    }
    let result = match cli.role {
        Role::Up(args) => start(Threads::Many, "warn", up::run(args)),
        Role::Server(args) => start(Threads::Many, "info", command::server::run(*args).done()),
        Role::Sidecar(args) => start(Threads::One, "info", sidecar::run(*args)),
        Role::Agent(args) => start(Threads::One, "info", agent::run(*args)),
        Role::Check(args) => command::check::run(&args),
        Role::Explain(args) => command::explain::run(&args),
        Role::Policy(command) => command::policy::run(&command),
        Role::Logs(args) => command::logs::run(&args),
        Role::Status(args) => start(Threads::One, "warn", command::status::run(args)),
        Role::Identity(args) => start(Threads::One, "warn", command::identity::run(args).done()),
        Role::Demo(args) => start(Threads::Many, "info", demo::run(args).done()),
        Role::Guard(args) => Ok(guard::run(args)),
        Role::Exec(args) => Ok(exec::run(args)),
    };
    result.unwrap_or_else(|error| {
        output::print_error(&error);
        ExitCode::FAILURE
    })
}

/// How many threads run a role's tasks.
enum Threads {
    /// The role is small, or has worker threads of its own.
    One,
    /// One a core.
    Many,
}

fn start(threads: Threads, log: &str, role: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    // Whose certificate it is that is not trusted, and what to do, is told once by whoever asked; the verifier tells neither, every time.
    let default = || format!("{log},rustls_platform_verifier=off").into();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false) // it would be told on standard error, and a full disk there would end the process
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    // Cedar parses and validates policies by recursion; how deep is up to who writes them.
    builder.thread_stack_size(16 << 20);
    let runtime = builder.enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(role);
    runtime.shutdown_background(); // whoever had something to finish has done it
    result
}

/// A role that succeeds when it returns.
trait Done {
    async fn done(self) -> Result<ExitCode>;
}

impl<F: Future<Output = Result<()>>> Done for F {
    async fn done(self) -> Result<ExitCode> {
        self.await.map(|()| ExitCode::SUCCESS)
    }
}
