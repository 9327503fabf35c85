//! Where requests go: clusters and their endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::SpiffeId;

/// A number for a cluster's name, given when the name is first seen and never to another name while the process lives,
/// so that pools and statistics can be kept in a table indexed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub(super) u32);

impl ClusterId {
    /// Place in a table; small and dense.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A route's reference to a cluster, which may or may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRef {
    /// The cluster's name.
    pub name: Arc<str>,
    /// The number of that name.
    pub id: ClusterId,
    /// Host of the service, the last part of a name like `outbound|8080|v1|board.prod`; for the metrics.
    pub service: Arc<str>,
}

/// One cluster, as CDS gave it (`envoy.config.cluster.v3.Cluster`).
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Unique name, like `outbound|8080|v1|board.prod`.
    pub name: Arc<str>,
    /// The number of that name.
    pub id: ClusterId,
    /// How connections are encrypted; `None` is clear text.
    pub tls: Option<UpstreamTls>,
    /// What is spoken over a connection.
    pub protocol: UpstreamProtocol,
    /// `idle_timeout` of HTTP/1.1: a connection that no request wanted for so long is closed; `None` is never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// From `connect()` to the end of the TLS handshake. Default 5 s.
    pub connect_timeout: Duration,
    /// How an endpoint is chosen.
    pub lb_policy: LbPolicy,
    /// Where the endpoints come from.
    pub endpoints: EndpointsSource,
}

/// A cluster with the endpoints that it has in this [`Config`](super::Config).
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The same `Arc` as before while the cluster's resource is unchanged.
    pub cluster: Arc<Cluster>,
    /// The same `Arc` as before while the endpoints' resource is unchanged. Empty until EDS came.
    pub endpoints: Arc<Endpoints>,
}

/// What is spoken over a connection to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, or bytes for a TCP listener or CONNECT.
    Http1,
    /// HTTP/2: by ALPN with TLS, with prior knowledge without.
    Http2,
}

/// TLS towards endpoints: own certificate and trust bundle are the proxy's live identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Server name to send, like `outbound_.8080_._.board.prod`; not verified.
    pub sni: Option<Arc<str>>,
    /// Protocols to offer, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Who must answer.
    pub expected: SpiffeId,
    /// The same, for log lines and metrics.
    pub expected_id: Arc<str>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    /// Each in turn, by weight.
    RoundRobin,
    /// The less busy of two random ones.
    LeastRequest,
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointsSource {
    /// They stand in the cluster.
    Static(Arc<Endpoints>),
    /// EDS, by this name.
    Eds(Arc<str>),
}

/// The endpoints of a cluster that may be used (`envoy.config.endpoint.v3.ClusterLoadAssignment`), in the order given.
///
/// On a line from 0 to [`total_weight`](Self::total_weight) each takes as much as its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    list: Vec<Endpoint>,
    /// Running sums of the weights; empty when all weights are equal, and then each takes 1.
    cumulative: Vec<u64>,
    total: u64,
    /// Coprime to `total`: steps of this length visit every point of the line once, and neighbours far apart.
    stride: u64,
}

impl Endpoints {
    /// From the usable endpoints.
    pub fn new(list: Vec<Endpoint>) -> Self {
        let equal = list.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let sums = |sum: &mut u64, endpoint: &Endpoint| {
            *sum += u64::from(endpoint.weight);
            Some(*sum)
        };
        let cumulative = if equal { Vec::new() } else { list.iter().scan(0, sums).collect() };
        let total = cumulative.last().copied().unwrap_or(list.len() as u64);
        let golden = total / 1000 * 618 + total % 1000 * 618 / 1000;
        let stride = if equal { 1 } else { (golden.max(1)..).find(|stride| gcd(*stride, total) == 1).unwrap_or(1) };
        Self { list, cumulative, total, stride }
    }

    /// Length of the line, at least 1 unless there is no endpoint.
    pub fn total_weight(&self) -> u64 {
        self.total
    }

    /// Whose part of the line the point is in; `point` must be less than the total.
    pub fn at(&self, point: u64) -> usize {
        if self.cumulative.is_empty() { point as usize } else { self.cumulative.partition_point(|sum| *sum <= point) }
    }

    /// Where the part of an endpoint starts, and how long it is.
    pub fn part(&self, index: usize) -> (u64, u64) {
        if self.cumulative.is_empty() {
            return (index as u64, 1);
        }
        let start = index.checked_sub(1).map_or(0, |before| self.cumulative[before]);
        (start, self.cumulative[index] - start)
    }

    /// The point of a turn: any `total_weight` turns in a row visit each point once. There must be an endpoint.
    pub fn spread(&self, turn: u64) -> u64 {
        (u128::from(turn % self.total) * u128::from(self.stride) % u128::from(self.total)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl std::ops::Deref for Endpoints {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.list
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where its ingress listens.
    pub address: SocketAddr,
    /// Share of the traffic, at least 1. Default 1.
    pub weight: u32,
    /// Strings of its `envoy.lb` metadata, like `version: v1`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}
