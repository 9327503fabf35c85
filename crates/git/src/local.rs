//! A repository on this machine: opened, or told apart from what is none and from what is not understood.

use std::path::{Path, PathBuf};

use gix::open::Options;

use super::error::{GitError, chain};

/// Extensions of the repository format that gix reads, or that change nothing for a reader
/// (gitrepository-layout(5), `extensions.*`). `refstorage` and `objectformat` are judged by their values.
const UNDERSTOOD: [&str; 9] = [
    "noop",
    "noop-v1",
    "preciousobjects",
    "partialclone",
    "worktreeconfig",
    "relativeworktrees",
    "objectformat",
    "compatobjectformat",
    "refstorage",
];

/// Opens the repository at `path`, to read commits: a work tree, a `.git` folder or a bare repository.
pub(super) fn open(path: &Path, options: Options) -> Result<gix::Repository, GitError> {
    let repo = understood(path, options)?;
    // It would seem to have no branches.
    let storage = repo.config_snapshot().string("extensions.refStorage").filter(|storage| *storage != "files");
    match storage {
        None => Ok(repo),
        Some(storage) => Err(GitError::Format {
            place: path.display().to_string(),
            what: format!("keeps its references as `{storage}`, which is not supported"),
            advice: "a new clone keeps them in files; so does, from Git 2.48, `git refs migrate --ref-format=files`"
                .into(),
        }),
    }
}

/// The repository whose work tree, or which itself, holds the folder `dir`, as the user's own Git would open it.
pub(super) fn around(dir: &Path) -> Result<Option<gix::Repository>, GitError> {
    let Ok((found, _)) = gix::discover::upwards(dir) else { return Ok(None) };
    understood(found.as_ref(), Options::default()).map(Some)
}

/// The root of the repository and where `dir` is in it. `None` in the midst of a `.git` folder.
pub(super) fn place_in(repo: &gix::Repository, dir: &Path) -> Option<(PathBuf, PathBuf)> {
    match repo.workdir() {
        Some(root) => {
            let root = root.canonicalize().ok()?;
            let path = dir.strip_prefix(&root).ok()?.to_owned();
            (!dir.starts_with(repo.git_dir().canonicalize().ok()?)).then_some((root, path))
        }
        // A bare repository is its own root, and has no folders.
        None => (repo.git_dir().canonicalize().ok()? == dir).then(|| (dir.to_owned(), PathBuf::new())),
    }
}

/// As [`place_in`], of a repository that cannot be opened: its work tree is where its `.git` is.
pub(super) fn place_below(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let (found, _) = gix::discover::upwards(dir).ok()?;
    let (git_dir, root) = found.into_repository_and_work_tree_directories();
    let root = root.unwrap_or(git_dir).canonicalize().ok()?;
    let path = dir.strip_prefix(&root).ok()?.to_owned();
    Some((root, path))
}

/// Whether objects may be missing that were left for later (`git clone --filter`).
pub(super) fn is_partial(repo: &gix::Repository) -> bool {
    let config = repo.config_snapshot();
    let promises = |section: gix::config::file::SectionRef<'_>| section.value("promisor").is_some();
    config.string("extensions.partialClone").is_some()
        || config.sections_by_name("remote").into_iter().flatten().any(promises)
}

/// Opens a repository whose format is known. Reading on in another would show a repository that is not there.
fn understood(path: &Path, options: Options) -> Result<gix::Repository, GitError> {
    let repo = gix::open_opts(path, options).map_err(|error| unopened(path, &error))?;
    match unknown_extension(&repo.config_snapshot()) {
        None => Ok(repo),
        Some(name) => Err(GitError::Format {
            place: path.display().to_string(),
            what: format!("has the extension `{name}`, which is not supported"),
            advice: "clone it into a repository without that, or serve it over https://".to_owned(),
        }),
    }
}

/// An extension of the repository's format that is not [`UNDERSTOOD`]. Version 0 has none, whatever its configuration says.
fn unknown_extension(config: &gix::config::File) -> Option<String> {
    let version = config.integer("core.repositoryFormatVersion").ok().flatten().unwrap_or(0);
    let sections = config.sections_by_name("extensions").into_iter().flatten();
    let mut names = sections.flat_map(|section| section.value_names().map(|name| name.to_string()).collect::<Vec<_>>());
    names.find(|name| version > 0 && !UNDERSTOOD.contains(&&*name.to_ascii_lowercase()))
}

/// Why there is no repository to read at `path`.
fn unopened(path: &Path, error: &gix::Error) -> GitError {
    let place = path.display().to_string();
    let dot_git = path.join(".git");
    let is_one = gix::discover::is_git(path).is_ok() || gix::discover::is_git(&dot_git).is_ok();
    if is_one || dot_git.symlink_metadata().is_ok() {
        return GitError::Broken { place, why: chain(error) };
    }
    let why = match path.metadata() {
        Ok(found) if found.is_dir() => "the folder has no .git".to_owned(),
        Ok(_) => "it is not a folder".to_owned(),
        Err(error) => error.to_string(),
    };
    GitError::Open { place, why }
}
