//! Commits of local repositories, and watching them.

use std::time::Instant;

use super::*;

#[test]
fn a_commit_has_its_intent_files_and_nothing_else() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write("services/board.yml", "kind: Service\n");
    repo.write("services/deep/er/web.yaml", "x: 1\n");
    repo.write("policies/abac.cedar", "permit(principal, action, resource);");
    for other in ["README.md", ".github/workflows/ci.yaml", ".hidden.yaml", "services/notes.txt"] {
        repo.write(other, "not intent");
    }
    let id = repo.commit("Add the mesh\n\nWith a body.");
    repo.write("mesh.yaml", "uncommitted");

    let mut source = repo.open();
    let head = source.head().expect("a head");
    assert_eq!((head.as_str(), head.short()), (&*id, &id[..12]));
    let commit = source.commit(&head).expect("a commit");
    assert_eq!((&*commit.subject, &*commit.author), ("Add the mesh", "Ada"));
    assert_eq!(
        paths(&commit.files),
        ["mesh.yaml", "policies/abac.cedar", "services/board.yml", "services/deep/er/web.yaml"]
    );
    assert_eq!(commit.files[0].text(), Some("kind: Mesh\n"), "the work tree is not looked at");
}

#[test]
fn a_folder_of_a_repository_can_be_the_intent() {
    let repo = Repo::new();
    repo.write("examples/city/mesh.yaml", "kind: Mesh\n");
    repo.write("other.yaml", "x: 1\n");
    repo.commit("one");
    for path in ["examples/city", "/examples/city/", "examples/city/"] {
        let mut source = GitSource::open(GitConfig { path: path.to_owned(), ..repo.config() }).expect("opens");
        let head = source.head().expect("a head");
        let files = source.files(&head).expect("files");
        assert_eq!(paths(&files), ["mesh.yaml"]);
    }
    for path in ["examples/town", "other.yaml"] {
        let mut source = GitSource::open(GitConfig { path: path.to_owned(), ..repo.config() }).expect("opens");
        let head = source.head().expect("a head");
        let error = source.files(&head).expect_err("no such folder");
        assert!(matches!(&error, GitError::NoPath { path: p, .. } if p == path), "{error}");
    }

    let found = discover(&repo.path().join("examples/city")).expect("in a repository");
    assert_eq!(found.path, "examples/city");
    let found = discover(repo.path()).expect("in a repository");
    assert_eq!(found.path, "");
    repo.git(&["clone", "--quiet", "--bare", ".", "bare.git"]);
    let found = discover(&repo.path().join("bare.git")).expect("a bare repository");
    assert_eq!(found.path, "");
    // Which commits have the folder is another question: see below.
    repo.write("scratch/mesh.yaml", "kind: Mesh\n");
    assert_eq!(discover(&repo.path().join("scratch")).expect("in a repository").path, "scratch");
    for none in ["bare.git/objects", ".git", ".git/objects", "gone"] {
        assert!(discover(&repo.path().join(none)).is_none(), "{none}");
    }
}

fn discover(dir: &Path) -> Option<GitConfig> {
    GitConfig::discover(dir, "/nonexistent")
}

#[test]
fn a_folder_that_only_another_branch_has_is_found_there() {
    let repo = Repo::new();
    repo.commit("one");
    repo.git(&["checkout", "--quiet", "-b", "next"]);
    repo.write("intent/mesh.yaml", "kind: Mesh\n");
    repo.commit("two");
    repo.git(&["checkout", "--quiet", "main"]);
    std::fs::create_dir(repo.path().join("intent")).expect("made");
    let found = discover(&repo.path().join("intent")).expect("in a repository");
    let mut source = GitSource::open(GitConfig { branch: Some("next".to_owned()), ..found.clone() }).expect("opens");
    let head = source.head().expect("a head");
    assert_eq!(paths(&source.files(&head).expect("files")), ["mesh.yaml"]);
    let mut source = GitSource::open(found).expect("opens");
    let head = source.head().expect("a head");
    let error = source.files(&head).expect_err("main has it not").to_string();
    assert_eq!(error, format!("commit {head} has no folder intent"));
}

