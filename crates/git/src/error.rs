//! Why intent could not be read, in words for whoever runs the control plane.

use super::commit::CommitId;

/// Why the intent could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// The URL is of no kind that is read.
    #[error("{url} cannot be a source of intent: {why}")]
    Url {
        /// Without a password.
        url: String,
        /// What to do.
        why: &'static str,
    },
    /// There is no repository.
    #[error("no Git repository at {place}: {why}")]
    Open {
        /// Where it was looked for.
        place: String,
        /// What is there instead.
        why: String,
    },
    /// There is a repository that cannot be used as it is.
    #[error("the Git repository at {place} {what}: {advice}")]
    Format {
        /// Its path.
        place: String,
        /// What is unusual in it.
        what: String,
        /// What to do.
        advice: String,
    },
    /// There is a repository, and it cannot be opened.
    #[error("the Git repository at {place} cannot be opened: {why}")]
    Broken {
        /// Its path.
        place: String,
        /// Git's words.
        why: String,
    },
    /// A remote repository has no place on this machine.
    #[error("the repository cannot be mirrored to {place}: {why}")]
    Mirror {
        /// The mirror's path.
        place: String,
        /// The operating system's or Git's words.
        why: String,
    },
    /// The branch does not exist or has no commit.
    #[error("{place} has no commit on {branch}: commit the intent, or name another branch")]
    NoCommit {
        /// Path or URL of the repository.
        place: String,
        /// The branch, or `HEAD`.
        branch: String,
    },
    /// The configured path is not a folder of the commit.
    #[error("commit {commit} has no folder {path}")]
    NoPath {
        /// Where it was looked for.
        commit: CommitId,
        /// What was looked for.
        path: String,
    },
    /// The remote repository did not answer, or refused.
    #[error("cannot fetch {url}: {why}")]
    Fetch {
        /// Without a password.
        url: String,
        /// In one line, with what to do if that is known.
        why: String,
    },
    /// The remote repository wants to know who asks, and was not told, or does not accept who does.
    #[error("{url} {}", login_advice(*given))]
    Login {
        /// Without a password.
        url: String,
        /// Whether the URL has a login.
        given: bool,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {url} is not trusted: {why}")]
    Certificate {
        /// Without a password.
        url: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The file of trusted authorities cannot be used.
    #[error("cannot use the authorities for the repository in {file}: {why}")]
    Authority {
        /// Where it is.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Objects of the repository are missing or broken.
    #[error("reading {what} failed: {why}")]
    Read {
        /// Object or folder.
        what: String,
        /// Git's words.
        why: String,
    },
}

fn login_advice(given: bool) -> &'static str {
    if given {
        "refuses the login in its URL: is the token whole, not expired, and allowed to read this repository?"
    } else {
        "asks for a login: write https://USER:TOKEN@… (WEFT_REPO keeps it off the command line), or set up a Git credential helper \
         for the control plane's user"
    }
}

impl GitError {
    /// Whether opening the repository anew may help at once: somebody may have moved, repacked or remade it. A remote that did not
    /// answer, or not well, has until the next look.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(
            self,
            Self::Open { .. }
                | Self::Format { .. }
                | Self::Broken { .. }
                | Self::Mirror { .. }
                | Self::NoPath { .. }
                | Self::Read { .. }
        )
    }
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().trim().replace('\n', " ");
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string().trim().replace('\n', " ");
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
