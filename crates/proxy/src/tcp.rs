//! A TCP service's ingress: the policy decides once, then bytes go both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use weft_policy::CallRequest;
use weft_telemetry::metrics::{Reporter, TcpLabels};

use crate::config::{Listener, ListenerKind};
use crate::serve::Connection;
use crate::worker::Worker;

/// Serves one connection to its end.
pub(crate) async fn serve<S>(worker: Rc<Worker>, connection: Rc<Connection>, listener: Arc<Listener>, mut client: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    worker.begun();
    let flags = match open(&worker, &connection, &listener).await {
        Ok(mut app) => {
            let series = worker.metrics.borrow_mut().tcp(&labels(&worker, &connection, "-"));
            series.opened.fetch_add(1, Ordering::Relaxed);
            if let Ok((sent, received)) = copy_bidirectional(&mut client, &mut app).await {
                series.sent.fetch_add(sent, Ordering::Relaxed);
                series.received.fetch_add(received, Ordering::Relaxed);
            }
            series.closed.fetch_add(1, Ordering::Relaxed);
            worker.ended();
            return;
        }
        Err((flags, why)) => {
            let peer = connection.peer_id.as_deref().unwrap_or("unknown");
            tracing::info!(peer, flags, cause = %why, "TCP connection closed by the mesh");
            flags
        }
    };
    let series = worker.metrics.borrow_mut().tcp(&labels(&worker, &connection, flags));
    series.opened.fetch_add(1, Ordering::Relaxed);
    series.closed.fetch_add(1, Ordering::Relaxed);
    worker.ended();
}

async fn open(
    worker: &Rc<Worker>,
    connection: &Connection,
    listener: &Listener,
) -> Result<crate::upstream::Stream, (&'static str, String)> {
    let ListenerKind::Tcp(tcp) = &listener.kind else { return Err(("NR", "no TCP listener".into())) };
    let config = worker.shared.config.load_full();
    if tcp.authorize {
        let engine = config.policy.as_ref().ok_or(("UAEX", "no policy bundle has been delivered yet".to_owned()))?;
        let request = CallRequest {
            principal: connection.peer.as_ref(),
            method: "",
            path: "",
            host: &worker.shared.own_host,
            protocol: "TCP",
            source_ip: connection.remote_address.map(|address| address.ip()),
        };
        let decision = engine.decide(&request);
        if !decision.allowed {
            return Err(("UAEX", decision.reason.to_string()));
        }
    }
    let upstream = config.upstream(&tcp.cluster).ok_or(("NC", format!("{} is not configured", tcp.cluster.name)))?;
    let endpoint = worker
        .pick(&upstream.cluster, &upstream.endpoints, &[])
        .ok_or_else(|| ("UH", format!("{} has no endpoint", tcp.cluster.name)))?;
    let pool = worker.pools.endpoint(&upstream.cluster, endpoint);
    pool.dial().await.map_err(|error| (error.failure.facts().flag, error.reason))
}

fn labels(worker: &Worker, connection: &Connection, flags: &'static str) -> TcpLabels {
    TcpLabels {
        reporter: Reporter::Destination,
        source: connection.peer_id.clone().unwrap_or_else(|| "unknown".into()),
        destination: connection.own_id.clone(),
        service: worker.shared.own_host.clone(),
        flags,
    }
}
