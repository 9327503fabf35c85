//! A bounded load: a fixed rate of GET requests over kept connections, every failure counted with its reason.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use crate::{curl, wait};

/// Requests that may be under way at once. A request that is due when as many are under way is left out, not sent late: the load is
/// bounded, and [`Outcome::assert_clean`] sees that too few were sent.
const IN_FLIGHT: usize = 100;

/// What to send.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where: a sidecar's egress.
    pub address: SocketAddr,
    /// `Host`.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Waits until it answers with status 200, twenty times in a row: every endpoint and subset has its configuration.
    #[track_caller]
    pub fn wait_reachable(&self) {
        for _ in 0..20 {
            wait::until(&format!("{} to answer", self.host), wait::SOON, || {
                let reply = curl::get(self.address, &self.host, &self.path, &[]);
                if reply.status == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
            });
        }
    }
}

/// The load while it runs.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    succeeded: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome>>,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests begun.
    pub sent: u64,
    /// Answers with status 200 and a whole body.
    pub succeeded: u64,
    /// Each other one: seconds since the start, and why.
    pub failures: Vec<(f64, String)>,
    /// The longest time from the planned start of a request to its end.
    pub slowest: Duration,
}

impl Outcome {
    /// Asserts that nothing failed and that the load was one: on a machine that is busy with something else some requests are left
    /// out, but not more than 2 of 10.
    #[track_caller]
    pub fn assert_clean(&self, rate: u64, elapsed: Duration) {
        let mut reasons: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for (at, why) in &self.failures {
            reasons.entry(why).or_insert((0, *at)).0 += 1;
        }
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed (reason: count, first at second): {reasons:#?}",
            self.failures.len(),
            self.sent
        );
        let planned = (elapsed.as_secs_f64() * rate as f64) as u64;
        assert!(self.sent * 10 >= planned * 8, "only {} of {planned} planned requests were sent", self.sent);
    }
}

impl Load {
    /// Starts `rate` requests a second until [`Load::stop`].
    pub fn start(target: Target, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let succeeded = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (stop.clone(), succeeded.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(drive(target, rate, stopped, counter))
        });
        Self { stop, succeeded, thread: Some(thread) }
    }

    /// Requests that have succeeded so far.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for what is under way, and gives the outcome.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only stop and drop take it");
        thread.join().expect("the load does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Idle = Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>;

async fn drive(target: Target, rate: u64, stop: Arc<AtomicBool>, succeeded: Arc<AtomicU64>) -> Outcome {
    let target = Arc::new(target);
    let idle: Idle = Arc::default();
    let (report, mut reports) = mpsc::unbounded_channel::<(Duration, Result<Duration, String>)>();
    let start = Instant::now();
    let mut outcome = Outcome::default();
    let (mut planned, mut in_flight) = (0u64, 0);
    let take = |outcome: &mut Outcome, (at, result): (Duration, Result<Duration, String>)| match result {
        Ok(latency) => {
            outcome.succeeded += 1;
            succeeded.fetch_add(1, Ordering::Relaxed);
            outcome.slowest = outcome.slowest.max(latency);
        }
        Err(why) => outcome.failures.push((at.as_secs_f64(), why)),
    };
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_secs_f64(planned as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        while let Ok(done) = reports.try_recv() {
            in_flight -= 1;
            take(&mut outcome, done);
        }
        planned += 1;
        let at = start.elapsed();
        if in_flight >= IN_FLIGHT {
            continue;
        }
        outcome.sent += 1;
        in_flight += 1;
        let (target, idle, report) = (target.clone(), idle.clone(), report.clone());
        tokio::spawn(async move {
            let result = tokio::time::timeout(Duration::from_secs(20), once(&target, &idle)).await;
            let result = result.unwrap_or_else(|_| Err("no answer within 20 s".to_owned()));
            let _ = report.send((at, result.map(|()| due.elapsed())));
        });
    }
    drop(report);
    while let Some(done) = reports.recv().await {
        take(&mut outcome, done);
    }
    outcome
}

async fn once(target: &Target, idle: &Idle) -> Result<(), String> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(&target.path)
        .header("host", &target.host)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    // A kept connection that the peer closed before it took the request is no failure of the request (RFC 9112 s.9.3.1):
    // hyper hands such a request back, and it goes out on another connection.
    let (mut sender, response) = loop {
        let kept = idle.lock().await.pop();
        let mut sender = match kept {
            Some(sender) if !sender.is_closed() => sender,
            Some(_) => continue,
            None => connect(target.address).await?,
        };
        if sender.ready().await.is_err() {
            continue;
        }
        match sender.try_send_request(request).await {
            Ok(response) => break (sender, response),
            Err(mut error) => match error.take_message() {
                Some(back) => request = back,
                None => return Err(format!("request: {}", chain(&error.into_error()))),
            },
        }
    };
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("body: {}", chain(&error)))?.to_bytes();
    if status != 200 {
        let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        return Err(format!("{status}: {}", without_ids(&text)));
    }
    // The connection can be used again once its task has seen the end of the body.
    if sender.ready().await.is_ok() {
        idle.lock().await.push(sender);
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// So that the same failure counts as one reason: the request id in a problem body differs each time.
fn without_ids(text: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Object(mut map)) => {
            map.retain(|key, _| !key.contains("id") && key != "instance");
            serde_json::Value::Object(map).to_string()
        }
        _ => text.to_owned(),
    }
}
