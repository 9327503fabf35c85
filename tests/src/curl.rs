//! curl, as a user runs it.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code; 0 when there was no response at all.
    pub status: u16,
    /// HTTP version as curl prints it: `1.1` or `2`.
    pub version: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
    /// curl's own complaint, if any.
    pub error: String,
}

impl Reply {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// `curl [args] -H 'Host: <host>' http://<address><target>`.
#[track_caller]
pub fn get(address: SocketAddr, host: &str, target: &str, args: &[&str]) -> Reply {
    let url = format!("http://{address}{target}");
    let host = format!("Host: {host}");
    let mut all = vec!["-H", host.as_str(), url.as_str()];
    all.extend(args);
    curl(&all)
}

/// curl with these arguments.
#[track_caller]
pub fn curl(args: &[&str]) -> Reply {
    curl_under(&[], args)
}

/// The same under another program with its arguments.
#[track_caller]
pub fn curl_under(under: &[String], args: &[&str]) -> Reply {
    let mut command = under.iter().map(String::as_str).chain(["curl"]);
    let mut curl = Command::new(command.next().expect("curl, if nothing else"));
    let output = curl
        .args(command)
        .args(["-s", "-S", "-i", "--path-as-is", "--max-time", "30", "-w", "\n%{http_code} %{http_version}"])
        .args(args)
        .env("no_proxy", "")
        .output()
        .unwrap_or_else(|error| panic!("running curl: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let (response, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let (status, version) = last.split_once(' ').unwrap_or(("0", ""));
    let mut rest = response;
    let mut headers = Vec::new();
    // `100 Continue` and its like come first, as heads of their own.
    while rest.starts_with("HTTP/") {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        headers = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        rest = body;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('1') || status == "101" {
            break;
        }
    }
    Reply { status: status.parse().unwrap_or(0), version: version.to_owned(), headers, body: rest.to_owned(), error }
}
