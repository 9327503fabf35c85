//! A work tree is read as it would be committed. Git itself says how: each scene is read, then committed, and read again from the
//! commit.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

/// What `weft check` sees of a folder, which is what the control plane sees once everything is committed.
fn seen(repo: &Repo, folder: &str) -> Vec<SourceFile> {
    let before = read_dir(&repo.path().join(folder)).expect("a folder");
    repo.commit("as it stands");
    let mut source = GitSource::open(GitConfig { path: folder.to_owned(), ..repo.config() }).expect("opens");
    let head = source.head().expect("a head");
    let after = source.files(&head).expect("files");
    assert_eq!(before, after, "the work tree first, then its commit");
    before
}

fn link(repo: &Repo, target: &str, at: &str) {
    symlink(target, repo.path().join(at)).expect("a link");
}

/// Another repository, with a commit of an intent file, as a folder of this one.
fn nest(repo: &Repo, at: &str) -> String {
    repo.git(&["init", "--quiet", "--initial-branch=main", at]);
    repo.write(&format!("{at}/inner.yaml"), "kind: Service\n");
    repo.git(&["-C", at, "add", "--all"]);
    repo.git(&["-C", at, "-c", "user.name=Ada", "-c", "user.email=a@example.com", "commit", "--quiet", "-m", "inner"]);
    repo.git(&["-C", at, "rev-parse", "HEAD"])
}

#[test]
fn what_is_not_intent_is_not_looked_at() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write("docs/x.md", "");
    for (target, at) in [("docs/x.md", "README"), ("docs/x.md", "CHANGES.md"), ("../elsewhere", "services")] {
        link(&repo, target, at);
    }
    let id = nest(&repo, "vendor/module");
    // Another submodule is not checked out.
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},away")]);
    std::fs::create_dir(repo.path().join("away")).expect("as Git leaves it");
    assert_eq!(paths(&seen(&repo, "")), ["mesh.yaml"]);
    assert!(repo.git(&["ls-tree", "-r", "HEAD"]).contains("vendor/module"), "it is a submodule to Git");
    // And so it stays once they are known to Git.
    assert_eq!(paths(&seen(&repo, "")), ["mesh.yaml"]);
}

