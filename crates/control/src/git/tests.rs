//! Real repositories, made with the `git` command.

use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use weft_model::source::Content;

use super::*;

/// Longest wait for what must come.
const BOUND: Duration = Duration::from_secs(20);

struct Repo(TempDir);

impl Repo {
    fn new() -> Self {
        let repo = Self(TempDir::new().expect("a folder"));
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
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

    let source = repo.open();
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
fn links_submodules_and_giants_are_not_read() {
    let repo = Repo::new();
    repo.write("mesh.yaml", "kind: Mesh\n");
    repo.write("big.yaml", &" ".repeat(2 << 20));
    repo.write("docs/x.md", "");
    for (target, link) in [("/etc/passwd", "passwd.yaml"), ("../elsewhere", "services"), ("docs/x.md", "README.md")] {
        std::os::unix::fs::symlink(target, repo.path().join(link)).expect("a link");
    }
    let id = repo.commit("one");
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},module")]);
    repo.git(&["commit", "--quiet", "-m", "two"]);
    let source = repo.open();
    let files = source.files(&source.head().expect("a head")).expect("files");
    let told: Vec<_> = files.iter().filter(|f| f.text().is_none()).map(|f| (&*f.path, f.content.clone())).collect();
    assert_eq!(
        told,
        [
            ("big.yaml", Content::TooLarge(2 << 20)),
            ("module", Content::Submodule),
            ("passwd.yaml", Content::Symlink),
            ("services", Content::Symlink),
        ]
    );

    // A folder says the same, but for the submodule that is not checked out.
    let dir = read_dir(repo.path()).expect("a folder");
    assert_eq!(dir, files.into_iter().filter(|f| &*f.path != "module").collect::<Vec<_>>());
}

#[test]
fn a_pipe_or_socket_with_the_name_of_an_intent_file_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s.yaml")).expect("a socket");
    let files = read_dir(folder.path()).expect("a folder");
    assert!(matches!(&files[..], [SourceFile { content: Content::Unreadable(_), .. }]), "{files:?}");
}

