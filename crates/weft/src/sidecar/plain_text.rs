//! Tells the control plane who still calls this service in plain text: what is new, at most every few seconds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use weft_decision_log::plain_text::Callers;
use weft_decision_log::{PlainCall, PlainText};
use weft_identity::LiveIdentity;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::proto::{PlainTextCaller, PlainTextReport};

/// Between two reports.
const PAUSE: Duration = Duration::from_secs(3);
/// For the answer to one.
const ANSWER: Duration = Duration::from_secs(5);

/// Gathers the calls that are heard of, and reports them, for ever. What could not be reported is reported later.
pub(super) async fn report(
    told: PlainText,
    mut heard: mpsc::Receiver<PlainCall>,
    server: String,
    identity: Arc<LiveIdentity>,
) -> Infallible {
    let (mut unsent, mut missed) = (Callers::default(), 0);
    let mut sending = JoinSet::new();
    let mut pause = interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(call) = heard.recv() => unsent.add(call.address, call.caller),
            Some(sent) = sending.join_next() => {
                if let Ok(Err(again)) = sent {
                    unsent.merge(again);
                }
            }
            _ = pause.tick(), if sending.is_empty() && !unsent.is_empty() => {
                unsent.missed += told.missed() - std::mem::replace(&mut missed, told.missed());
                let (server, identity, callers) = (server.clone(), identity.clone(), std::mem::take(&mut unsent));
                sending.spawn(async move {
                    match timeout(ANSWER, send(&server, &identity, &callers)).await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(error)) => {
                            tracing::debug!(error = format!("{error:#}"), "callers in plain text are reported later");
                            Err(callers)
                        }
                        Err(_) => Err(callers),
                    }
                });
            }
        }
    }
}

async fn send(server: &str, identity: &Arc<LiveIdentity>, callers: &Callers) -> Result<()> {
    let channel = weft_identity::connect(server, identity).await.context("connecting")?;
    IdentityClient::new(channel).report_plain_text(written(callers)).await?;
    Ok(())
}

fn written(callers: &Callers) -> PlainTextReport {
    let caller = |(address, caller): (&std::net::IpAddr, &weft_decision_log::plain_text::Caller)| PlainTextCaller {
        address: address.to_string(),
        first_seen: caller.first_seen,
        last_seen: caller.last_seen,
        allowed: caller.allowed,
        denied: caller.denied,
        user_agent: caller.user_agent.clone(),
        asked: caller.asked.clone(),
    };
    PlainTextReport {
        callers: callers.iter().map(caller).collect(),
        forgotten: callers.forgotten,
        missed: callers.missed,
    }
}
