//! Repositories that are not as `git init` makes them: read, or told apart from none.

use super::*;

/// Why a local repository cannot be followed.
fn refusal(path: &Path) -> String {
    let config = GitConfig::new(path.to_str().expect("UTF-8"), "/nonexistent");
    let opened = GitSource::open(config).and_then(|mut source| {
        let head = source.head()?;
        source.files(&head)
    });
    opened.expect_err("it cannot be read").to_string()
}

#[test]
fn a_repository_with_sha256_objects_is_read_as_any_other() {
    let repo = Repo::init(&["--object-format=sha256"]);
    for n in 0..20 {
        repo.write(&format!("services/s{n}.yaml"), &format!("n: {n}\n{}", "# more\n".repeat(n)));
    }
    repo.write(".gitignore", "notes.yaml\n");
    repo.write("notes.yaml", "no intent");
    let expected = read_dir(repo.path()).expect("a work tree");
    assert_eq!(expected.len(), 20);
    let id = repo.commit("one");
    assert_eq!(id.len(), 64);
    let read = || {
        let mut source = repo.open();
        let head = source.head().expect("a head");
        assert_eq!((head.as_str(), head.short()), (&*id, &id[..12]));
        source.commit(&head).expect("a commit")
    };
    assert_eq!(read().files, expected);
    repo.git(&["gc", "--quiet"]);
    repo.git(&["commit-graph", "write"]);
    repo.git(&["multi-pack-index", "write"]);
    assert_eq!((read().files, read().subject), (expected.clone(), "one".to_owned()));
    assert_eq!(read_dir(repo.path()).expect("a work tree"), expected);
}

#[test]
fn references_in_a_reftable_are_not_taken_for_no_branches() {
    let repo = Repo::init(&["--ref-format=reftable"]);
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.commit("one");
    let place = repo.path().display();
    let expected = format!(
        "the Git repository at {place} keeps its references as `reftable`, which is not supported: \
         a new clone keeps them in files; so does, from Git 2.48, `git refs migrate --ref-format=files`"
    );
    assert_eq!(refusal(repo.path()), expected);
    // The work tree can be checked all the same, and a clone be followed.
    assert_eq!(paths(&read_dir(repo.path()).expect("a work tree")), ["mesh.yaml"]);
    repo.git(&["clone", "--quiet", "--bare", ".", "clone.git"]);
    let clone = repo.path().join("clone.git");
    let mut source = GitSource::open(GitConfig::new(clone.to_str().expect("UTF-8"), "/nonexistent")).expect("opens");
    let head = source.head().expect("the advice helps");
    assert_eq!(paths(&source.files(&head).expect("files")), ["mesh.yaml"]);
}

#[test]
fn an_extension_that_nobody_here_knows_is_named() {
    let repo = Repo::new();
    repo.commit("one");
    repo.git(&["config", "extensions.sideways", "true"]);
    assert!(repo.open().head().is_ok(), "version 0 has no extensions");
    repo.write(".git/config", "[core]\nrepositoryformatversion = 1\n[extensions]\nnoop = true\nsideways = true\n");
    let error = refusal(repo.path());
    assert!(error.contains("has the extension `sideways`, which is not supported"), "{error}");
}

/// What is there and cannot be opened is not called missing: `git init` would not help.
#[test]
fn a_broken_repository_is_not_called_none() {
    let repo = Repo::new();
    repo.write("intent/mesh.yaml", "kind: Mesh\n");
    repo.commit("one");
    let config = std::fs::read_to_string(repo.path().join(".git/config")).expect("a configuration");
    for broken in [
        "[core]\nrepositoryformatversion = 9\n",
        "[core\n",
        "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = sha512\n",
    ] {
        repo.write(".git/config", broken);
        let error = refusal(repo.path());
        assert!(error.starts_with(&format!("the Git repository at {}", repo.path().display())), "{error}");
        // Where it is is known all the same, so that it can be followed once it is mended.
        let found = GitConfig::discover(&repo.path().join("intent"), "/nonexistent").expect("a repository");
        assert_eq!((found.url.as_str(), found.path.as_str()), (repo.path().to_str().expect("UTF-8"), "intent"));
        assert!(read_dir(repo.path()).is_err(), "{broken}");
    }
    repo.write(".git/config", &config);
    std::fs::remove_file(repo.path().join(".git/HEAD")).expect("removed");
    assert!(refusal(repo.path()).contains("cannot be opened"), "{}", refusal(repo.path()));
    // A work tree whose repository has moved away.
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join(".git"), "gitdir: /nonexistent/repository\n").expect("written");
    assert!(refusal(folder.path()).contains("cannot be opened"), "{}", refusal(folder.path()));
}

#[test]
fn where_there_is_no_repository_that_is_said() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path().display();
    assert_eq!(refusal(folder.path()), format!("no Git repository at {place}: the folder has no .git"));
    std::fs::write(folder.path().join("file"), "").expect("written");
    assert_eq!(refusal(&folder.path().join("file")), format!("no Git repository at {place}/file: it is not a folder"));
    let error = refusal(&folder.path().join("gone"));
    assert!(error.starts_with("no Git repository at") && error.contains("No such file"), "{error}");
}

/// Advice to commit would not help where a commit is lost.
#[test]
fn objects_that_are_missing_are_not_taken_for_no_commit() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    let id = repo.commit("one");
    let object = repo.path().join(".git/objects").join(&id[..2]).join(&id[2..]);
    std::fs::rename(&object, object.with_extension("away")).expect("renamed");
    let error = refusal(repo.path());
    assert!(error.starts_with("reading HEAD failed") && error.contains(&id), "{error}");
    std::fs::rename(object.with_extension("away"), &object).expect("renamed");

    // A clone that left objects for later, which Git fetches when it needs them.
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let folder = TempDir::new().expect("a folder");
    let clone = folder.path().join("clone");
    let url = format!("file://{}", repo.path().display());
    let partial = ["clone", "--quiet", "--filter=blob:none", "--no-checkout", &url, clone.to_str().expect("UTF-8")];
    repo.git(&partial);
    let error = refusal(&clone);
    assert!(error.contains("this is a partial clone") && error.contains("git fetch --refetch --no-filter"), "{error}");
    repo.git(&["-C", clone.to_str().expect("UTF-8"), "fetch", "--quiet", "--refetch", "--no-filter"]);
    let config = GitConfig::new(clone.to_str().expect("UTF-8"), "/nonexistent");
    let mut source = GitSource::open(config).expect("opens");
    let head = source.head().expect("a head");
    assert_eq!(paths(&source.files(&head).expect("the advice helps")), ["mesh.yaml"]);
}
