//! An issuer of tokens that is not the mesh: `peers/issuer.py`.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::process::Process;
use crate::{curl, peers, ports, wait};

/// A running issuer.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    _process: Process,
}

impl Issuer {
    /// Starts one and waits until it answers.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        let address = ports::free();
        let script = peers::script("issuer.py").display().to_string();
        let mut process =
            Process::start(folder, "issuer", peers::venv("python"), [script, address.port().to_string()], &[]);
        wait::until("the issuer to answer", wait::SOON, || {
            process.assert_running();
            let reply = curl::curl(&[&format!("http://{address}/fetches")]);
            if reply.status == 200 { Ok(()) } else { Err(reply.error) }
        });
        Self { address, _process: process }
    }

    /// Its `iss`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/realm", self.address.port())
    }

    /// A token with these claims, beside `iss`, `iat` and `exp`, and other wishes.
    #[track_caller]
    pub fn token(&self, wishes: &Value) -> String {
        self.post("token", wishes).as_str().expect("a token").to_owned()
    }

    /// Its keys, to be written down.
    #[track_caller]
    pub fn keys(&self) -> String {
        curl::curl(&[&format!("http://{}/jwks", self.address)]).json().to_string()
    }

    /// It has another key from now on.
    #[track_caller]
    pub fn rotate(&self) {
        self.post("rotate", &json!({}));
    }

    /// How it answers from now on: `redirect`, `away`, or as ever.
    #[track_caller]
    pub fn mode(&self, mode: &str) {
        self.post("mode", &json!({"mode": mode}));
    }

    /// How often its keys were asked for.
    #[track_caller]
    pub fn fetches(&self) -> u64 {
        let reply = curl::curl(&[&format!("http://{}/fetches", self.address)]);
        reply.body.trim().parse().expect("a number")
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        let reply = curl::curl(&["-d", &body.to_string(), &format!("http://{}/{path}", self.address)]);
        assert_eq!(reply.status, 200, "{path}: {} {}", reply.body, reply.error);
        reply.json()
    }
}
