//! `weft check`: the control plane's own judgement on a folder, before it is committed.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use weft_control::check::{Look, check, render, to_json};
use weft_control::git::{GitError, read_dir, safe};
use weft_model::Severity;

use crate::output::{Format, count, hinted, say};

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
    let files = read_dir(&args.dir).map_err(|error| {
        let hint = match &error {
            GitError::Read { .. } if args.dir.to_str().is_some_and(|dir| dir.contains("://")) => {
                "it checks a folder: clone the repository first"
            }
            GitError::Read { .. } => "name a folder with the mesh's YAML and Cedar files",
            _ => "", // it says itself what to do
        };
        hinted(safe(&error.to_string()), hint)
    })?;
    let checked = check(&files);
    match args.output {
        Format::Json => say(format_args!("{:#}\n", to_json(&checked.findings))),
        Format::Text => {
            let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            say(render(&checked.findings, &files, Look { color, ..Look::default() }));
            if let Some(intent) = &checked.intent {
                say(format_args!(
                    "{} is good: mesh {} ({}), {}, {}, {}\n",
                    args.dir.display(),
                    intent.mesh.name,
                    intent.mesh.trust_domain,
                    count(intent.services.len(), "service"),
                    count(intent.roles.len(), "role"),
                    count(intent.policies.len(), "policy file")
                ));
            }
        }
    }
    let refused = checked.findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
