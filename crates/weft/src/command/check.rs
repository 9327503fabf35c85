//! `weft check`: the control plane's own judgement on a folder, before it is committed.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use weft_control::check::{Look, check, render, to_json};
use weft_control::git::read_dir;
use weft_model::Severity;

use crate::output::{Format, hinted};

/// Check the intent in a folder, as the control plane will check the commit
///
/// Exit code 1 if there is an error, 0 with warnings only.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the intent
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// How findings are printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let files = read_dir(&args.dir)
        .map_err(|error| hinted(error.to_string(), "name a folder with the mesh's YAML and Cedar files"))?;
    let checked = check(&files);
    match args.output {
        Format::Json => println!("{:#}", to_json(&checked.findings)),
        Format::Text => {
            let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print!("{}", render(&checked.findings, &files, Look { color, ..Look::default() }));
            if let Some(intent) = &checked.intent {
                println!(
                    "{} is good: mesh {} ({}), {} services, {} roles, {} policy files",
                    args.dir.display(),
                    intent.mesh.name,
                    intent.mesh.trust_domain,
                    intent.services.len(),
                    intent.roles.len(),
                    intent.policies.len()
                );
            }
        }
    }
    let refused = checked.findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
