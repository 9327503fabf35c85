//! What a client has and follows: it turns responses into updates and answers, without a transport.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc;

use crate::resource::cut;
use crate::sink::{ClientStatus, Rejection, Sink, TakenBack, Update};
use crate::type_url::{self, CLUSTER, ENDPOINT, LISTENER, POLICY_BUNDLE, REVISION, ROUTE};
use crate::{Node, Resource, Resources};

/// The types that are followed by the names that the others mention; the rest of [`ORDER`] is followed as a whole.
const NAMED: [&str; 2] = [ENDPOINT, ROUTE];
/// What is followed, in the order of the first requests of a stream and of the cache.
const ORDER: [&str; 6] = [POLICY_BUNDLE, CLUSTER, ENDPOINT, LISTENER, ROUTE, REVISION];
/// The most of a refusal's text that is sent, in bytes.
const MAX_REASON: usize = 16 * 1024;
/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// What a client knows of its server's state.
#[derive(Default)]
pub(super) struct State {
    /// What was accepted.
    held: BTreeMap<&'static str, Resources>,
    /// The names followed on the current stream, for the types that are followed by name.
    followed: BTreeMap<&'static str, BTreeSet<Arc<str>>>,
    /// What is held and was refused late: the server is to send it again, so that it can be refused there too.
    doubtful: BTreeSet<(&'static str, Arc<str>)>,
    revision: Arc<str>,
}

/// How a response went.
pub(super) struct Answer {
    type_url: String,
    known: Option<&'static str>,
    revision: Arc<str>,
    /// What it was about.
    names: BTreeSet<Arc<str>>,
    rejections: Vec<Rejection>,
}

impl State {
    /// The first requests of a stream: the node, everything that is followed, and what is there from before.
    pub(super) fn open(&mut self, node: Node, sink: &impl Sink) -> Vec<pb::DeltaDiscoveryRequest> {
        self.followed.clear();
        let mut node = Some(node);
        let mut requests = Vec::new();
        for type_url in ORDER {
            let named = NAMED.contains(&type_url);
            let wanted = if named { sink.wanted(type_url) } else { BTreeSet::new() };
            if named && wanted.is_empty() {
                continue;
            }
            let held = self.held.get(type_url).into_iter().flatten();
            let held = held.filter(|(name, _)| !self.doubtful.contains(&(type_url, (*name).clone())));
            requests.push(pb::DeltaDiscoveryRequest {
                node: node.take(),
                type_url: type_url.to_owned(),
                resource_names_subscribe: wanted.iter().map(|name| name.to_string()).collect(),
                initial_resource_versions: held
                    .map(|(name, resource)| (name.to_string(), resource.version.to_string()))
                    .collect(),
                ..Default::default()
            });
            self.followed.insert(type_url, wanted);
        }
        requests
    }

    /// Requests for what the sink wants more, or no longer. What it no longer wants is taken from it.
    pub(super) async fn resubscribe(&mut self, sink: &mut impl Sink) -> Vec<pb::DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for type_url in NAMED {
            let wanted = sink.wanted(type_url);
            let removed = self.forget_unwanted(type_url, &wanted);
            if !removed.is_empty() {
                let revision = self.revision.clone();
                sink.apply(Update { type_url, revision, changed: Vec::new(), removed }).await;
            }
            let followed = self.followed.entry(type_url).or_default();
            let names = |from: &BTreeSet<Arc<str>>, to: &BTreeSet<Arc<str>>| -> Vec<String> {
                to.difference(from).map(|name| name.to_string()).collect()
            };
            let (more, less) = (names(followed, &wanted), names(&wanted, followed));
            if !more.is_empty() || !less.is_empty() {
                requests.push(pb::DeltaDiscoveryRequest {
                    type_url: type_url.to_owned(),
                    resource_names_subscribe: more,
                    resource_names_unsubscribe: less,
                    ..Default::default()
                });
                *followed = wanted;
            }
        }
        requests
    }

    /// Drops what is held and not wanted, and says what that was.
    fn forget_unwanted(&mut self, type_url: &'static str, wanted: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        let Some(held) = self.held.get_mut(type_url) else { return Vec::new() };
        let unwanted: Vec<_> = held.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        unwanted.iter().for_each(|name| drop(held.remove(name)));
        unwanted
    }