#[test]
fn what_is_in_the_place_of_intent_and_no_file_is_refused() {
    let repo = Repo::new();
    repo.write("big.yaml", &" ".repeat(2 << 20));
    link(&repo, "/etc/passwd", "passwd.yaml");
    nest(&repo, "module.yml");
    let files = seen(&repo, "");
    let told: Vec<_> = files.iter().map(|file| (&*file.path, file.content.clone())).collect();
    let expected = [
        ("big.yaml", Content::TooLarge(2 << 20)),
        ("module.yml", Content::Submodule),
        ("passwd.yaml", Content::Symlink),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_git_ignores_is_not_looked_at() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write(".gitignore", "notes.yaml\n/build/\n*.tmp.yaml\n!kept.tmp.yaml\n");
    repo.write("services/.gitignore", "draft-*.yaml\n!draft-1.yaml\n");
    repo.write(".git/info/exclude", "mine.yaml\n");
    repo.write("ignored-by-the-user", "global.yaml\n");
    let excludes = repo.path().join("ignored-by-the-user");
    repo.git(&["config", "core.excludesFile", excludes.to_str().expect("UTF-8")]);
    for ignored in ["notes.yaml", "build/out.yaml", "a.tmp.yaml", "services/draft-2.yaml", "mine.yaml", "global.yaml"] {
        repo.write(ignored, "no intent");
    }
    for counts in ["services/build/board.yaml", "kept.tmp.yaml", "services/draft-1.yaml"] {
        repo.write(counts, "kind: Service\n");
    }
    link(&repo, "/etc/passwd", "build/passwd.yaml");
    nest(&repo, "build/module.yaml");
    // What was added all the same is in every commit.
    repo.write("build/forced.yaml", "kind: Service\n");
    repo.git(&["add", "--force", "build/forced.yaml"]);
    repo.write("build/forced.yaml", "kind: Role\n");
    let files = seen(&repo, "");
    let expected =
        ["build/forced.yaml", "kept.tmp.yaml", "mesh.yaml", "services/build/board.yaml", "services/draft-1.yaml"];
    assert_eq!(paths(&files), expected);
    assert_eq!(files[0].text(), Some("kind: Role\n"));
}

#[test]
fn the_intent_may_be_a_folder_of_a_larger_repository() {
    let repo = Repo::new();
    repo.write(".gitignore", "/infra/mesh/notes.yaml\n*.orig.yaml\n");
    repo.write("infra/.gitignore", "old/\n");
    repo.write("infra/mesh/mesh.yaml", "kind: Mesh\n");
    for ignored in ["notes.yaml", "mesh.orig.yaml", "old/mesh.yaml"] {
        repo.write(&format!("infra/mesh/{ignored}"), "no intent");
    }
    repo.write("elsewhere.yaml", "no intent");
    assert_eq!(paths(&seen(&repo, "infra/mesh")), ["mesh.yaml"]);
    link(&repo, "infra/mesh", "link");
    assert_eq!(paths(&read_dir(&repo.path().join("link")).expect("a folder")), ["mesh.yaml"]);
}

#[test]
fn changes_count_as_they_stand() {
    let repo = Repo::new();
    for path in ["deleted.yaml", "changed.yaml", "to-folder.yaml", "to-link/a.yaml", "to-link.yaml", "moved.yaml"] {
        repo.write(path, "kind: Service\n");
    }
    repo.commit("one");
    let remove = |path: &str| std::fs::remove_file(repo.path().join(path)).expect("removed");
    ["deleted.yaml", "to-folder.yaml", "to-link/a.yaml", "to-link.yaml"].into_iter().for_each(remove);
    repo.write("changed.yaml", "kind: Role\n");
    repo.write("to-folder.yaml/inner.yaml", "kind: Role\n");
    std::fs::remove_dir(repo.path().join("to-link")).expect("removed");
    repo.write("other/a.yaml", "kind: Role\n");
    link(&repo, "other", "to-link");
    link(&repo, "changed.yaml", "to-link.yaml");
    repo.git(&["mv", "moved.yaml", "here.yaml"]);
    repo.write("intended.yaml", "kind: Role\n");
    repo.git(&["add", "--intent-to-add", "intended.yaml"]);
    let expected =
        ["changed.yaml", "here.yaml", "intended.yaml", "other/a.yaml", "to-folder.yaml/inner.yaml", "to-link.yaml"];
    assert_eq!(paths(&seen(&repo, "")), expected);
}

#[test]
fn what_git_is_told_not_to_look_at_is_as_it_was_added() {
    let repo = Repo::new();
    for path in ["assumed.yaml", "skipped.yaml", "gone.yaml", "plain.yaml"] {
        repo.write(path, "kind: Service\n");
    }
    link(&repo, "plain.yaml", "link.yaml");
    repo.commit("one");
    repo.git(&["update-index", "--assume-unchanged", "assumed.yaml", "gone.yaml"]);
    repo.git(&["update-index", "--skip-worktree", "skipped.yaml", "link.yaml"]);
    for path in ["assumed.yaml", "skipped.yaml", "plain.yaml"] {
        repo.write(path, "kind: Role\n");
    }
    for path in ["gone.yaml", "link.yaml"] {
        std::fs::remove_file(repo.path().join(path)).expect("removed");
    }
    let files = seen(&repo, "");
    assert_eq!(paths(&files), ["assumed.yaml", "gone.yaml", "link.yaml", "plain.yaml", "skipped.yaml"]);
    let texts: Vec<_> = files.iter().filter_map(SourceFile::text).collect();
    assert_eq!(texts, ["kind: Service\n", "kind: Service\n", "kind: Role\n", "kind: Service\n"]);
}

#[test]
fn a_sparse_checkout_is_whole_in_its_commits() {
    for sparse_index in ["--sparse-index", "--no-sparse-index"] {
        let repo = Repo::new();
        for path in ["mesh.yaml", "here/a.yaml", "away/b.yaml", "away/deep/c.yaml", "away/.hidden/d.yaml", "away/e.txt"]
        {
            repo.write(path, "kind: Service\n");
        }
        repo.commit("one");
        repo.git(&["sparse-checkout", "set", "--cone", sparse_index, "here"]);
        assert!(!repo.path().join("away").exists());
        repo.write("here/new.yaml", "kind: Role\n");
        let expected = ["away/b.yaml", "away/deep/c.yaml", "here/a.yaml", "here/new.yaml", "mesh.yaml"];
        assert_eq!(paths(&seen(&repo, "")), expected, "{sparse_index}");
        assert_eq!(paths(&seen(&repo, "here")), ["a.yaml", "new.yaml"]);
    }
}

#[test]
fn contents_are_as_git_would_store_them() {
    let repo = Repo::new();
    repo.write(".gitattributes", "*.yaml text\nutf16.yaml working-tree-encoding=UTF-16LE\nclean.yaml filter=shout\n");
    repo.git(&["config", "filter.shout.clean", "tr a-z A-Z"]);
    repo.write("crlf.yaml", "kind: Mesh\r\nname: x\r\n");
    repo.write("clean.yaml", "kind\n");
    let utf16: Vec<u8> = "kind: Mesh\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(repo.path().join("utf16.yaml"), utf16).expect("written");
    let files = seen(&repo, "");
    let texts: Vec<_> = files.iter().filter_map(SourceFile::text).collect();
    assert_eq!(texts, ["KIND\n", "kind: Mesh\nname: x\n", "kind: Mesh\n"]);
}

#[test]
fn a_merge_under_way_is_read_as_it_stands() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "n: 0\n");
    repo.commit("zero");
    repo.git(&["checkout", "--quiet", "-b", "next"]);
    repo.write("mesh.yaml", "n: 1\n");
    repo.write("gone.yaml", "n: 1\n");
    repo.commit("one");
    repo.git(&["checkout", "--quiet", "main"]);
    repo.write("mesh.yaml", "n: 2\n");
    repo.commit("two");
    let merge =
        Command::new("git").current_dir(repo.path()).args(["merge", "--quiet", "next"]).output().expect("git runs");
    assert!(!merge.status.success(), "there is a conflict");
    let files = seen(&repo, "");
    assert_eq!(paths(&files), ["gone.yaml", "mesh.yaml"]);
    assert!(files[1].text().is_some_and(|text| text.contains("<<<<<<<")));
}