#[test]
fn branches_are_told_apart_and_errors_say_what_is_missing() {
    let repo = Repo::new();
    let error = repo.open().head().expect_err("no commit yet");
    assert!(error.to_string().contains("has no commit on HEAD"), "{error}");
    let main = repo.commit("one");
    repo.git(&["checkout", "--quiet", "-b", "next"]);
    let next = repo.commit("two");
    repo.git(&["pack-refs", "--all"]);
    let branch = |name: &str| {
        let mut source = GitSource::open(GitConfig { branch: Some(name.to_owned()), ..repo.config() }).expect("opens");
        source.head()
    };
    assert_eq!(branch("main").expect("main").as_str(), main);
    assert_eq!(branch("next").expect("next").as_str(), next);
    assert_eq!(repo.open().head().expect("HEAD").as_str(), next);
    assert!(matches!(branch("gone"), Err(GitError::NoCommit { branch, .. }) if branch == "gone"));
    let url = format!("file://{}", repo.path().display());
    assert_eq!(
        GitSource::open(GitConfig::new(url, "/nonexistent")).expect("opens").head().expect("HEAD").as_str(),
        next
    );
}

#[test]
fn other_urls_are_refused_with_a_reason() {
    for (url, why) in [
        ("ssh://h/x.git", "https://"),
        ("git@h:x.git", "https://"),
        ("http://h.example/x.git", "use https://"),
        ("file://relative", "three slashes"),
        ("", "name a path"),
        ("/nonexistent/x.git", "no Git repository"),
    ] {
        let error = GitSource::open(GitConfig::new(url, "/nonexistent")).map(|_| ()).expect_err(url).to_string();
        assert!(error.contains(why), "{error}");
        assert!(GitSource::watch(GitConfig::new(url, "/nonexistent")).is_err(), "{url}");
    }
}

#[tokio::test]
async fn a_commit_to_a_local_repository_is_seen_within_a_second() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "n: 0\n");
    let first = repo.commit("one");
    let mut watch = GitSource::watch(repo.config()).expect("opens");
    until(&mut watch, |o| at(o, &first)).await;

    let mut fastest = BOUND;
    for n in 1..=4 {
        repo.write("mesh.yaml", &format!("n: {n}\n"));
        let id = if n == 3 {
            // History may be rewritten and packed under our feet.
            repo.git(&["commit", "--quiet", "--all", "--amend", "-m", "again"]);
            repo.git(&["gc", "--quiet", "--prune=now"]);
            repo.git(&["rev-parse", "HEAD"])
        } else {
            repo.commit("more")
        };
        let committed = Instant::now();
        let seen = until(&mut watch, |o| at(o, &id)).await;
        fastest = fastest.min(committed.elapsed());
        let commit = seen.commit.expect("a commit");
        assert_eq!(commit.files[0].text(), Some(&*format!("n: {n}\n")));
    }
    // The fastest of four, because a busy machine may delay any one of them.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[tokio::test]
async fn the_last_commit_stays_while_the_source_is_broken() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "x: 1\n");
    let first = repo.commit("one");
    let config = GitConfig { poll: Some(Duration::from_millis(20)), ..repo.config() };
    let mut watch = GitSource::watch(config).expect("opens");
    until(&mut watch, |o| at(o, &first)).await;

    let (head, away) = (repo.path().join(".git/HEAD"), repo.path().join(".git/HEAD.away"));
    std::fs::rename(&head, &away).expect("renamed");
    let broken = until(&mut watch, |o| o.error.is_some()).await;
    assert!(at(&broken, &first));
    std::fs::rename(&away, &head).expect("renamed");
    let healed = until(&mut watch, |o| o.error.is_none()).await;
    assert!(at(&healed, &first));
    let second = repo.commit("two");
    until(&mut watch, |o| at(o, &second)).await;

    // Another repository in the same place is read as what it is.
    std::fs::remove_dir_all(repo.path().join(".git")).expect("removed");
    until(&mut watch, |o| o.error.is_some()).await;
    repo.git(&["init", "--quiet", "--initial-branch=trunk"]);
    let third = repo.commit("three");
    until(&mut watch, |o| at(o, &third) && o.error.is_none()).await;
}

#[tokio::test]
async fn a_repository_that_collects_packs_is_read_on() {
    let repo = Repo::new();
    let config = GitConfig { poll: Some(Duration::from_millis(5)), ..repo.config() };
    let mut watch = GitSource::watch(config).expect("opens");
    for n in 0..40 {
        repo.write("mesh.yaml", &format!("n: {n}\n"));
        let id = repo.commit("more");
        // As a push of many objects would: one pack more, and no loose objects.
        repo.git(&["repack", "--quiet", "-d"]);
        until(&mut watch, |o| at(o, &id)).await;
    }
    assert!(std::fs::read_dir(repo.path().join(".git/objects/pack")).expect("packs").count() >= 80);
}
