//! Intent from a Git server over HTTPS: a real `git http-backend` behind TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use weft_tests::git_server::GitServer;
use weft_tests::mesh::text;
use weft_tests::process::Process;
use weft_tests::repo::Repo;
use weft_tests::{curl, peers, ports, wait};

/// With what a URL must escape.
const LOGIN: &str = "ada:t0p@s3cret";
const IN_URL: &str = "ada:t0p%40s3cret@";

struct Remote {
    git: GitServer,
    repo: Repo,
    first: String,
    folder: TempDir,
}

impl Remote {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repo = Repo::create(&folder.path().join("work"), &Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh"));
        let git = GitServer::start(folder.path(), LOGIN);
        git.publish(&repo);
        let first = repo.head();
        Self { git, repo, first, folder }
    }

    /// A control plane that follows the repository at `url`, with no configuration of Git but what `env` brings.
    #[track_caller]
    fn control(&self, name: &str, url: &str, args: &[&str], env: &[(&str, &str)]) -> Control {
        let [xds, authz, api] = std::array::from_fn(|_| ports::free());
        let (xds, authz, http) = (xds.to_string(), authz.to_string(), api.to_string());
        // What this machine's own Git is told to trust has no say.
        let weft = peers::weft().display().to_string();
        let mut all = vec!["-u", "GIT_SSL_CAINFO", "-u", "WEFT_REPO_CA", &weft, "server", "--state", name];
        all.extend(["--xds", &xds, "--authz", &authz, "--http", &http, "--poll", "0.1"]);
        all.extend(args);
        let home = self.folder.path().display().to_string();
        let mut environment = vec![("WEFT_REPO", url), ("HOME", &*home), ("GIT_CONFIG_NOSYSTEM", "1")];
        environment.extend(env);
        Control { process: Process::start(self.folder.path(), &format!("{name}-log"), "env", all, &environment), api }
    }

    fn authority(&self) -> String {
        self.git.authority().display().to_string()
    }
}

struct Control {
    process: Process,
    api: SocketAddr,
}

impl Control {
    fn status(&self) -> Result<Value, String> {
        let reply = curl::curl(&[&format!("http://{}/api/status", self.api)]);
        serde_json::from_str(&reply.body).map_err(|error| format!("{error}: {reply:?}"))
    }

