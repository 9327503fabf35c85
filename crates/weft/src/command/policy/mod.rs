//! `weft policy`: questions about the policies of a folder, policies brought in from elsewhere, and the glass to break.

mod break_glass;
mod can;
mod import;
mod replay;
mod schema;
mod test;

use std::process::ExitCode;

use anyhow::Result;

use super::asked::exit;
use crate::{Done, Threads};

/// Work with policies
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    Test(test::Args),
    WhoCan(Box<can::WhoCan>),
    WhatCan(can::WhatCan),
    Replay(replay::Args),
    Schema(schema::Args),
    BreakGlass(break_glass::Args),
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
        Policy::Test(args) => Ok(exit(test::run(args))),
        Policy::WhoCan(args) => Ok(exit(can::who_can(args))),
        Policy::WhatCan(args) => Ok(exit(can::what_can(args))),
        Policy::Replay(args) => Ok(exit(replay::run(args))),
        Policy::Schema(args) => schema::run(args),
        Policy::BreakGlass(args) => crate::start(Threads::One, "warn", break_glass::run(args).done()),
        Policy::Import(Import::Istio(args)) => import::run(args),
    }
}
