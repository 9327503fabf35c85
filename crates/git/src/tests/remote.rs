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
    published_in("sha1", bare)
}

fn published_in(object_format: &str, bare: &Path) -> Repo {
    let format = format!("--object-format={object_format}");
    let repo = Repo::init(&[&format]);
    repo.git(&["init", "--quiet", "--bare", "--initial-branch=main", &format, bare.to_str().expect("UTF-8")]);
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
        let mut source = GitSource::open(config).expect("opens");
        assert_eq!(source.head().expect("a head").as_str(), third);
    })
    .await
    .expect("no panic");
}

#[test]
fn a_remote_may_have_objects_of_either_format_and_change_it() {
    let (server, bare) = serve(None);
    let cache = TempDir::new().expect("a folder");
    let config = GitConfig::new(&*server.url, cache.path());
    let mut source = GitSource::open(config.clone()).expect("opens");
    for (format, digits) in [("sha256", 64), ("sha1", 40), ("sha256", 64)] {
        let _ = std::fs::remove_dir_all(&bare); // not there the first time
        let repo = published_in(format, &bare);
        for n in [2, 3] {
            repo.write("mesh.yaml", &format!("n: {n}\n"));
            let id = repo.commit("more");
            assert_eq!(id.len(), digits);
            publish(&repo, &bare);
            let head = source.head().expect("a head");
            assert_eq!(head.as_str(), id);
            let files = source.files(&head).expect("files");
            assert_eq!(files[0].text(), Some(&*format!("n: {n}\n")));
        }
        // A mirror of either format is used again by the next process.
        let mut next = GitSource::open(config.clone()).expect("opens");
        let mirror = std::fs::read_dir(cache.path()).expect("the cache").next().expect("a mirror").expect("an entry");
        let packs = || std::fs::read_dir(mirror.path().join("objects/pack")).expect("packs").count();
        let before = packs();
        assert!(before > 0 && next.head().is_ok());
        assert_eq!(packs(), before, "nothing was fetched again");
    }
}

#[test]
fn a_mirror_that_cannot_be_made_is_not_called_no_repository() {
    let (server, bare) = serve(None);
    published(&bare);
    let cache = TempDir::new().expect("a folder");
    let file = cache.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = GitSource::open(GitConfig::new(&*server.url, &file)).map(|_| ()).expect_err("not a folder").to_string();
    assert!(error.starts_with("the repository cannot be mirrored to") && error.contains("Not a directory"), "{error}");
}

#[test]
fn a_branch_that_a_remote_does_not_have_is_an_error() {
    let (server, bare) = serve(None);
    let repo = published(&bare);
    let cache = TempDir::new().expect("a folder");
    let config = GitConfig { branch: Some("main".to_owned()), ..GitConfig::new(&*server.url, cache.path()) };
    let mut source = GitSource::open(config.clone()).expect("opens");
    assert_eq!(source.head().expect("main").as_str(), repo.git(&["rev-parse", "HEAD"]));
    let mut gone = GitSource::open(GitConfig { branch: Some("gone".to_owned()), ..config }).expect("opens");
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
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 999\r\n\r\n";
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
    let mut source = GitSource::open(GitConfig::new(&*server.url, cache.path())).expect("opens");
    let error = source.head().expect_err("no https").to_string();
    assert!(error.contains("clear text") && error.contains("/intent.git") && !error.contains("secret"), "{error}");
    let mirror = std::fs::read_dir(cache.path()).expect("the cache").next().expect("a mirror").expect("an entry");
    assert!(!mirror.file_name().to_string_lossy().contains("secret"));
}