    /// Waits until it serves the commit and has nothing to complain of.
    #[track_caller]
    fn serves(&mut self, commit: &str) {
        wait::until("the commit to be served", wait::SOON, || {
            self.process.assert_running();
            let status = self.status()?;
            let good = status["serving"]["commit"] == commit && status["git_error"].is_null();
            if good { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits until it says why the repository cannot be read, in status and log.
    #[track_caller]
    fn complains(&mut self, wanted: &str, bound: Duration) {
        wait::until(wanted, bound, || {
            self.process.assert_running();
            let status = self.status()?;
            let said = status["git_error"].as_str().is_some_and(|words| words.contains(wanted));
            if said && self.process.output().contains(wanted) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn command(&self) -> String {
        let weft = Command::new(peers::weft()).args(["status", "--server", &self.api.to_string()]).output();
        text(&weft.expect("the weft binary runs"))
    }
}

/// Nothing below the folder, and nothing that was said, has the password in any spelling.
#[track_caller]
fn assert_secret_is_kept(folder: &Path, control: &Control) {
    for secret in ["t0p@s3cret", "t0p%40s3cret"] {
        assert!(!control.process.output().contains(secret), "{}", control.process.output());
        for page in ["/api/status", "/api/findings", "/metrics", "/"] {
            let reply = curl::curl(&[&format!("http://{}{page}", control.api)]);
            assert!(!reply.body.contains(secret), "{page}: {}", reply.body);
        }
        assert!(!control.command().contains(secret));
        let found = Command::new("grep").args(["-rlF", secret]).arg(folder).output().expect("grep runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "files with the password");
    }
}

#[test]
fn a_private_repository_is_followed() {
    let remote = Remote::start();
    let mut control = remote.control("server", &remote.git.url(IN_URL), &["--repo-ca", &remote.authority()], &[]);
    control.serves(&remote.first);

    remote.repo.replace("services/board.yaml", "weight: 20", "weight: 30");
    let second = remote.repo.commit("Second");
    remote.git.publish(&remote.repo);
    control.serves(&second);

    // A branch that was moved is followed, not merged.
    remote.repo.replace("services/board.yaml", "weight: 30", "weight: 40");
    let third = remote.repo.amend();
    assert_ne!(second, third);
    remote.git.publish(&remote.repo);
    control.serves(&third);
    assert_secret_is_kept(&remote.folder.path().join("server"), &control);
}

#[test]
fn git_s_own_settings_give_login_and_authority() {
    let remote = Remote::start();
    let folder = remote.folder.path();
    std::fs::write(folder.join("logins"), remote.git.url(IN_URL).replace("/intent.git", "\n")).expect("written");
    let config = format!(
        "[credential]\n\thelper = store --file {}\n[http]\n\tsslCAInfo = {}\n",
        folder.join("logins").display(),
        remote.authority()
    );
    std::fs::write(folder.join("gitconfig"), config).expect("written");
    let settings = folder.join("gitconfig").display().to_string();
    let mut control = remote.control("server", &remote.git.url(""), &[], &[("GIT_CONFIG_GLOBAL", &settings)]);
    control.serves(&remote.first);
    assert_secret_is_kept(&folder.join("server"), &control);
}

#[test]
fn what_is_wrong_with_a_remote_is_said() {
    let remote = Remote::start();
    let (authority, private) = (remote.authority(), remote.git.url(IN_URL));
    let trusted = ["--repo-ca", &*authority];
    let branch = ["--repo-ca", &*authority, "--branch", "prod"];
    let cases: [(&str, &str, &[&str], &str); 7] = [
        ("nobody", &remote.git.url(""), &trusted, "asks for a login: write https://USER:TOKEN@"),
        ("token", &remote.git.url("t0p%40s3cret@"), &trusted, "asks for a login: write https://USER:TOKEN@"),
        ("wrong", &remote.git.url("ada:not-t0p%40s3cret@"), &trusted, "refuses the login in its URL"),
        (
            "untrusted",
            &private,
            &[],
            "not trusted: it was issued by an authority that is not trusted here; name the authority",
        ),
        ("branch", &private, &branch, "has no commit on prod"),
        ("path", &private.replace("intent", "absent"), &trusted, "404 Not Found; is the path right?"),
        ("away", &private.replace(&remote.git.address().to_string(), "127.0.0.1:1"), &trusted, "Connection refused"),
    ];
    let mut all: Vec<_> = cases.iter().map(|(name, url, args, _)| remote.control(name, url, args, &[])).collect();
    for ((name, _, _, wanted), control) in cases.iter().zip(&mut all) {
        control.complains(wanted, wait::SOON);
        let shown = control.command();
        assert!(shown.contains("no commit has passed the check yet") && shown.contains(wanted), "{name}: {shown}");
        assert_secret_is_kept(&remote.folder.path().join(name), control);
    }

    let absent = remote.control("no-authority", &private, &["--repo-ca", "absent.pem"], &[]);
    let mut absent = absent.process;
    assert!(!absent.wait(wait::SOON).success());
    assert!(
        absent.output().contains("cannot use the authorities for the repository in absent.pem"),
        "{}",
        absent.output()
    );
}

#[test]
fn the_mesh_goes_on_while_the_remote_is_away_or_hangs() {
    let mut remote = Remote::start();
    let mut control = remote.control("server", &remote.git.url(IN_URL), &["--repo-ca", &remote.authority()], &[]);
    control.serves(&remote.first);

    remote.git.kill();
    control.complains("Connection refused", wait::SOON);
    let shown = control.command();
    assert!(shown.contains(&remote.first[..12]) && shown.contains("the repository cannot be read: "), "{shown}");
    let second = remote.repo.commit("While it was away");
    remote.git.publish(&remote.repo);
    remote.git.restart();
    control.serves(&second);

    remote.git.hang();
    control.complains("no answer within 20 s", Duration::from_secs(60));
    assert_eq!(control.status().expect("it answers")["serving"]["commit"], *second);
    remote.git.resume();
    control.serves(&second);
    assert!(control.process.output().contains("can be read again"), "{}", control.process.output());
    let third = remote.repo.commit("After it hung");
    remote.git.publish(&remote.repo);
    control.serves(&third);
}
