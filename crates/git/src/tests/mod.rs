//! Real repositories, made with the `git` command.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use weft_model::source::{Content, SourceFile};

use super::*;

mod commits;
mod formats;
mod remote;
mod worktree;

/// Longest wait for what must come.
const BOUND: Duration = Duration::from_secs(20);

struct Repo(TempDir);

impl Repo {
    fn new() -> Self {
        Self::init(&[])
    }

    /// A repository of a format that `options` of `git init` say.
    fn init(options: &[&str]) -> Self {
        let repo = Self(TempDir::new().expect("a folder"));
        repo.git(&[&["init", "--quiet", "--initial-branch=main"], options].concat());
        repo
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.path())
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("written");
    }

    /// Commits everything; the new id.
    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn config(&self) -> GitConfig {
        GitConfig::new(self.path().to_str().expect("UTF-8"), "/nonexistent")
    }

    fn open(&self) -> GitSource {
        GitSource::open(self.config()).expect("a repository")
    }
}

fn paths(files: &[SourceFile]) -> Vec<&str> {
    files.iter().map(|file| &*file.path).collect()
}

async fn until(watch: &mut watch::Receiver<Observed>, wanted: impl FnMut(&Observed) -> bool) -> Observed {
    tokio::time::timeout(BOUND, watch.wait_for(wanted)).await.expect("in time").expect("the watch lives").clone()
}

fn at(observed: &Observed, id: &str) -> bool {
    observed.commit.as_ref().is_some_and(|commit| commit.id.as_str() == id)
}
