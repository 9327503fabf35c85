//! The attempts of one request: an endpoint each, and once more where that is proven safe.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use weft_proxy_config::{Cluster, Endpoints, RetryPolicy, Route};
use weft_proxy_http::{Again, AttemptError, RequestBody, Sent};
use weft_telemetry::Failure;

use crate::call::Call;
use crate::deadline::{Deadline, Overdue, within};
use crate::stop::Stop;
use crate::upstream::{ActiveCount, EndpointPool};
use crate::worker::Worker;

/// Where a request goes, as its configuration says.
pub(crate) struct Upstream {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) route: Arc<Route>,
}

impl Upstream {
    /// The endpoint for one attempt; those that were tried are taken only if there is no other.
    fn pick(&self, worker: &Worker, tried: &[SocketAddr]) -> Result<SocketAddr, Stop> {
        worker.pick(&self.cluster, &self.endpoints, tried).ok_or_else(|| {
            let name = &self.cluster.name;
            let detail = format!("{name} has no endpoint: no sidecar of it is registered whose app listens");
            Stop::new(Failure::NoEndpoint, detail)
        })
    }
}

/// What one attempt has to work with.
pub(crate) struct Attempt {
    pub(crate) pool: Rc<EndpointPool>,
    pub(crate) active: ActiveCount,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
    /// Whose answers lead to another attempt, if the body can be had once more; `None` for the last one.
    retry: Option<(Arc<Route>, Again)>,
}

impl Attempt {
    /// Whether such an answer says that nothing was done, and another endpoint may be asked. This one is avoided for a while.
    pub(crate) fn is_refused(&self, answer: &HeaderMap) -> bool {
        let retry = self.retry.as_ref().and_then(|(route, again)| Some((route.retry.as_ref()?, again)));
        let refused = retry.is_some_and(|(retry, again)| retry.is_retriable(answer) && again.body().is_some());
        if refused {
            self.pool.avoid(Failure::AppUnreachable);
        }
        refused
    }
}

/// Makes attempts until one is answered, no other is allowed, or the time is up. Nothing is sent twice but what is proven to have
/// done nothing, and was kept.
pub(crate) async fn attempts<T>(
    call: &mut Call,
    upstream: &Upstream,
    body: RequestBody,
    deadline: &mut Option<Deadline>,
    attempt: impl AsyncFnMut(&mut Call, Attempt) -> Result<T, AttemptError>,
) -> Result<T, Stop> {
    let made = pin!(one_after_another(call, upstream, body, attempt));
    within(deadline, made).await.unwrap_or_else(|Overdue(bound)| {
        let detail = format!("no response within {bound:?} of the end of the request");
        Err(Stop::new(Failure::RequestTimeout, detail))
    })
}

async fn one_after_another<T>(
    call: &mut Call,
    upstream: &Upstream,
    mut body: RequestBody,
    mut attempt: impl AsyncFnMut(&mut Call, Attempt) -> Result<T, AttemptError>,
) -> Result<T, Stop> {
    let worker = call.exchange.worker.clone();
    let policy = upstream.route.retry.as_ref();
    let most = 1 + policy.map_or(0, |policy| policy.num_retries);
    let again = policy.map(|_| body.again());
    let mut tried = Vec::new();
    loop {
        call.exchange.attempts += 1;
        let last = call.exchange.attempts >= most;
        let address = upstream.pick(&worker, &tried)?;
        call.exchange.upstream = Some(address);
        let pool = worker.pools.endpoint(&upstream.cluster, address);
        let one = Attempt {
            active: pool.enter(),
            pool,
            headers: if last { std::mem::take(&mut call.headers) } else { call.headers.clone() },
            body,
            retry: again.clone().filter(|_| !last).map(|again| (upstream.route.clone(), again)),
        };
        let error = match attempt(call, one).await {
            Ok(answer) => return Ok(answer),
            Err(error) if upstream.cluster.tls.is_none() => error.of_app(),
            Err(error) => error,
        };
        let Some(policy) = policy.filter(|policy| !last && permits(policy, error.sent)) else {
            return Err(error.into());
        };
        let Some(kept) = again.as_ref().and_then(Again::body) else {
            let reason =
                format!("{}, and the request's body was too long to be kept for another attempt", error.reason);
            return Err(AttemptError { reason, ..error }.into());
        };
        body = kept;
        tried.push(address);
        tokio::time::sleep(pause(policy, call.exchange.attempts, worker.random())).await;
    }
}

/// Whether a policy retries after what is proven of an attempt.
fn permits(policy: &RetryPolicy, sent: Sent) -> bool {
    match sent {
        Sent::NoConnection => policy.on.connect_failure,
        Sent::NotProcessed => policy.on.refused_stream || policy.on.reset_before_request,
        Sent::Nowhere | Sent::Perhaps => false,
    }
}

/// Full jitter over an exponential pause.
fn pause(policy: &RetryPolicy, attempts: u32, random: u64) -> Duration {
    let longest = policy.base_interval.saturating_mul(1 << (attempts - 1).min(16)).min(policy.max_interval);
    longest.mul_f64(random as f64 / u64::MAX as f64)
}
