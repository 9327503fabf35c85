//! Tasks of a worker.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task on this thread, in a place of its own: tokio copies a task eight times until it runs, and that of a connection or a
/// request is kilobytes long.
pub fn spawn_large<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: 'static> + 'static,
{
    tokio::task::spawn_local(Box::pin(future))
}
