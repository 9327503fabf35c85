//! openssl as a TLS client of an ingress.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::pki::Pair;
use crate::process::run;

/// What became of a connection.
#[derive(Debug)]
pub struct Outcome {
    /// The first line of the HTTP response, if there was any.
    pub response: Option<String>,
    /// Everything that openssl wrote.
    pub text: String,
}

impl Outcome {
    /// Asserts that TLS refused the client: no response, and an alert that says so.
    #[track_caller]
    pub fn assert_refused(&self, who: &str) {
        assert_eq!(self.response, None, "the ingress answered {who}: {}", self.text);
        assert!(self.text.contains("alert"), "{who} got no alert: {}", self.text);
    }
}

/// Sends one HTTP/1.1 request over TLS with this client certificate (or none).
pub fn request(ingress: SocketAddr, client: Option<&Pair>, host: &str, path: &str) -> Outcome {
    send(ingress, client, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// Sends these bytes over TLS, which are a request in HTTP/1.1 that asks for the connection to be closed.
///
/// With TLS 1.3 a client believes that its handshake is done before the server has judged its certificate, so only an answer, or
/// an alert in its place, tells what the server thinks.
pub fn send(ingress: SocketAddr, client: Option<&Pair>, request: &str) -> Outcome {
    let mut command = Command::new("timeout");
    command.args([
        "10",
        "openssl",
        "s_client",
        "-connect",
        &ingress.to_string(),
        "-tls1_3",
        "-alpn",
        "http/1.1",
        "-ign_eof",
    ]);
    if let Some(pair) = client {
        command
            .arg("-cert")
            .arg(&pair.certificate)
            .arg("-cert_chain")
            .arg(&pair.certificate)
            .arg("-key")
            .arg(&pair.key);
    }
    let output = feed(command, request);
    let text = crate::mesh::text(&output);
    let response = text.lines().find(|line| line.starts_with("HTTP/1.1 ")).map(str::to_owned);
    Outcome { response, text }
}

/// The serial number of the certificate that an ingress shows.
///
/// # Errors
/// When it shows none.
pub fn serial(ingress: SocketAddr) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["10", "openssl", "s_client", "-connect", &ingress.to_string(), "-tls1_3", "-alpn", "h2"]);
    let shown = feed(command, "");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----").ok_or_else(|| crate::mesh::text(&shown))?;
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-serial"]);
    let output = feed(command, &text[begin..]);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `openssl x509 -text` of a certificate file.
pub fn describe(certificate: &Path) -> String {
    run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(certificate))
}

fn feed(mut command: Command, input: &str) -> Output {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    // A peer that has gone already is an outcome, not an error of the test.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the child is ours to wait for")
}
