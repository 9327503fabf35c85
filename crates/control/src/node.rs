//! How a proxy introduces itself: the `weft` key of `Node.metadata`, written by the agent and read, with suspicion, here.
//!
//! What a Node claims counts only as far as its certificate allows: the service must be the certificate's, and the node id must
//! begin with it, so that nobody can speak for another's endpoint.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tonic::Status;
use weft_model::{ServiceName, SpiffeId, TrustDomain};
use weft_xds::Node;

use crate::tracker::ProxyFacts;

/// Longest `Node.id`, in bytes.
const MAX_NODE_ID: usize = 256;

/// Whether a sidecar of `service` may call itself this.
pub(crate) fn is_of(node: &str, service: &ServiceName) -> bool {
    let of_service = node.strip_prefix(service.as_str()).is_some_and(|rest| rest.starts_with('~') && rest.len() > 1);
    of_service && is_name(node)
}

fn is_name(node: &str) -> bool {
    node.len() <= MAX_NODE_ID && !node.contains(char::is_control)
}

/// What an agent says of its proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentNode {
    /// Unique among the sidecars of the service, like `k3x9`; kept through restarts.
    pub instance: String,
    /// The service that the sidecar acts for.
    pub service: ServiceName,
    /// Whether callers may be sent here.
    pub ready: bool,
    /// Where the ingress listens.
    pub ingress: SocketAddr,
    /// Where callers reach the ingress, when that differs (`0.0.0.0` cannot be called).
    pub advertise: Option<SocketAddr>,
    /// Where the egress listens.
    pub egress: SocketAddr,
    /// Where the app listens.
    pub app: SocketAddr,
    /// Where the control plane's ext_authz is reached.
    pub authz: Option<SocketAddr>,
    /// Matched by subsets.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Path of the access log.
    pub access_log: String,
    /// `weft` or `envoy`.
    pub data_plane: String,
    /// Seconds since the Unix epoch at which the certificate expires.
    pub certificate_expires: Option<u64>,
}

impl AgentNode {
    /// The node id, `<service>~<instance>`.
    pub fn id(&self) -> String {
        format!("{}~{}", self.service, self.instance)
    }

    /// As it goes over the wire.
    pub fn to_node(&self) -> Node {
        let labels = self.labels.iter().map(|(key, value)| (key.to_string(), text(value))).collect();
        let mut weft = HashMap::from([
            ("service".to_owned(), text(self.service.as_str())),
            ("ready".to_owned(), value(Kind::BoolValue(self.ready))),
            ("ingress".to_owned(), text(&self.ingress.to_string())),
            ("egress".to_owned(), text(&self.egress.to_string())),
            ("app".to_owned(), text(&self.app.to_string())),
            ("labels".to_owned(), object(labels)),
            ("access_log".to_owned(), text(&self.access_log)),
            ("data_plane".to_owned(), text(&self.data_plane)),
        ]);
        for (key, address) in [("advertise", self.advertise), ("authz", self.authz)] {
            address.map(|address| weft.insert(key.to_owned(), text(&address.to_string())));
        }
        if let Some(expires) = self.certificate_expires {
            weft.insert("certificate_expires".to_owned(), value(Kind::NumberValue(expires as f64)));
        }
        Node {
            id: self.id(),
            cluster: self.service.to_string(),
            user_agent_name: "weft".to_owned(),
            metadata: Some(Struct { fields: HashMap::from([("weft".to_owned(), object(weft))]) }),
            ..Node::default()
        }
    }

