//! The rule itself, field by field: a good message gets one more field, each that its type could have and some that it
//! could not, and either the resource is refused or the field is in the list here. Nothing that would be dropped in
//! silence can slip in.
//!
//! Fields that the message has already are not in the lists: given twice, they are refused. `refused` changes their
//! values.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;

/// Highest field number that is tried; Envoy's messages end at about 90.
const TAGS: u32 = 120;

fn bytes(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut out);
    encode_varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

fn number(tag: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(tag, WireType::Varint, &mut out);
    encode_varint(value, &mut out);
    out
}

/// An `Any` in field `tag`.
fn any(tag: u32, kind: &str, value: &[u8]) -> Vec<u8> {
    bytes(tag, &[bytes(1, format!("type.googleapis.com/{kind}").as_bytes()), bytes(2, value)].concat())
}

/// The fields (by number) with which a message is accepted: set to 1, to an empty message, to a message or text of one
/// byte, and to a message with its first field set to 1.
fn accepted(type_url: &'static str, name: &str, build: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u32> {
    let offered = |extra: &[u8]| offer(&mut Builder::default(), Resource::from_bytes(type_url, name, build(extra)));
    assert_eq!(offered(&[]), Ok(()), "the message without an extra field");
    let takes = |tag: &u32| {
        let values = [number(*tag, 1), bytes(*tag, b""), bytes(*tag, b"a"), bytes(*tag, &number(1, 1))];
        values.iter().any(|extra| offered(extra).is_ok())
    };
    (1..=TAGS).filter(takes).collect()
}

#[test]
fn cluster() {
    let source = [bytes(3, b""), number(6, 2)].concat();
    let eds = [bytes(1, &source), bytes(2, b"c")].concat();
    let base = [bytes(1, b"c"), number(2, 3), bytes(3, &eds)].concat();
    let build = |extra: &[u8]| [&base, extra].concat();
    // connect_timeout, lb_policy, circuit_breakers, alt_stat_name, round_robin_lb_config without content
    assert_eq!(accepted(type_url::CLUSTER, "c", build), [4, 6, 10, 28, 56]);
    let thresholds = |extra: &[u8]| [&*base, &bytes(10, &bytes(1, extra))].concat();
    // none: max_retries is only taken as 1024 and more
    assert_eq!(accepted(type_url::CLUSTER, "c", thresholds), [0_u32; 0]);
    let http = |extra: &[u8]| {
        let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let explicit = bytes(3, &bytes(1, b""));
        let entry = [bytes(1, kind.as_bytes()), any(2, kind, &[&explicit, extra].concat())].concat();
        [base.clone(), bytes(36, &entry)].concat()
    };
    // common_http_protocol_options
    assert_eq!(accepted(type_url::CLUSTER, "c", http), [1]);
}

#[test]
fn assignment() {
    let socket = [bytes(2, b"127.0.0.1"), number(3, 80)].concat();
    let endpoint = bytes(1, &bytes(1, &bytes(1, &socket)));
    let whole = |extra: &[u8]| [&bytes(1, b"c"), &*bytes(2, &bytes(2, &endpoint)), extra].concat();
    // endpoints
    assert_eq!(accepted(type_url::ENDPOINT, "c", whole), [2]);
    let locality = |extra: &[u8]| [bytes(1, b"c"), bytes(2, &[&bytes(2, &endpoint), extra].concat())].concat();
    // locality, load_balancing_weight
    assert_eq!(accepted(type_url::ENDPOINT, "c", locality), [1, 3]);
    let one = |extra: &[u8]| [bytes(1, b"c"), bytes(2, &bytes(2, &[&endpoint, extra].concat()))].concat();
    // health_status, metadata, load_balancing_weight
    assert_eq!(accepted(type_url::ENDPOINT, "c", one), [2, 3, 4]);
    let inner = |extra: &[u8]| {
        let endpoint = bytes(1, &[&bytes(1, &bytes(1, &socket)), extra].concat());
        [bytes(1, b"c"), bytes(2, &bytes(2, &endpoint))].concat()
    };
    assert_eq!(accepted(type_url::ENDPOINT, "c", inner), [0_u32; 0]);
}

