//! The Git repository that a local mesh runs on: the user's own, or a temporary copy of a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::output::hinted;

/// A work tree that we may or may not commit to.
pub(crate) struct Repo {
    root: PathBuf,
    copied: bool,
}

impl Repo {
    /// `dir` itself if it is the root of a repository of its own, else a copy of it at `copy`, committed.
    pub(crate) fn open(dir: &Path, copy: &Path) -> Result<Self> {
        if dir.join(".git").exists() {
            let root = dir.canonicalize().with_context(|| format!("finding {}", dir.display()))?;
            return Ok(Self { root, copied: false });
        }
        Self::copy(dir, copy)
    }

    /// A copy to play with, whatever `dir` is.
    pub(crate) fn copy(dir: &Path, copy: &Path) -> Result<Self> {
        copy_folder(dir, copy).with_context(|| format!("copying {} to {}", dir.display(), copy.display()))?;
        let repo = Self { root: copy.to_owned(), copied: true };
        repo.git(&["init", "-q", "-b", "main"])?;
        repo.commit("Start")?;
        Ok(repo)
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is ours to change.
    pub(crate) fn is_copy(&self) -> bool {
        self.copied
    }

    /// Replaces `from` by `to` in a file of the work tree.
    pub(crate) fn replace(&self, file: &str, from: &str, to: &str) -> Result<()> {
        let path = self.root.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {file}"))?;
        anyhow::ensure!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(&path, text.replace(from, to)).with_context(|| format!("writing {file}"))
    }

    /// Commits the whole work tree and gives the commit's id.
    pub(crate) fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "-A"])?;
        self.git(&["-c", "user.name=weft up", "-c", "user.email=weft@localhost", "commit", "-q", "-m", message])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    fn git(&self, args: &[&str]) -> Result<String> {
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.root)
            .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
            .args(args)
            .output()
            .map_err(|error| hinted(format!("git cannot be run: {error}"), "install it: apt-get install git"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        anyhow::ensure!(output.status.success(), "git {} failed: {}", args.join(" "), text(&output.stderr));
        Ok(text(&output.stdout))
    }
}

/// Files and folders, no links, no hidden folders.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            copy_folder(&entry.path(), &to.join(entry.file_name()))?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