#[test]
fn names_need_not_be_text() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write(".gitignore", "no\u{e9}.yaml\n");
    repo.write("no\u{e9}.yaml", "no intent");
    for name in [b"caf\xe9.yaml".as_slice(), b"\xff\xfe", b"tab\there.yaml"] {
        std::fs::write(repo.path().join(OsStr::from_bytes(name)), "kind: Service\n").expect("written");
    }
    let files = seen(&repo, "");
    assert_eq!(paths(&files), ["caf\u{fffd}.yaml", "mesh.yaml", "tab\there.yaml"]);
}

#[test]
fn a_work_tree_is_found_wherever_its_repository_is() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write(".gitignore", "notes.yaml\n");
    repo.commit("one");
    let other = TempDir::new().expect("a folder");
    let tree = other.path().join("tree");
    repo.git(&["worktree", "add", "--quiet", "--detach", tree.to_str().expect("UTF-8")]);
    std::fs::write(tree.join("notes.yaml"), "no intent").expect("written");
    assert_eq!(paths(&read_dir(&tree).expect("a work tree")), ["mesh.yaml"]);
    let config = GitConfig::discover(&tree, "/nonexistent").expect("a repository");
    assert!(GitSource::open(config).expect("opens").head().is_ok());
    // A submodule is a repository of its own.
    nest(&repo, "module");
    repo.write("module/.gitignore", "notes.yaml\n");
    repo.write("module/notes.yaml", "no intent");
    assert_eq!(paths(&read_dir(&repo.path().join("module")).expect("a work tree")), ["inner.yaml"]);
}

