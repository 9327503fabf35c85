//! `weft policy schema`: what policies may speak of, for editors and for Cedar's own tools.

use std::process::ExitCode;

use anyhow::Result;
use weft_policy::schema;

use crate::command::asked::{Asked, Repo};
use crate::output::say;

/// Print the schema that every policy is checked against, in Cedar's syntax
///
/// It has the attributes of services, and the header fields, parameters, claims and time zones that Mesh names.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repo: Repo,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let asked = Asked::read(&args.repo.repo)?;
    say(schema::text(&asked.intent.mesh));
    Ok(ExitCode::SUCCESS)
}