#[test]
fn a_folder_of_a_repository_can_be_the_intent() {
    let repo = Repo::new();
    repo.write("examples/city/mesh.yaml", "kind: Mesh\n");
    repo.write("other.yaml", "x: 1\n");
    repo.commit("one");
    for path in ["examples/city", "/examples/city/", "examples/city/"] {
        let source = GitSource::open(GitConfig { path: path.to_owned(), ..repo.config() }).expect("opens");
        let files = source.files(&source.head().expect("a head")).expect("files");
        assert_eq!(paths(&files), ["mesh.yaml"]);
    }
    for path in ["examples/town", "other.yaml"] {
        let source = GitSource::open(GitConfig { path: path.to_owned(), ..repo.config() }).expect("opens");
        let error = source.files(&source.head().expect("a head")).expect_err("no such folder");
        assert!(matches!(&error, GitError::NoPath { path: p, .. } if p == path), "{error}");
    }

    let found = GitConfig::discover(&repo.path().join("examples/city"), "/nonexistent").expect("in a repository");
    assert_eq!(found.path, "examples/city");
    let found = GitConfig::discover(repo.path(), "/nonexistent").expect("in a repository");
    assert_eq!(found.path, "");
    repo.git(&["clone", "--quiet", "--bare", ".", "bare.git"]);
    let found = GitConfig::discover(&repo.path().join("bare.git"), "/nonexistent").expect("a bare repository");
    assert_eq!(found.path, "");
    repo.write("scratch/mesh.yaml", "kind: Mesh\n");
    assert!(GitConfig::discover(&repo.path().join("scratch"), "/nonexistent").is_none(), "it is in no commit");
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
        GitSource::open(GitConfig { branch: Some(name.to_owned()), ..repo.config() }).expect("opens").head()
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

#[tokio::test]
async fn a_plain_folder_is_watched_too() {
    let dir = TempDir::new().expect("a folder");
    std::fs::write(dir.path().join("mesh.yaml"), "x: 1\n").expect("written");
    let mut watch = watch_dir(dir.path().to_owned(), Some(Duration::from_millis(20))).expect("a folder");
    let first = until(&mut watch, |o| o.commit.is_some()).await.commit.expect("a commit").id.clone();
    assert!(first.as_str().starts_with("dir-") && first.short().len() == 16, "{first}");
    std::fs::write(dir.path().join("mesh.yaml"), "x: 2\n").expect("written");
    let second = until(&mut watch, |o| !at(o, first.as_str())).await;
    assert_eq!(second.commit.expect("a commit").files[0].text(), Some("x: 2\n"));
    assert!(watch_dir(dir.path().join("gone"), None).is_err());
}

mod remote {
    //! A remote over HTTP: `git http-backend`, which comes with Git, behind a few lines of CGI.

    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::Stdio;

    use super::*;

    struct Server {
        url: String,
        _root: TempDir,
    }

    /// Serves bare repositories below a folder; asks for `user:password` if there is one.
    fn serve(login: Option<&'static str>) -> (Server, std::path::PathBuf) {
        let root = TempDir::new().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = root.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let path = path.clone();
                std::thread::spawn(move || answer(stream, &path, login));
            }
        });
        let path = root.path().join("intent.git");
        let login = login.map(|l| format!("{l}@")).unwrap_or_default();
        (Server { url: format!("http://{login}{address}/intent.git"), _root: root }, path)
    }

    fn answer(stream: TcpStream, root: &Path, login: Option<&str>) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut backend = Command::new("git");
        backend.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
        backend.env("REQUEST_METHOD", &method).env("PATH_INFO", path).env("QUERY_STRING", query);
        let (mut length, mut chunked, mut authorized) = (0, false, login.is_none());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim();
            let Some((name, value)) = line.split_once(": ") else { break };
            match &*name.to_ascii_lowercase() {
                "content-type" => drop(backend.env("CONTENT_TYPE", value)),
                "content-length" => length = value.parse().ok()?,
                "content-encoding" => drop(backend.env("HTTP_CONTENT_ENCODING", value)),
                "transfer-encoding" => chunked = true,
                "git-protocol" => drop(backend.env("HTTP_GIT_PROTOCOL", value)),
                // base64 of ada:secret
                "authorization" => authorized |= value == "Basic YWRhOnNlY3JldA==",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if chunked {
            body.clear();
            loop {
                let mut size = String::new();
                reader.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            reader.read_exact(&mut body).ok()?;
        }
        if !authorized {
            let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return stream.write_all(head.as_bytes()).ok();
        }
        backend.env("CONTENT_LENGTH", body.len().to_string());
        let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut stdin = child.stdin.take()?;
        std::thread::spawn(move || stdin.write_all(&body));
        let output = child.wait_with_output().ok()?.stdout;
        let split = output.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&output[..split]);
        let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK");
        let rest: String = head.lines().filter(|l| !l.starts_with("Status: ")).map(|l| format!("{l}\r\n")).collect();
        let body = &output[split + 4..];
        let head = format!("HTTP/1.1 {status}\r\n{rest}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()
    }

    fn publish(repo: &Repo, bare: &Path) {
        repo.git(&["push", "--quiet", "--force", bare.to_str().expect("UTF-8"), "--all"]);
    }

    fn published(bare: &Path) -> Repo {
        let repo = Repo::new();
        repo.git(&["init", "--quiet", "--bare", "--initial-branch=main", bare.to_str().expect("UTF-8")]);
        repo.write("mesh.yaml", "n: 1\n");
        repo.commit("one");
        publish(&repo, bare);
        repo
    }

    #[tokio::test]
    async fn a_remote_is_mirrored_and_followed() {
        let (server, bare) = serve(None);
        let repo = published(&bare);
        let first = repo.git(&["rev-parse", "HEAD"]);
        let cache = TempDir::new().expect("a folder");
        let config = GitConfig { poll: Some(Duration::from_millis(50)), ..GitConfig::new(&*server.url, cache.path()) };
        let mut watch = GitSource::watch(config.clone()).expect("opens");
        let seen = until(&mut watch, |o| at(o, &first) || o.error.is_some()).await;
        assert!(at(&seen, &first), "{seen:?}");

        repo.write("mesh.yaml", "n: 2\n");
        let second = repo.commit("two");
        publish(&repo, &bare);
        let seen = until(&mut watch, |o| at(o, &second)).await;
        assert_eq!(seen.commit.expect("a commit").files[0].text(), Some("n: 2\n"));

        // Rewritten history is followed, and a remote that is away is told of while its last commit stays.
        repo.write("mesh.yaml", "n: 3\n");
        repo.git(&["commit", "--quiet", "--all", "--amend", "-m", "again"]);
        publish(&repo, &bare);
        let third = repo.git(&["rev-parse", "HEAD"]);
        until(&mut watch, |o| at(o, &third)).await;
        std::fs::rename(&bare, bare.with_extension("away")).expect("renamed");
        let away = until(&mut watch, |o| o.error.is_some()).await;
        assert!(at(&away, &third));
        assert!(matches!(away.error.as_deref(), Some(GitError::Fetch { .. })), "{away:?}");
        std::fs::rename(bare.with_extension("away"), &bare).expect("renamed");
        until(&mut watch, |o| o.error.is_none()).await;

        // A mirror is used again by the next process, and made anew if it is broken.
        drop(watch);
        let mirror =
            std::fs::read_dir(cache.path()).expect("the cache").next().expect("a mirror").expect("an entry").path();
        std::fs::write(mirror.join("HEAD"), "broken").expect("written");
        tokio::task::spawn_blocking(move || {
            let source = GitSource::open(config).expect("opens");
            assert_eq!(source.head().expect("a head").as_str(), third);
        })
        .await
        .expect("no panic");
    }

    #[test]
    fn a_branch_that_a_remote_does_not_have_is_an_error() {
        let (server, bare) = serve(None);
        let repo = published(&bare);
        let cache = TempDir::new().expect("a folder");
        let config = GitConfig { branch: Some("main".to_owned()), ..GitConfig::new(&*server.url, cache.path()) };
        let source = GitSource::open(config.clone()).expect("opens");
        assert_eq!(source.head().expect("main").as_str(), repo.git(&["rev-parse", "HEAD"]));
        let gone = GitSource::open(GitConfig { branch: Some("gone".to_owned()), ..config }).expect("opens");
        let error = gone.head().expect_err("no such branch");
        assert!(matches!(&error, GitError::NoCommit { branch, .. } if branch == "gone"), "{error:?}");
    }

    /// A port that takes connections, says `greeting` to each, and then nothing.
    fn mute(greeting: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                // What a client has not asked for is not an answer.
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(greeting.as_bytes());
                open.push(stream);
            }
        });
        address
    }

    #[test]
    fn a_server_that_falls_silent_is_given_up() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 999\r\n\r\n";
        for (greeting, scheme) in [("", "http"), ("", "https"), (head, "http")] {
            let cache = TempDir::new().expect("a folder");
            let url = format!("{scheme}://{}/intent.git", mute(greeting));
            let config = GitConfig { patience: Duration::from_millis(300), ..GitConfig::new(url, cache.path()) };
            let error = GitSource::open(config).expect("opens").head().expect_err("nobody answers").to_string();
            assert!(error.contains("no answer within 0.3 s"), "{scheme} {greeting:?}: {error}");
        }
    }

    #[test]
    fn a_login_is_neither_sent_in_clear_nor_shown() {
        let (server, bare) = serve(Some("ada:secret"));
        published(&bare);
        let cache = TempDir::new().expect("a folder");
        let source = GitSource::open(GitConfig::new(&*server.url, cache.path())).expect("opens");
        let error = source.head().expect_err("no https").to_string();
        assert!(error.contains("clear text") && error.contains("/intent.git") && !error.contains("secret"), "{error}");
        let mirror = std::fs::read_dir(cache.path()).expect("the cache").next().expect("a mirror").expect("an entry");
        assert!(!mirror.file_name().to_string_lossy().contains("secret"));
    }
}
