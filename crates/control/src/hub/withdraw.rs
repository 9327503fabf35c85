//! The withdrawal of an endpoint: out of the list at once, and done when no caller sends to it any more.

use std::time::Duration;

use super::Hub;
use super::state::Withdrawn;

impl Hub {
    /// Takes an endpoint out and waits until nobody is sent to it any more, at most for `bound`.
    pub(crate) async fn withdraw(&self, node: &str, bound: Duration) -> Withdrawn {
        let target = self.state().begin_withdrawal(node);
        self.work.notify_one();
        self.registry_changed.notify_one();
        self.to_share.notify_one();

        let mut progress = self.progress();
        let all_settled = async {
            loop {
                progress.mark_unchanged();
                let withdrawn = self.state().withdrawn(target, node);
                if withdrawn.is_some_and(|withdrawn| withdrawn.waiting == 0) {
                    return;
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(bound, all_settled).await; // what is still waiting is in the answer
        self.state().withdrawn(target, node).unwrap_or_default()
    }
}