    /// Reads what [`AgentNode::to_node`] wrote; `Ok(None)` for a node that is not an agent's.
    ///
    /// # Errors
    /// Names the field that is missing or wrong.
    fn read(node: &Node) -> Result<Option<Self>, String> {
        let Some(weft) = node.metadata.as_ref().and_then(|metadata| as_object(metadata.fields.get("weft")?)) else {
            return Ok(None);
        };
        let string = |key: &str| weft.fields.get(key).and_then(as_text);
        let need = |key: &str| string(key).ok_or_else(|| format!("Node.metadata.weft.{key} is missing"));
        let address = |key: &str, text: &str| {
            text.parse::<SocketAddr>()
                .map_err(|_| format!("Node.metadata.weft.{key}: `{text}` is not an address and port"))
        };
        let service: ServiceName =
            need("service")?.parse().map_err(|error| format!("Node.metadata.weft.service: {error}"))?;
        let Some(instance) = node.id.strip_prefix(&format!("{service}~")).filter(|instance| !instance.is_empty())
        else {
            return Err(format!("Node.id is `{}`; it must be `{service}~` and a name of the instance", node.id));
        };
        let labels = weft.fields.get("labels").and_then(as_object).into_iter().flat_map(|labels| &labels.fields);
        let labels = labels.filter_map(|(key, value)| Some((Arc::from(key.as_str()), Arc::from(as_text(value)?))));
        Ok(Some(Self {
            instance: instance.to_owned(),
            ready: matches!(
                weft.fields.get("ready").and_then(|value| value.kind.as_ref()),
                Some(Kind::BoolValue(true))
            ),
            ingress: address("ingress", need("ingress")?)?,
            advertise: string("advertise").map(|text| address("advertise", text)).transpose()?,
            egress: address("egress", need("egress")?)?,
            app: address("app", need("app")?)?,
            authz: string("authz").map(|text| address("authz", text)).transpose()?,
            labels: labels.collect(),
            access_log: string("access_log").unwrap_or("/dev/stdout").to_owned(),
            data_plane: string("data_plane").unwrap_or("weft").to_owned(),
            certificate_expires: match weft.fields.get("certificate_expires").and_then(|value| value.kind.as_ref()) {
                Some(Kind::NumberValue(seconds)) if *seconds > 0.0 => Some(*seconds as u64),
                _ => None,
            },
            service,
        }))
    }

    /// Where callers reach it.
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.ingress)
    }
}

/// A node whose certificate allows what it claims.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// Key under which the proxy is known; always begins with its service.
    pub(crate) node: Arc<str>,
    pub(crate) identity: SpiffeId,
    pub(crate) service: ServiceName,
    pub(crate) kind: NodeKind,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Agent(Box<AgentNode>),
    /// A proxyless gRPC client: the application itself, which is only a caller.
    Grpc,
}

/// Checks a node against the certificate of its connection.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` when it claims another's service, `INVALID_ARGUMENT` when its
/// metadata cannot be read.
pub(crate) fn introduce(
    peer: Option<SpiffeId>,
    node: &Node,
    trust_domain: &TrustDomain,
) -> Result<Introduction, Status> {
    let Some(identity) = peer else {
        return Err(Status::unauthenticated(
            "xDS needs a client certificate of the mesh: attest with a join token first",
        ));
    };
    if identity.trust_domain() != *trust_domain {
        return Err(Status::permission_denied(format!(
            "this certificate is {identity}; this control plane serves trust domain {trust_domain}"
        )));
    }
    let Some(service) = identity.service() else {
        return Err(Status::permission_denied(format!(
            "this certificate is {identity}; it names no service of the mesh"
        )));
    };
    if !is_name(&node.id) {
        return Err(Status::invalid_argument(format!(
            "Node.id has control characters or is longer than {MAX_NODE_ID} bytes"
        )));
    }
    if let Some(agent) = AgentNode::read(node).map_err(Status::invalid_argument)? {
        if agent.service != service {
            return Err(Status::permission_denied(format!(
                "this certificate is {identity}; it cannot claim service {}",
                agent.service
            )));
        }
        return Ok(Introduction {
            node: node.id.as_str().into(),
            identity,
            service,
            kind: NodeKind::Agent(Box::new(agent)),
        });
    }
    if node.user_agent_name.starts_with("gRPC") {
        let id: String = node.id.chars().take(100).collect();
        return Ok(Introduction {
            node: format!("{service}~grpc:{id}").into(),
            identity,
            service,
            kind: NodeKind::Grpc,
        });
    }
    Err(Status::invalid_argument(
        "Node.metadata has no `weft` key and Node.user_agent_name is not gRPC's: start Envoy with `weft sidecar --data-plane envoy`",
    ))
}