    /// Notes what the sink has back in force, and asks for the refused again: only a new response can be refused. `None` for what is no
    /// longer followed.
    pub(super) fn take_back(&mut self, taken: TakenBack) -> Option<pb::DeltaDiscoveryRequest> {
        let TakenBack { type_url, in_force } = taken;
        let held = self.held.entry(type_url).or_default();
        let followed = self.followed.get(type_url).filter(|_| NAMED.contains(&type_url));
        let mut again = Vec::new();
        for (name, resource) in in_force {
            if followed.is_none_or(|followed| followed.contains(&name)) {
                again.push(name.to_string());
            }
            self.doubtful.insert((type_url, name.clone()));
            match resource {
                Some(resource) => drop(held.insert(name, resource)),
                None => drop(held.remove(&name)),
            }
        }
        (!again.is_empty()).then(|| pb::DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: again,
            ..Default::default()
        })
    }

    /// Gives a response to the sink and remembers what the sink accepted.
    pub(super) async fn receive(&mut self, response: pb::DeltaDiscoveryResponse, sink: &mut impl Sink) -> Answer {
        let Some(type_url) = type_url::intern(&response.type_url).filter(|type_url| ORDER.contains(type_url)) else {
            let rejection = Rejection { name: "".into(), reason: "type_url: this type was not asked for".to_owned() };
            return Answer {
                type_url: response.type_url,
                known: None,
                revision: self.revision.clone(),
                names: BTreeSet::new(),
                rejections: vec![rejection],
            };
        };
        let revision: Arc<str> = response.system_version_info.into();
        let (changed, mut rejections) = unpack(type_url, response.resources);
        let removed: Vec<Arc<str>> = response.removed_resources.into_iter().map(Into::into).collect();
        let update =
            Update { type_url, revision: revision.clone(), changed: changed.clone(), removed: removed.clone() };
        let names = changed.iter().map(|resource| &resource.name).chain(&removed).cloned().collect();
        rejections.extend(sink.apply(update).await);
        let refused: BTreeSet<_> = rejections.iter().map(|rejection| &*rejection.name).collect();
        let held = self.held.entry(type_url).or_default();
        for name in removed.iter().filter(|name| !refused.contains(&***name)) {
            held.remove(name);
            self.doubtful.remove(&(type_url, name.clone()));
        }
        for resource in changed.into_iter().filter(|resource| !refused.contains(&*resource.name)) {
            self.doubtful.remove(&(type_url, resource.name.clone()));
            held.insert(resource.name.clone(), resource);
        }
        self.revision = self.commit().unwrap_or(revision);
        Answer {
            type_url: type_url.to_owned(),
            known: Some(type_url),
            revision: self.revision.clone(),
            names,
            rejections,
        }
    }

    /// The commit in the revision resource, if the server has one.
    fn commit(&self) -> Option<Arc<str>> {
        let resource = self.held.get(REVISION)?.values().next()?;
        std::str::from_utf8(&resource.any.value).ok().map(Into::into)
    }

    /// What was accepted, as responses that make the same state again.
    pub(super) fn as_responses(&self) -> Vec<pb::DeltaDiscoveryResponse> {
        let types = ORDER.into_iter().filter_map(|type_url| Some((type_url, self.held.get(type_url)?)));
        let response = |(type_url, held): (&str, &Resources)| pb::DeltaDiscoveryResponse {
            system_version_info: self.revision.to_string(),
            type_url: type_url.to_owned(),
            resources: held.values().map(|resource| pack(resource)).collect(),
            ..Default::default()
        };
        types.filter(|(_, held)| !held.is_empty()).map(response).collect()
    }
}

fn pack(resource: &Resource) -> pb::Resource {
    pb::Resource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.any.clone()),
        ..Default::default()
    }
}

/// The resources that can be handed on, and why the others cannot.
fn unpack(type_url: &'static str, resources: Vec<pb::Resource>) -> (Vec<Arc<Resource>>, Vec<Rejection>) {
    let (mut good, mut bad, mut seen) = (Vec::new(), Vec::new(), BTreeSet::<Arc<str>>::new());
    for resource in resources {
        let name: Arc<str> = resource.name.into();
        let problem = match &resource.resource {
            _ if !seen.insert(name.clone()) => Some("name: it is twice in one response".to_owned()),
            None => Some("resource: it is missing".to_owned()),
            Some(any) if any.type_url != type_url => {
                Some(format!("resource.type_url: `{}` in a response of another type", any.type_url))
            }
            Some(_) => None,
        };
        match (problem, resource.resource) {
            (None, Some(any)) => good.push(Resource::received(&name, &resource.version, any)),
            (problem, _) => bad.push(Rejection { name, reason: problem.unwrap_or_default() }),
        }
    }
    good.retain(|resource| bad.iter().all(|rejection| rejection.name != resource.name));
    (good, bad)
}

impl Answer {
    /// What it changes in the status.
    pub(super) fn record(&self, status: &mut ClientStatus) {
        status.revision = self.revision.clone();
        if !self.rejections.is_empty() {
            status.nacks += 1;
        }
        let Some(type_url) = self.known else { return };
        let refused = status.refused.entry(type_url).or_default();
        // What is refused and not in this response is refused still.
        refused.retain(|rejection| !self.names.contains(&rejection.name));
        refused.extend(self.rejections.iter().cloned());
        if refused.is_empty() {
            status.refused.remove(type_url);
        }
    }

    /// The ACK, or the NACK with every rejection in its text.
    pub(super) fn into_request(self, nonce: String) -> pb::DeltaDiscoveryRequest {
        let error_detail = (!self.rejections.is_empty()).then(|| {
            let lines = self.rejections.iter().map(|rejection| format!("{}: {}", rejection.name, rejection.reason));
            let message = cut(&lines.collect::<Vec<_>>().join("; "), MAX_REASON).to_owned();
            rpc::Status { code: INVALID_ARGUMENT, message, ..Default::default() }
        });
        pb::DeltaDiscoveryRequest { type_url: self.type_url, response_nonce: nonce, error_detail, ..Default::default() }
    }
}
