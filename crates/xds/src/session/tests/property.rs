//! Random histories of snapshots, subscriptions, answers and reconnects, against a client that follows the rules. Whatever happens, the
//! client ends with exactly what the snapshot has for it, gets nothing twice, and never loses a cluster that it may still need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::session::{DeltaSession, SotwSession};
use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, REVISION, ROUTE};

const CLUSTERS: [&str; 4] = ["a", "b", "c", "d"];
const ROUTES: [&str; 2] = ["r1", "r2"];

/// What a snapshot holds: for each cluster its version, if it exists, and that of its endpoints; for each route where it leads.
#[derive(Clone, Debug)]
struct Spec {
    clusters: [Option<(u8, u8)>; 4],
    routes: [u8; 2],
    listener: u8,
}

#[derive(Clone, Debug)]
enum Op {
    Publish(Spec),
    /// The server sends its next response, if it has one.
    Send,
    /// The server reads the client's next request.
    Deliver,
    /// The client handles a response; it asks for new endpoints before or after it answers.
    Handle {
        which: usize,
        refuse: bool,
        ask_late: bool,
    },
    /// So many times: the server reads all, sends something and the client accepts it.
    Rounds(u8),
    /// The client asks for a name again.
    Again(usize),
    Reconnect,
    /// A second passes in which the client does all that it is about to do.
    Wait,
}

fn spec() -> impl Strategy<Value = Spec> {
    let cluster = prop::option::weighted(0.7, (0..3u8, 0..3u8));
    (prop::array::uniform4(cluster), prop::array::uniform2(0..4u8), 0..2u8)
        .prop_map(|(clusters, routes, listener)| Spec { clusters, routes, listener })
}

fn op(refusals: bool) -> impl Strategy<Value = Op> {
    let refuse = prop::bool::weighted(if refusals { 0.25 } else { 0.0 });
    prop_oneof![
        2 => spec().prop_map(Op::Publish),
        8 => Just(Op::Send),
        8 => Just(Op::Deliver),
        8 => (0..4usize, refuse, any::<bool>()).prop_map(|(which, refuse, ask_late)| Op::Handle { which, refuse, ask_late }),
        3 => (1..12u8).prop_map(Op::Rounds),
        1 => (0..4usize).prop_map(Op::Again),
        1 => Just(Op::Reconnect),
        1 => Just(Op::Wait),
    ]
}

/// Bodies start with the name, because a state-of-the-world response has no other.
fn make(spec: &Spec, revision: &str) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::new(revision);
    let mut put = |type_url, name: &str, body: String| {
        snapshot.insert(Resource::from_bytes(type_url, name, format!("{name}={body}").into_bytes()));
    };
    let existing: Vec<_> =
        CLUSTERS.iter().zip(&spec.clusters).filter_map(|(name, versions)| Some((name, (*versions)?))).collect();
    for (name, (cluster, endpoints)) in &existing {
        put(CLUSTER, name, cluster.to_string());
        put(ENDPOINT, name, endpoints.to_string());
    }
    for (name, target) in ROUTES.iter().zip(spec.routes) {
        let target = existing.get(usize::from(target) % existing.len().max(1)).map_or("", |(name, _)| name);
        put(ROUTE, name, target.to_owned());
    }
    put(LISTENER, "l", spec.listener.to_string());
    put(REVISION, "mesh", revision.to_owned());
    Arc::new(snapshot)
}

enum Server {
    Delta(DeltaSession),
    Sotw(SotwSession),
}

struct Response {
    type_url: &'static str,
    resources: BTreeMap<String, Vec<u8>>,
    removed: Vec<String>,
    nonce: String,
    version: String,
}

#[derive(Default)]
struct Request {
    type_url: &'static str,
    add: Vec<String>,
    drop: Vec<String>,
    names: BTreeSet<String>,
    initial: BTreeMap<String, Vec<u8>>,
    nonce: String,
    version: String,
    refused: bool,
}

impl Server {
    fn new(delta: bool, snapshot: Arc<Snapshot>) -> Self {
        if delta { Self::Delta(DeltaSession::new(snapshot)) } else { Self::Sotw(SotwSession::new(snapshot)) }
    }