impl Introduction {
    pub(crate) fn facts(&self) -> ProxyFacts {
        let (data_plane, labels, ingress, ready, expires) = match &self.kind {
            NodeKind::Agent(agent) => {
                let ingress = Some(agent.address());
                (agent.data_plane.as_str(), agent.labels.clone(), ingress, agent.ready, agent.certificate_expires)
            }
            NodeKind::Grpc => ("grpc", BTreeMap::new(), None, false, None),
        };
        ProxyFacts {
            service: self.service.clone(),
            identity: self.identity.clone(),
            data_plane: data_plane.into(),
            labels,
            ingress,
            ready,
            certificate_expires: expires,
        }
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

fn object(fields: HashMap<String, Value>) -> Value {
    value(Kind::StructValue(Struct { fields }))
}

fn as_text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn as_object(value: &Value) -> Option<&Struct> {
    match value.kind.as_ref()? {
        Kind::StructValue(object) => Some(object),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentNode {
        AgentNode {
            instance: "k3x9".into(),
            service: "prod/board".parse().expect("legal"),
            ready: true,
            ingress: "0.0.0.0:15006".parse().expect("legal"),
            advertise: Some("10.0.0.7:15006".parse().expect("legal")),
            egress: "127.0.0.1:15001".parse().expect("legal"),
            app: "127.0.0.1:8080".parse().expect("legal"),
            authz: Some("10.0.0.1:15011".parse().expect("legal")),
            labels: BTreeMap::from([("version".into(), "v1".into())]),
            access_log: "/var/log/weft.json".into(),
            data_plane: "envoy".into(),
            certificate_expires: Some(1_800_000_000),
        }
    }

    fn domain() -> TrustDomain {
        "acme.internal".parse().expect("legal")
    }

    fn id(text: &str) -> Option<SpiffeId> {
        Some(text.parse().expect("legal"))
    }

    #[test]
    fn what_an_agent_writes_is_what_is_read() {
        let read = AgentNode::read(&agent().to_node()).expect("legal").expect("an agent");
        assert_eq!(read, agent());
        assert_eq!(read.address().to_string(), "10.0.0.7:15006");
    }

    #[test]
    fn a_node_may_only_claim_the_service_of_its_certificate() {
        let board = id("spiffe://acme.internal/ns/prod/sa/board");
        let known = introduce(board, &agent().to_node(), &domain()).expect("its own");
        assert_eq!(&*known.node, "prod/board~k3x9");
        let status =
            introduce(id("spiffe://acme.internal/ns/prod/sa/web"), &agent().to_node(), &domain()).expect_err("other");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert_eq!(
            status.message(),
            "this certificate is spiffe://acme.internal/ns/prod/sa/web; it cannot claim service prod/board"
        );
        let status = introduce(None, &agent().to_node(), &domain()).expect_err("nobody");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        let status =
            introduce(id("spiffe://evil/ns/prod/sa/board"), &agent().to_node(), &domain()).expect_err("foreign");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        let status = introduce(id("spiffe://acme.internal/x"), &agent().to_node(), &domain()).expect_err("no service");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
    }

    #[test]
    fn a_node_id_begins_with_its_service() {
        let board = id("spiffe://acme.internal/ns/prod/sa/board");
        for bad in ["prod/web~k3x9", "k3x9", "prod/board~", ""] {
            let node = Node { id: bad.into(), ..agent().to_node() };
            let status = introduce(board.clone(), &node, &domain()).expect_err("not its id");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{bad}");
        }
        // A gRPC client's free text cannot take over a sidecar's entry.
        let node = Node { id: "prod/web~a".into(), user_agent_name: "gRPC C-core linux".into(), ..Node::default() };
        let known = introduce(board, &node, &domain()).expect("a client");
        assert_eq!(&*known.node, "prod/board~grpc:prod/web~a");
    }

    #[test]
    fn a_node_id_cannot_forge_lines_or_fill_the_table() {
        let board = id("spiffe://acme.internal/ns/prod/sa/board");
        for bad in ["x\u{1b}[31m".to_owned(), "x\nforged".to_owned(), "x".repeat(257)] {
            let agent = Node { id: format!("prod/board~{bad}"), ..agent().to_node() };
            let grpc = Node { id: bad, user_agent_name: "gRPC C-core linux".into(), ..Node::default() };
            for node in [agent, grpc] {
                let status = introduce(board.clone(), &node, &domain()).expect_err("not a name");
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let mut node = agent().to_node();
        let Some(Kind::StructValue(weft)) =
            node.metadata.as_mut().and_then(|m| m.fields.get_mut("weft")).and_then(|weft| weft.kind.as_mut())
        else {
            panic!("not written")
        };
        weft.fields.insert("ingress".into(), text("here"));
        let error = AgentNode::read(&node).expect_err("not an address");
        assert_eq!(error, "Node.metadata.weft.ingress: `here` is not an address and port");
    }
}
