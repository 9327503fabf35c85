//! Reading JSON log lines.

use std::path::Path;

use serde_json::Value;

use crate::wait;

/// Every line of the file that is a JSON object, in order. Others (human log lines) are passed over.
pub fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .collect()
}

/// The access-log line of the request with this `x-request-id`.
pub fn access_line(path: &Path, request_id: &str) -> Option<Value> {
    json_lines(path).into_iter().find(|line| line["request_id"] == request_id)
}

/// Waits for an access-log line of which `is_it` holds.
#[track_caller]
pub fn wait_line(path: &Path, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, wait::SOON, || {
        let lines = json_lines(path);
        lines.iter().find(|line| is_it(line)).cloned().ok_or_else(|| format!("{} other lines", lines.len()))
    })
}