#[test]
fn a_folder_that_git_does_not_know_is_read_as_it_is() {
    let folder = TempDir::new().expect("a folder");
    let write = |path: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, "kind: Mesh\n").expect("written");
    };
    ["mesh.yaml", "services/board.yml", ".hidden/x.yaml", ".gitignore", "notes.txt"].into_iter().for_each(write);
    assert_eq!(paths(&read_dir(folder.path()).expect("a folder")), ["mesh.yaml", "services/board.yml"]);
    // Whoever names a folder that Git ignores means it.
    let repo = Repo::new();
    repo.write(".gitignore", "scratch/\n");
    repo.write("scratch/mesh.yaml", "kind: Mesh\n");
    repo.write("scratch/deep/mesh.yaml", "kind: Mesh\n");
    assert_eq!(paths(&read_dir(&repo.path().join("scratch")).expect("a folder")), ["deep/mesh.yaml", "mesh.yaml"]);
    assert_eq!(paths(&read_dir(&repo.path().join("scratch/deep")).expect("a folder")), ["mesh.yaml"]);
    assert_eq!(paths(&seen(&repo, "")), [""; 0]);
}

#[test]
fn a_bare_repository_has_no_files_to_check() {
    let repo = Repo::init(&["--bare"]);
    let error = read_dir(repo.path()).expect_err("no work tree").to_string();
    assert!(error.ends_with("is bare, without files to check: clone it, and check the clone"), "{error}");
}

#[test]
fn a_pipe_or_socket_with_the_name_of_an_intent_file_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s.yaml")).expect("a socket");
    let files = read_dir(folder.path()).expect("a folder");
    assert!(matches!(&files[..], [SourceFile { content: Content::Unreadable(_), .. }]), "{files:?}");
}

/// A file somewhere, and whether it was added before the ignore files came.
fn any_file() -> impl Strategy<Value = (String, bool)> {
    let folder = prop_oneof![Just(""), Just("a/"), Just("b/"), Just("a/b/"), Just("a/a/"), Just("b/a/b/")];
    let name = prop_oneof![Just("x.yaml"), Just("y.yaml"), Just("z.cedar"), Just("x.txt")];
    (folder, name, proptest::bool::weighted(0.3)).prop_map(|(folder, name, added)| (format!("{folder}{name}"), added))
}

fn any_ignore_file() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
    let place = prop_oneof![Just(".gitignore"), Just("a/.gitignore"), Just("b/.gitignore"), Just(".git/info/exclude")];
    let pattern = proptest::sample::select(vec![
        "a/",
        "/a/",
        "b",
        "/b",
        "a/b/",
        "**/b/",
        "a/**",
        "a/*",
        "*.yaml",
        "!x.yaml",
        "!a/",
        "!a/x.yaml",
        "/x.yaml",
        "**/x.yaml",
        "?.cedar",
        "!*.cedar",
        "*",
        "!*/",
        "a/**/x.yaml",
        "[xz].*",
        "\\!x.yaml",
        "# a",
        "x.yaml  ",
        "!b/",
        "/*",
        "!/a",
    ]);
    (place, proptest::collection::vec(pattern, 1..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Git's own word on what is ignored.
    #[test]
    fn ignore_files_mean_what_they_mean_to_git(
        files in proptest::collection::vec(any_file(), 1..10),
        ignores in proptest::collection::vec(any_ignore_file(), 1..4),
    ) {
        let repo = Repo::new();
        for (path, added) in &files {
            repo.write(path, "kind: Service\n");
            if *added {
                repo.git(&["add", path]);
            }
        }
        for (place, patterns) in &ignores {
            repo.write(place, &(patterns.join("\n") + "\n"));
        }
        seen(&repo, "");
    }
}
