//! The control plane's own identity, and the task that keeps it and the keys of the trust domain renewed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use weft_identity::schedule::{self, Plan};
use weft_identity::{LiveIdentity, Names, ca};

use super::{Authority, BEAT};
use crate::error::AuthorityError;
use crate::keys::TRUST;

/// How often the authority tries again what failed.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

impl Authority {
    /// Gives the control plane its own identity, and keeps it, the issuing CA and the roots renewed until the task is aborted.
    pub fn start(
        self: &Arc<Self>,
        names: Names,
        ttl: Duration,
    ) -> Result<(Arc<LiveIdentity>, JoinHandle<()>), AuthorityError> {
        let live = LiveIdentity::empty();
        live.set(self.own_svid(&names, ttl, SystemTime::now())?, (*self.bundle()).clone());
        let (authority, own) = (self.clone(), live.clone());
        if self.store.is_shared() {
            let authority = self.clone();
            tokio::spawn(async move { authority.holders.follow().await });
        }
        let task = tokio::spawn(async move {
            let mut plan = own_plan(&own);
            let mut begun = Instant::now();
            let mut others = authority.store.watch(TRUST);
            let longest = if authority.store.is_shared() { BEAT } else { Duration::MAX };
            loop {
                let due = plan.due.min(authority.next_rotation()).min(authority.next_step());
                let nap = schedule::nap(SystemTime::now(), due);
                tokio::select! {
                    () = tokio::time::sleep(nap.max(AT_MOST_EVERY).min(longest)) => {}
                    () = authority.holders.changed() => {}
                    () = authority.asked.notified() => {}
                    () = authority.signer.changed() => {}
                    _ = others.next(), if authority.store.is_shared() => {}
                }
                let now = SystemTime::now();
                let changed = authority.advance(now).await.unwrap_or_else(|error| {
                    tracing::error!(%error, "the mesh's keys were not looked after; trying again");
                    false
                });
                if changed || plan.is_due(now, begun.elapsed()) {
                    match authority.own_svid(&names, ttl, now) {
                        Ok(svid) => {
                            own.set(svid, (*authority.bundle()).clone());
                            (plan, begun) = (own_plan(&own), Instant::now());
                        }
                        Err(error) => {
                            tracing::error!(%error, "the server's own certificate was not renewed; trying again")
                        }
                    }
                }
            }
        });
        Ok((live, task))
    }
}

/// When the control plane's own certificate is to be renewed.
fn own_plan(own: &LiveIdentity) -> Plan {
    let state = own.load();
    let (not_before, due) = state.svid().map_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH), |svid| {
        (svid.not_before(), schedule::half_life(svid.not_before() + ca::BACKDATE, svid.not_after()))
    });
    Plan { begun: SystemTime::now(), due, not_before }
}
