//! A Git repository of intent that a test can commit to.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// The repository on disk.
#[derive(Debug)]
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// Copies `template` (this crate's `mesh/` folder, say) into `root` and commits it on `main`.
    pub fn create(root: &Path, template: &Path) -> Self {
        run(Command::new("cp").arg("-r").arg(template).arg(root));
        let repo = Self { root: root.to_owned() };
        repo.git(&["init", "-q", "-b", "main"]);
        repo.commit("Start");
        repo
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The text of a file of the work tree.
    #[track_caller]
    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Writes a file of the work tree, without a commit.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the folder can be made");
        }
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// Replaces `from`, which must be there, by `to` in a file.
    #[track_caller]
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{file} has no `{from}`");
        self.write(file, &text.replace(from, to));
    }

    /// Commits everything and gives the commit's id.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.commit_all("--allow-empty", message)
    }

    fn commit_all(&self, how: &str, message: &str) -> String {
        self.git(&["add", "-A"]);
        let person = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        self.git(&[&person[..], &["commit", "-q", how, "-m", message]].concat());
        self.head()
    }

    /// The id of the newest commit.
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Rewrites the newest commit, with everything that was changed since, and gives the new id.
    #[track_caller]
    pub fn amend(&self) -> String {
        self.commit_all("--amend", "Rewritten")
    }

    /// Makes the `main` of the bare repository `to` what is here, whatever it was.
    #[track_caller]
    pub fn push(&self, to: &Path) {
        self.git(&["push", "-q", "--force", &to.display().to_string(), "HEAD:main"]);
    }

    #[track_caller]
    fn git(&self, args: &[&str]) -> String {
        run(Command::new("git").arg("-C").arg(&self.root).args(args))
    }
}
