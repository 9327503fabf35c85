//! `weft policy`: policies brought in from elsewhere.

mod import;

use std::process::ExitCode;

use anyhow::Result;

/// Work with policies
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    /// Bring in the policies of another mesh
    #[command(subcommand)]
    Import(Import),
}

/// Where policies are brought in from.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Import {
    Istio(import::Args),
}

pub(crate) fn run(command: &Policy) -> Result<ExitCode> {
    match command {
        Policy::Import(Import::Istio(args)) => import::run(args),
    }
}
