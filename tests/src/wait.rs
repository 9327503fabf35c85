//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// How long anything that should happen "now" may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The same for what runs under a tool that makes it many times slower.
pub const SLOW: Duration = Duration::from_secs(180);

/// Calls `probe` until it answers `Ok`, and gives that answer.
///
/// # Panics
/// When `bound` has passed: with `what`, and with the last error.
#[track_caller]
pub fn until<T, E: std::fmt::Display>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > bound => panic!("waited {bound:?} for {what}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
