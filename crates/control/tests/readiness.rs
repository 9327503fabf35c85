//! What the API says while a control plane starts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_control::git::GitConfig;
use weft_control::{ControlPlane, ServerConfig};

/// A repository with one commit.
fn repository(folder: &Path) {
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").current_dir(folder).args(identity).args(args).output().expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let mesh = "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\nkind: Service\nname: web\nnamespace: prod\nport: 80\nprotocol: http\n";
    std::fs::write(folder.join("mesh.yaml"), mesh).expect("written");
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "-m", "first"]);
}

/// Status line and body.
async fn ask(api: SocketAddr, request: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(api).await.expect("the API listens");
    let length = body.len();
    let head = format!(
        "{request}\r\nhost: {api}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

async fn serving(api: SocketAddr) -> serde_json::Value {
    let (_, body) = ask(api, "GET /api/status HTTP/1.1", "").await;
    serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["serving"].clone()
}

#[tokio::test]
async fn ready_means_that_a_join_token_can_be_had() {
    let (repo, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    repository(repo.path());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = ServerConfig {
        git: GitConfig::new(repo.path().to_str().expect("UTF-8"), state.path().join("git")),
        etcd: None,
        state: state.path().join("state"),
        xds: any,
        http: any,
        grace: Duration::from_secs(1),
        names: Vec::new(),
        bundle: None,
        upstream: None,
        federation_ca: None,
    };
    let control = ControlPlane::start(config).await.expect("starts");
    let api = control.http();
    tokio::time::timeout(Duration::from_secs(20), control.first_commit()).await.expect("in time");
    let (status, body) = ask(api, "GET /readyz HTTP/1.1", "").await;
    assert!(status.contains(" 503 ") && body.contains("still starting"), "{status} {body}");
    assert!(serving(api).await.is_null());
    let admin = std::fs::read_to_string(state.path().join("state/admin.token")).expect("made at the start");
    let request = format!("POST /api/join-tokens HTTP/1.1\r\nauthorization: Bearer {}", admin.trim());
    let token = || ask(api, &request, r#"{"service": "prod/web", "ttl": "10m"}"#);
    assert!(token().await.0.contains(" 503 "));

    control.serve().await.expect("serves");
    assert!(ask(api, "GET /readyz HTTP/1.1", "").await.0.contains(" 503 "), "whoever serves more is not done yet");
    control.open();
    assert_eq!(ask(api, "GET /readyz HTTP/1.1", "").await, ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    assert!(serving(api).await.is_object());
    let (status, body) = token().await;
    assert!(status.contains(" 201 "), "{status} {body}");
}