    fn on_request(&mut self, request: Request) {
        let error_detail = request.refused.then(|| refusal("no").expect("some"));
        let type_url = request.type_url.to_owned();
        let event = match self {
            Self::Delta(session) => session.on_request(pb::DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: request.add,
                resource_names_unsubscribe: request.drop,
                response_nonce: request.nonce,
                error_detail,
                initial_resource_versions: request
                    .initial
                    .into_iter()
                    .map(|(name, body)| (name, version_of(body)))
                    .collect(),
                ..Default::default()
            }),
            Self::Sotw(session) => session.on_request(pb::DiscoveryRequest {
                type_url,
                resource_names: request.names.into_iter().collect(),
                response_nonce: request.nonce,
                version_info: request.version,
                error_detail,
                ..Default::default()
            }),
        };
        event.expect("a legal request");
    }

    fn next(&mut self) -> Option<Response> {
        match self {
            Self::Delta(session) => session.next_response().map(|response| Response {
                type_url: type_url::intern(&response.type_url).expect("known"),
                resources: response
                    .resources
                    .into_iter()
                    .map(|r| (r.name, r.resource.expect("content").value))
                    .collect(),
                removed: response.removed_resources,
                nonce: response.nonce,
                version: String::new(),
            }),
            Self::Sotw(session) => session.next_response().map(|response| Response {
                type_url: type_url::intern(&response.type_url).expect("known"),
                resources: response.resources.into_iter().map(|any| (name_of(&any.value), any.value)).collect(),
                removed: Vec::new(),
                nonce: response.nonce,
                version: response.version_info,
            }),
        }
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        match self {
            Self::Delta(session) => session.on_snapshot(snapshot),
            Self::Sotw(session) => session.on_snapshot(snapshot),
        }
    }

    fn stop_holding(&mut self) {
        match self {
            Self::Delta(session) => session.stop_holding(),
            Self::Sotw(session) => session.stop_holding(),
        }
    }

    fn settled(&mut self) -> Option<Arc<Snapshot>> {
        match self {
            Self::Delta(session) => session.settled(),
            Self::Sotw(session) => session.settled(),
        }
    }
}

fn version_of(body: Vec<u8>) -> String {
    Resource::from_bytes(CLUSTER, "", body).version.to_string()
}

fn name_of(body: &[u8]) -> String {
    String::from_utf8_lossy(body).split('=').next().expect("a name").to_owned()
}

type View = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

