//! An OpenBao in memory (`bao server -dev`) with a PKI, on a free loopback port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::{curl, peers, ports, wait};

/// Who may do everything in it.
pub const ROOT_TOKEN: &str = "root-of-the-test";

/// A running OpenBao.
#[derive(Debug)]
pub struct OpenBao {
    process: Process,
    address: SocketAddr,
    tls: bool,
    folder: TempDir,
}

impl OpenBao {
    /// Starts one, with TLS or without, and makes a root in its PKI at `pki`.
    ///
    /// # Panics
    /// When there is no `bao` here: `make setup` installs it.
    #[track_caller]
    pub fn start(tls: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-openbao-").tempdir().expect("a temporary folder");
        let address = ports::free();
        let mut args = vec!["server".to_owned(), "-dev".to_owned(), "-dev-no-store-token".to_owned()];
        args.push(format!("-dev-root-token-id={ROOT_TOKEN}"));
        args.push(format!("-dev-listen-address={address}"));
        if tls {
            args.push("-dev-tls".to_owned());
            args.push(format!("-dev-tls-cert-dir={}", folder.path().display()));
        }
        let home = folder.path().display().to_string();
        let process = Process::start(folder.path(), "openbao", peers::openbao(), args, &[("HOME", &*home)]);
        let bao = Self { process, address, tls, folder };
        wait::until("OpenBao to serve", wait::SOON, || bao.call("GET", "sys/health", &Value::Null).map(drop));
        bao.mount("pki", "pki");
        bao.write("sys/mounts/pki/tune", &json!({"max_lease_ttl": "87600h"}));
        bao.make_root("Example root");
        bao
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// The CA of its own certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// A folder for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes another root, which signs from now on.
    #[track_caller]
    pub fn make_root(&self, name: &str) {
        let wanted = json!({"common_name": name, "ttl": "8760h", "key_type": "ec", "key_bits": 384, "issuer_name": name.replace(' ', "-")});
        let made = self.write("pki/root/generate/internal", &wanted);
        self.write("pki/config/issuers", &json!({"default": made["data"]["issuer_id"]}));
    }

    /// Mounts a secrets engine.
    #[track_caller]
    pub fn mount(&self, path: &str, kind: &str) {
        self.write(&format!("sys/mounts/{path}"), &json!({"type": kind}));
    }

    /// Writes; the answer.
    #[track_caller]
    pub fn write(&self, path: &str, body: &Value) -> Value {
        self.call("POST", path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Reads.
    #[track_caller]
    pub fn read(&self, path: &str) -> Value {
        self.call("GET", path, &Value::Null).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// It stays there and answers nothing, until [`awake`](Self::awake).
    pub fn sleep(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// It answers again.
    pub fn awake(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (url, token) = (format!("{}/v1/{path}", self.url()), format!("X-Vault-Token: {ROOT_TOKEN}"));
        let (ca, data) = (self.ca(), body.to_string());
        let mut args = vec!["-X", method, "-H", &token];
        if self.tls {
            args.extend(["--cacert", ca.to_str().expect("a plain path")]);
        }
        if !body.is_null() {
            args.extend(["-d", &data]);
        }
        args.push(&url);
        let reply = curl::curl(&args);
        match reply.status {
            200 => serde_json::from_str(&reply.body).map_err(|error| error.to_string()),
            204 => Ok(Value::Null),
            status => Err(format!("{status} {} {}", reply.body, reply.error)),
        }
    }
}
