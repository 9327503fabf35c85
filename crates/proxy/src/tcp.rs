//! A TCP service's ingress: the policy decides once, then bytes go both ways.

use std::rc::Rc;
use std::sync::Arc;

use weft_proxy_config::{Authorizer, Listener, ListenerKind};
use weft_proxy_http::{Stream, Way};
use weft_telemetry::Failure;
use weft_telemetry::trace::TraceContext;

use crate::authorize::{TCP, authorize};
use crate::carry::carry;
use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::ext_authz::authorize_connection;
use crate::worker::Worker;

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    listener: Arc<Listener>,
    mut client: impl Way,
) {
    let config = worker.shared.config.load_full();
    let trace = worker.with_rng(|rng| TraceContext::continue_or_begin(None, rng));
    let mut record = Exchange::new(worker.clone(), connection.clone(), config, listener, trace);
    match open(&mut record).await {
        Ok(mut app) => {
            record.begin_bytes();
            carry(&mut record, &mut client, &mut app, None).await;
        }
        Err((failure, why)) => {
            let peer = connection.peer_id.as_deref().unwrap_or("unknown");
            let flags = failure.facts().flag;
            tracing::info!(peer, flags, cause = %why, "TCP connection closed by the mesh");
            worker.shared.app_refused.notify_one();
            record.failure = Some(failure);
            record.transport_reason = Some(why);
            record.complete = true;
            client.reset(); // it is no end of the app's
        }
    }
}

/// Decides, and connects to the app.
async fn open(record: &mut Exchange) -> Result<Stream, (Failure, String)> {
    let (worker, listener, config) = (record.worker.clone(), record.listener.clone(), record.config.clone());
    let ListenerKind::Tcp(tcp) = &listener.kind else { return Err((Failure::NoRoute, "no TCP listener".into())) };
    record.cluster = Some(Arc::new(tcp.cluster.clone()));
    let authorized = match &tcp.authorize {
        None => Ok(()),
        Some(Authorizer::Engine) => authorize(record, TCP),
        Some(Authorizer::Server(server)) => Box::pin(authorize_connection(record, server)).await,
    };
    authorized.map_err(|stop| (stop.failure, stop.detail))?;
    let missing = || (Failure::NoCluster, format!("{} is not configured", tcp.cluster.name));
    let upstream = config.upstream(&tcp.cluster).ok_or_else(missing)?;
    let endpoint = worker
        .pick(&upstream.cluster, &upstream.endpoints, &[])
        .ok_or_else(|| (Failure::NoEndpoint, format!("{} has no endpoint", tcp.cluster.name)))?;
    record.upstream = Some(endpoint);
    record.attempts = 1;
    let pool = worker.pools.endpoint(&upstream.cluster, endpoint);
    let stream = pool.dial().await.map_err(|error| (error.failure, error.reason))?;
    record.upstream_local = stream.local_address();
    Ok(stream)
}