struct World {
    delta: bool,
    refusals: bool,
    snapshot: Arc<Snapshot>,
    server: Server,
    requests: VecDeque<Request>,
    responses: Vec<Response>,
    /// What the client has in force.
    view: View,
    followed: BTreeSet<String>,
    nonces: BTreeMap<&'static str, String>,
    versions: BTreeMap<&'static str, String>,
    /// What was sent last on this stream, and what may be sent again though it is the same.
    sent: BTreeMap<(&'static str, String), Vec<u8>>,
    excused: BTreeSet<(&'static str, String)>,
    clusters_sent: BTreeSet<String>,
}

impl World {
    fn new(delta: bool, refusals: bool, spec: &Spec) -> Self {
        let snapshot = make(spec, "0");
        let server = Server::new(delta, snapshot.clone());
        let mut world = Self {
            delta,
            refusals,
            snapshot,
            server,
            requests: VecDeque::new(),
            responses: Vec::new(),
            view: View::new(),
            followed: BTreeSet::new(),
            nonces: BTreeMap::new(),
            versions: BTreeMap::new(),
            sent: BTreeMap::new(),
            excused: BTreeSet::new(),
            clusters_sent: BTreeSet::new(),
        };
        world.reconnect();
        world
    }

    fn of(&self, type_url: &'static str) -> BTreeMap<String, Vec<u8>> {
        self.view.get(type_url).cloned().unwrap_or_default()
    }

    fn names(&self, type_url: &'static str) -> BTreeSet<String> {
        match type_url {
            ENDPOINT => self.followed.clone(),
            ROUTE => strings(&ROUTES).into_iter().collect(),
            _ => BTreeSet::new(),
        }
    }

    fn reconnect(&mut self) {
        self.server = Server::new(self.delta, self.snapshot.clone());
        self.requests.clear();
        self.responses.clear();
        self.nonces.clear();
        self.excused.clear();
        self.clusters_sent.clear();
        self.sent.clear();
        self.followed = self.of(CLUSTER).into_keys().collect();
        let followed = self.followed.clone();
        self.view.entry(ENDPOINT).or_default().retain(|name, _| followed.contains(name));
        for type_url in [CLUSTER, ENDPOINT, LISTENER, ROUTE, REVISION] {
            let names = self.names(type_url);
            if type_url == ENDPOINT && names.is_empty() {
                continue;
            }
            let initial = self.of(type_url);
            if self.delta {
                self.sent.extend(initial.iter().map(|(name, body)| ((type_url, name.clone()), body.clone())));
            }
            let version = self.versions.get(type_url).cloned().unwrap_or_default();
            let add = names.iter().cloned().collect();
            self.requests.push_back(Request { type_url, add, names, initial, version, ..Default::default() });
        }
    }

    fn deliver(&mut self) {
        let Some(request) = self.requests.pop_front() else { return };
        let asked = request.add.iter().filter(|name| !request.initial.contains_key(*name));
        self.excused.extend(asked.map(|name| (request.type_url, name.clone())));
        self.server.on_request(request);
    }

    fn send(&mut self) {
        let Some(response) = self.server.next() else {
            if let Some(snapshot) = self.server.settled()
                && !self.refusals
                && self.requests.is_empty()
                && self.responses.is_empty()
            {
                assert_eq!(snapshot.revision, self.snapshot.revision);
                self.assert_converged();
            }
            return;
        };
        let type_url = response.type_url;
        assert!(
            self.responses.iter().all(|other| other.type_url != type_url),
            "two unanswered responses of {type_url}"
        );
        let full = !self.delta && matches!(type_url, CLUSTER | LISTENER);
        let mut news = 0;
        for (name, body) in &response.resources {
            let key = (type_url, name.clone());
            let excused = self.excused.remove(&key);
            let same = self.sent.insert(key, body.clone()).as_ref() == Some(body);
            assert!(full || excused || !same, "{type_url} {name} was sent again");
            news += usize::from(!same);
            if type_url == CLUSTER {
                self.excused.insert((ENDPOINT, name.clone()));
                self.clusters_sent.insert(name.clone());
            }
        }
        if full {
            let gone: Vec<_> = self
                .sent
                .keys()
                .filter(|(url, name)| *url == type_url && !response.resources.contains_key(name))
                .cloned()
                .collect();
            news += gone.len();
            gone.iter().for_each(|key| drop(self.sent.remove(key)));
            assert!(news > 0 || response.resources.is_empty(), "{type_url} was sent without news");
        }
        response.removed.iter().for_each(|name| drop(self.sent.remove(&(type_url, name.clone()))));
        self.responses.push(response);
    }

    fn handle(&mut self, which: usize, refuse: bool, ask_late: bool) {
        if self.responses.is_empty() {
            return;
        }
        let response = self.responses.remove(which % self.responses.len());
        let type_url = response.type_url;
        if type_url == CLUSTER {
            self.assert_no_cluster_is_missed(&response);
        }
        let full = !self.delta && matches!(type_url, CLUSTER | LISTENER);
        let view = self.view.entry(type_url).or_default();
        if full && !refuse {
            view.retain(|name, _| response.resources.contains_key(name));
        }
        response.removed.iter().for_each(|name| drop(view.remove(name)));
        if !refuse {
            // What a client has not asked for it passes over.
            let followed = |name: &String| type_url != ENDPOINT || self.followed.contains(name);
            view.extend(response.resources.into_iter().filter(|(name, _)| followed(name)));
            self.versions.insert(type_url, response.version);
        }
        if type_url == ROUTE && !self.refusals {
            self.assert_routes_lead_somewhere();
        }
        self.nonces.insert(type_url, response.nonce.clone());
        if type_url == CLUSTER && !ask_late {
            self.follow_endpoints();
        }
        let version = self.versions.get(type_url).cloned().unwrap_or_default();
        let names = self.names(type_url);
        self.requests.push_back(Request {
            type_url,
            names,
            nonce: response.nonce,
            version,
            refused: refuse,
            ..Default::default()
        });
        if type_url == CLUSTER && ask_late {
            self.follow_endpoints();
        }
    }

    fn round(&mut self) {
        while !self.requests.is_empty() {
            self.deliver();
        }
        self.send();
        self.handle(0, false, false);
    }

    fn follow_endpoints(&mut self) {
        let wanted: BTreeSet<String> = self.of(CLUSTER).into_keys().collect();
        let add: Vec<_> = wanted.difference(&self.followed).cloned().collect();
        let drop: Vec<_> = self.followed.difference(&wanted).cloned().collect();
        if add.is_empty() && drop.is_empty() {
            return;
        }
        self.view.entry(ENDPOINT).or_default().retain(|name, _| wanted.contains(name));
        self.followed = wanted;
        self.request_endpoints(add, drop);
    }

    fn request_endpoints(&mut self, add: Vec<String>, drop: Vec<String>) {
        let nonce = if self.delta { String::new() } else { self.nonces.get(ENDPOINT).cloned().unwrap_or_default() };
        let version = self.versions.get(ENDPOINT).cloned().unwrap_or_default();
        let names = self.followed.clone();
        self.requests.push_back(Request { type_url: ENDPOINT, add, drop, names, nonce, version, ..Default::default() });
    }

    /// Make before break, the breaking side.
    fn assert_no_cluster_is_missed(&self, response: &Response) {
        let full = !self.delta;
        let in_force = self.of(ROUTE).into_values();
        let on_the_way = self
            .responses
            .iter()
            .filter(|other| other.type_url == ROUTE)
            .flat_map(|other| other.resources.values().cloned());
        // A stream of the world can only keep what it has sent itself.
        let kept = |name: &String| !full || self.clusters_sent.contains(name);
        for route in in_force.chain(on_the_way) {
            let target = String::from_utf8_lossy(&route).split_once('=').expect("a target").1.to_owned();
            let removed = response.removed.contains(&target) || (full && !response.resources.contains_key(&target));
            let had = self.of(CLUSTER).contains_key(&target) && kept(&target);
            assert!(!(removed && had), "cluster {target} goes while {} may need it", String::from_utf8_lossy(&route));
        }
    }

    /// Make before break, the making side.
    fn assert_routes_lead_somewhere(&self) {
        for route in self.of(ROUTE).into_values() {
            let target = String::from_utf8_lossy(&route).split_once('=').expect("a target").1.to_owned();
            if !target.is_empty() && self.delta {
                assert!(self.of(CLUSTER).contains_key(&target), "a route to {target}, which is not there");
                assert!(self.of(ENDPOINT).contains_key(&target), "a route to {target}, whose endpoints are not there");
            }
        }
    }

    fn assert_converged(&self) {
        for type_url in [CLUSTER, ENDPOINT, LISTENER, ROUTE, REVISION] {
            let available = self.snapshot.get(type_url).values();
            let expected: BTreeMap<String, Vec<u8>> =
                available.map(|resource| (resource.name.to_string(), resource.any.value.clone())).collect();
            assert_eq!(self.of(type_url), expected, "{type_url} at {}", self.snapshot.revision);
        }
    }

    fn step(&mut self, op: Op, revision: usize) {
        match op {
            Op::Publish(spec) => {
                self.snapshot = make(&spec, &revision.to_string());
                self.server.publish(self.snapshot.clone());
            }
            Op::Send => self.send(),
            Op::Deliver => self.deliver(),
            Op::Handle { which, refuse, ask_late } => self.handle(which, refuse, ask_late),
            Op::Rounds(count) => (0..count).for_each(|_| self.round()),
            Op::Again(which) => {
                if let Some(name) = self.followed.iter().nth(which).cloned()
                    && self.delta
                {
                    self.request_endpoints(vec![name], Vec::new());
                }
            }
            Op::Reconnect => self.reconnect(),
            Op::Wait => {
                if self.requests.is_empty() && self.responses.is_empty() {
                    self.server.stop_holding();
                }
            }
        }
    }

    /// Lets everything happen that is about to happen.
    fn run_down(&mut self) {
        let mut idle = 0;
        for _ in 0..200 {
            self.round();
            if self.requests.is_empty() && self.responses.is_empty() {
                self.server.stop_holding();
                idle += 1;
            } else {
                idle = 0;
            }
            if idle == 3 {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

fn history(delta: bool, refusals: bool, start: Spec, ops: Vec<Op>) {
    let mut world = World::new(delta, refusals, &start);
    let last = ops.len() + 1;
    for (index, op) in ops.into_iter().enumerate() {
        world.step(op, index + 1);
    }
    world.run_down();
    if refusals {
        // What was refused is not sent again, so let everything change.
        let everything = Spec { clusters: [Some((9, 9)), None, Some((9, 9)), None], routes: [0, 1], listener: 9 };
        world.step(Op::Publish(everything), last);
        world.run_down();
        // Routes that lead where they led before may still be refused ones.
        world.step(
            Op::Publish(Spec { clusters: [None, Some((8, 8)), None, Some((8, 8))], routes: [0, 1], listener: 8 }),
            last + 1,
        );
        world.run_down();
    }
    world.assert_converged();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn delta_converges_without_repeating_or_breaking(start in spec(), ops in prop::collection::vec(op(false), 0..80)) {
        history(true, false, start, ops);
    }

    #[test]
    fn delta_survives_refusals(start in spec(), ops in prop::collection::vec(op(true), 0..80)) {
        history(true, true, start, ops);
    }

    #[test]
    fn state_of_the_world_converges_without_repeating_or_breaking(start in spec(), ops in prop::collection::vec(op(false), 0..80)) {
        history(false, false, start, ops);
    }

    #[test]
    fn state_of_the_world_survives_refusals(start in spec(), ops in prop::collection::vec(op(true), 0..80)) {
        history(false, true, start, ops);
    }
}