#[test]
fn route_configuration() {
    let of = |route: &[u8], host: &[u8], whole: &[u8]| {
        let host = [&bytes(1, b"h"), &bytes(2, b"*"), &*bytes(3, route), host].concat();
        [&bytes(1, b"r"), &*bytes(2, &host), whole].concat()
    };
    let matching = bytes(1, &bytes(1, b"/"));
    let forward = bytes(2, &bytes(1, b"c"));
    let good = [matching.clone(), forward.clone()].concat();
    let accepted = |build: &dyn Fn(&[u8]) -> Vec<u8>| accepted(type_url::ROUTE, "r", build);
    // validate_clusters (false)
    assert_eq!(accepted(&|extra| of(&good, b"", extra)), [7]);
    // another of domains, response_headers_to_remove
    assert_eq!(accepted(&|extra| of(&good, extra, b"")), [2, 11]);
    // name
    assert_eq!(accepted(&|extra| of(&[&good, extra].concat(), b"", b"")), [14]);
    let in_match =
        |extra: &[u8]| of(&[bytes(1, &[&bytes(1, b"/"), extra].concat()), forward.clone()].concat(), b"", b"");
    // case_sensitive (true)
    assert_eq!(accepted(&in_match), [4]);
    let in_header = |extra: &[u8]| {
        let header = bytes(6, &[&bytes(1, b"x-a"), extra].concat());
        of(&[bytes(1, &[bytes(1, b"/"), header].concat()), forward.clone()].concat(), b"", b"")
    };
    // exact_match, present_match, invert_match, prefix_match, suffix_match, contains_match; and 2, which does not
    // exist, if it is empty: the message then looks like an entry of a map (see `wire`)
    assert_eq!(accepted(&in_header), [2, 4, 7, 8, 9, 10, 12]);
    let in_action = |extra: &[u8]| of(&[&*matching, &bytes(2, &[&bytes(1, b"c"), extra].concat())].concat(), b"", b"");
    // timeout, retry_policy, idle_timeout
    assert_eq!(accepted(&in_action), [8, 9, 24]);
    let in_retry = |extra: &[u8]| {
        let action = bytes(2, &[bytes(1, b"c"), bytes(9, extra)].concat());
        of(&[matching.clone(), action].concat(), b"", b"")
    };
    // retry_on (empty), num_retries, per_try_timeout, host_selection_retry_max_attempts, retry_back_off
    assert_eq!(accepted(&in_retry), [1, 2, 3, 6, 8]);
    let in_weight = |extra: &[u8]| {
        let cluster = [&bytes(1, b"c"), &*bytes(2, &number(1, 1)), extra].concat();
        of(&[&*matching, &bytes(2, &bytes(3, &bytes(1, &cluster)))].concat(), b"", b"")
    };
    assert_eq!(accepted(&in_weight), [0_u32; 0]);
}

/// A listener as the control plane makes it.
struct Parts {
    listener: pb_listener::Listener,
}

impl Parts {
    fn of(service: &str, name: &str) -> Self {
        Self { listener: of(&snapshot(service), type_url::LISTENER, name) }
    }

    fn accepted(&self, change: impl Fn(&mut pb_listener::Listener, &[u8])) -> Vec<u32> {
        accepted(type_url::LISTENER, &self.listener.name, |extra| {
            let mut listener = self.listener.clone();
            change(&mut listener, extra);
            listener.encode_to_vec()
        })
    }

    fn in_filter(&self, at: usize) -> Vec<u32> {
        self.accepted(|listener, extra| match &mut listener.filter_chains[0].filters[at].config_type {
            Some(pb_listener::filter::ConfigType::TypedConfig(any)) => any.value.extend(extra),
            _ => unreachable!(),
        })
    }
}

#[test]
fn listener_and_tls() {
    let web = Parts::of("prod/web", "ingress");
    let base = web.listener.encode_to_vec();
    let whole = accepted(type_url::LISTENER, "ingress", |extra| [&base, extra].concat());
    // bind_to_port (true), enable_reuse_port (true)
    assert_eq!(whole, [26, 29]);
    let chain = accepted(type_url::LISTENER, "ingress", |extra| {
        let chain = [&web.listener.filter_chains[0].encode_to_vec(), extra].concat();
        let rest = pb_listener::Listener { filter_chains: Vec::new(), ..web.listener.clone() };
        [rest.encode_to_vec(), bytes(3, &chain)].concat()
    });
    // filter_chain_match (empty), name
    assert_eq!(chain, [1, 7]);
    let tls = web.accepted(|listener, extra| {
        use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
        match &mut listener.filter_chains[0].transport_socket.as_mut().unwrap().config_type {
            Some(ConfigType::TypedConfig(any)) => any.value.extend(extra),
            _ => unreachable!(),
        }
    });
    assert_eq!(tls, [0_u32; 0]);
}

#[test]
fn filters() {
    // codec_type, use_remote_address (false), preserve_external_request_id
    assert_eq!(Parts::of("prod/web", "egress").in_filter(0), [1, 14, 32]);
    // include_peer_certificate
    assert_eq!(Parts::of("prod/db", "ingress").in_filter(0), [4]);
    // idle_timeout
    assert_eq!(Parts::of("prod/db", "ingress").in_filter(1), [8]);
}
