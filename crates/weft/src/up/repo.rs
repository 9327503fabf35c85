//! The Git repository that a local mesh runs on: the user's own, or a temporary copy of a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use weft_control::git::{GitConfig, GitError, GitSource, read_dir};
use weft_model::SourceFile;

use crate::output::hinted;

/// A work tree that we may or may not commit to.
pub(crate) struct Repo {
    root: PathBuf,
    copied: bool,
}

/// The intent files of a folder: those of the last commit where it is the root of a repository, which the mesh then follows, else as
/// they stand.
pub(crate) fn files(dir: &Path) -> Result<Vec<SourceFile>> {
    let hint = "name a folder with a mesh, like examples/city";
    let committed = || {
        let mut source = GitSource::open(GitConfig::new(dir.display().to_string(), ""))?;
        let head = source.head()?;
        source.files(&head)
    };
    match is_root(dir) {
        true => committed().map_err(|error| hinted(error.to_string(), "")),
        false => read_dir(dir).map_err(|error| {
            let hint = if matches!(error, GitError::Read { .. }) { hint } else { "" };
            hinted(error.to_string(), hint)
        }),
    }
}

/// Whether it is the root of a repository, as far as can be seen from outside.
pub(crate) fn is_root(dir: &Path) -> bool {
    dir.join(".git").exists()
}

impl Repo {
    /// `dir` itself if it is the root of a repository of its own, else a repository at `copy` with these files of it.
    pub(crate) fn open(dir: &Path, files: &[SourceFile], copy: &Path) -> Result<Self> {
        if is_root(dir) {
            let root = dir.canonicalize().with_context(|| format!("finding {}", dir.display()))?;
            return Ok(Self { root, copied: false });
        }
        Self::copy(files, copy)
    }

    /// A repository to play with: these files, committed.
    pub(crate) fn copy(files: &[SourceFile], copy: &Path) -> Result<Self> {
        write(files, copy).with_context(|| format!("copying the intent to {}", copy.display()))?;
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

    /// Writes a file of the work tree.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.root.join(file), text).with_context(|| format!("writing {file}"))
    }

    /// Removes one.
    pub(crate) fn remove(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.root.join(file)).with_context(|| format!("removing {file}"))
    }

    /// The newest commit.
    pub(crate) fn head(&self) -> Result<String> {
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Commits the whole work tree and gives the commit's id.
    pub(crate) fn commit(&self, message: &str) -> Result<String> {
        // All of it is ours: nothing that the user's own Git ignores may be left out.
        self.git(&["add", "--all", "--force"])?;
        self.git(&["-c", "user.name=weft up", "-c", "user.email=weft@localhost", "commit", "-q", "-m", message])?;
        self.head()
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

fn write(files: &[SourceFile], to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for file in files {
        let path = to.join(&*file.path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, file.text().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_file(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("written");
    }

    fn paths(files: &[SourceFile]) -> Vec<&str> {
        files.iter().map(|file| &*file.path).collect()
    }

    #[test]
    fn a_repository_of_its_own_runs_as_it_was_committed() {
        let folder = tempfile::tempdir().expect("a folder");
        let repo = Repo { root: folder.path().to_owned(), copied: false };
        repo.git(&["init", "-q", "-b", "main"]).expect("made");
        let error = files(folder.path()).expect_err("nothing is committed").to_string();
        assert!(error.contains("has no commit on HEAD"), "{error}");
        write_file(&folder.path().join("mesh.yaml"), "kind: Mesh\n");
        repo.commit("one").expect("committed");
        write_file(&folder.path().join("mesh.yaml"), "half an edit");
        write_file(&folder.path().join("draft.yaml"), "half an edit");
        let read = files(folder.path()).expect("a commit");
        assert_eq!((paths(&read), read[0].text()), (vec!["mesh.yaml"], Some("kind: Mesh\n")));
        let opened = Repo::open(folder.path(), &read, Path::new("/nonexistent")).expect("as it is");
        assert!(!opened.is_copy());
    }

    #[test]
    fn a_copy_has_what_was_checked_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let outer = Repo { root: folder.path().join("outer"), copied: false };
        let intent = outer.root.join("intent");
        for file in ["mesh.yaml", "services/board.yaml", "notes.yaml", "README.md"] {
            write_file(&intent.join(file), "kind: Mesh\n");
        }
        write_file(&outer.root.join(".gitignore"), "notes.yaml\n");
        outer.git(&["init", "-q", "-b", "main"]).expect("made");
        let read = files(&intent).expect("a folder");
        let copy = Repo::open(&intent, &read, &folder.path().join("copy")).expect("copied");
        assert!(copy.is_copy());
        assert_eq!(copy.git(&["ls-files"]).expect("listed"), "mesh.yaml\nservices/board.yaml");
        assert_eq!(copy.git(&["status", "--porcelain"]).expect("told"), "");
    }
}
