//! `weft up`: a whole mesh on this machine, from one folder of intent.
//!
//! The control plane and each sidecar are child processes of this very binary with ports and folders of their own, as they would be
//! on machines of their own; nothing is shared but the network.

mod child;
mod member;
mod mesh;
mod repo;
mod report;
mod summary;
mod tour;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use weft_control::check::{Look, check, render};
use weft_model::{Intent, SourceFile};

use crate::output::hinted;
use mesh::LocalMesh;
use repo::Repo;
use weft_process::signal::Stop;

/// Run a whole mesh on this machine: control plane, sidecars and apps
///
/// Starts the control plane, and a sidecar with its app for each entry of `kind: Local`. The root of a Git repository runs as it was last committed, and then follows its commits; any other folder is copied to a temporary repository. The mesh of examples/city first gives a tour.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the intent
    #[arg(default_value = "examples/city")]
    dir: PathBuf,
    /// Give the tour, then stop; exit code 0 only if everything held. Steps that need an Envoy are skipped where there is none
    #[arg(long)]
    once: bool,
    /// Go without the tour
    #[arg(long, conflicts_with = "once")]
    no_tour: bool,
    /// Keep state, logs and the copy of the intent in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let files = repo::files(&args.dir)?;
    let intent = judge(&args.dir, &files)?;
    let tour = !args.no_tour && tour::fits(&intent);
    if args.once && !tour {
        return Err(hinted("the tour needs the services of examples/city", "weft up --once examples/city"));
    }
    let temporary;
    let folder = match &args.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            folder.canonicalize()?
        }
        None => {
            // Short, because Envoy's agent has a Unix socket in it.
            temporary = tempfile::Builder::new().prefix("weft-").tempdir().context("making a temporary folder")?;
            temporary.path().to_owned()
        }
    };
    let copy = folder.join("intent");
    // The tour makes commits, and gives certificates a short life: never in somebody's own repository.
    let repo = if tour { Repo::copy(&files, &copy)? } else { Repo::open(&args.dir, &files, &copy)? };
    if tour {
        tour::prepare(&repo)?;
    }

    let started = std::time::Instant::now();
    let mut mesh = tokio::select! {
        mesh = LocalMesh::start(repo, &intent, &folder) => mesh?,
        () = stop.wait() => return Ok(ExitCode::FAILURE),
    };
    println!("mesh {} is up after {:.1} s\n", intent.mesh.name, started.elapsed().as_secs_f64());

    let outcome = tokio::select! {
        outcome = live(&args, &mut mesh, tour) => outcome,
        () = stop.wait() => Ok(if args.once { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    };
    eprintln!("stopping");
    tokio::select! {
        () = mesh.stop() => outcome,
        () = stop.again() => {
            eprintln!("told to stop once more: what still runs is killed");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The tour, then the summary for as long as everything runs.
async fn live(args: &Args, mesh: &mut LocalMesh, tour: bool) -> Result<ExitCode> {
    if tour {
        let held = tour::run(mesh).await;
        if args.once {
            return Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    println!("{}", summary::describe(mesh));
    summary::follow(mesh).await?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the files of the folder before anything is started.
fn judge(dir: &Path, files: &[SourceFile]) -> Result<Intent> {
    let checked = check(files);
    let Some(intent) = checked.intent else {
        eprint!("{}", render(&checked.findings, files, Look::default()));
        let (what, then) = match repo::is_root(dir) {
            true => ("last commit of", " and commit"),
            false => ("intent in", ""),
        };
        return Err(hinted(
            format!("the {what} {} has errors", dir.display()),
            format!("mend them{then}: weft check {}", dir.display()),
        ));
    };
    if intent.local.is_empty() {
        let hint = "add a document `kind: Local` with `apps: [{service: NS/NAME, command: [...]}]`";
        return Err(hinted(format!("{} names no apps to run", dir.display()), hint));
    }
    Ok(intent)
}
