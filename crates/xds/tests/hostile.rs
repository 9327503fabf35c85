//! Clients that break the rules, or are only slow: a clear status or the newest state, never a panic and never a queue.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use common::{Server, World, log_until, node, snapshot, soon};
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status, Streaming};
use weft_xds::type_url::{CLUSTER, SECRET};
use weft_xds::{Resource, Snapshot};

/// Sends and receives bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

async fn start(snapshot: Arc<Snapshot>) -> (Arc<World>, common::Log, Server) {
    let (world, log) = World::new(snapshot);
    let server = Server::start(&world);
    (world, log, server)
}

/// Sends these messages on one delta stream and waits for what ends it.
async fn end_of(address: SocketAddr, messages: Vec<Vec<u8>>) -> Status {
    let channel = common::channel(address).await.expect("a connection");
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("ready");
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let opened = soon(grpc.streaming(Request::new(stream), path.parse().expect("a path"), Raw)).await;
    let mut responses: Streaming<Vec<u8>> = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    soon(async {
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("the end"),
                Err(status) => return status,
            }
        }
    })
    .await
}

fn hello() -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest { node: Some(node("n")), type_url: CLUSTER.into(), ..Default::default() }
}

#[tokio::test]
async fn bad_requests_get_a_clear_status_and_the_server_lives_on() {
    let (_world, mut log, server) = start(snapshot("1", &[(CLUSTER, "a", "1")])).await;
    let nameless = pb::DeltaDiscoveryRequest { node: None, ..hello() };
    let typeless = pb::DeltaDiscoveryRequest { type_url: String::new(), ..hello() };
    let huge = pb::DeltaDiscoveryRequest { resource_names_subscribe: vec!["x".repeat(17 << 20)], ..hello() };
    let long = pb::DeltaDiscoveryRequest { resource_names_subscribe: vec!["x".repeat(5000)], ..hello() };
    let many = pb::DeltaDiscoveryRequest {
        resource_names_subscribe: (0..70_000).map(|number| number.to_string()).collect(),
        ..hello()
    };
    let cases = [
        (vec![vec![0xff, 0xff, 0xff]], Code::InvalidArgument, "the request cannot be read"),
        (vec![hello().encode_to_vec(), vec![0xff]], Code::InvalidArgument, "the request cannot be read"),
        (vec![nameless.encode_to_vec()], Code::InvalidArgument, "must carry the node"),
        (vec![typeless.encode_to_vec()], Code::InvalidArgument, "no type_url"),
        (vec![hello().encode_to_vec(), typeless.encode_to_vec()], Code::InvalidArgument, "no type_url"),
        (vec![huge.encode_to_vec()], Code::ResourceExhausted, "too large; at most 16777216 bytes"),
        (vec![hello().encode_to_vec(), long.encode_to_vec()], Code::InvalidArgument, "a resource name has 5000 bytes"),
        (vec![many.encode_to_vec()], Code::ResourceExhausted, "70000 names of CDS are too many"),
    ];
    for (messages, code, text) in cases {
        let status = end_of(server.address, messages).await;
        assert!(status.code() == code && status.message().contains(text), "{status:?} where {text} was expected");
    }
    drop(log_until(&mut log, "closed").await);
    let (mut requests, mut responses) = open(server.address).await;
    assert_eq!(next(&mut requests, &mut responses).await.0, ["a"]);
}

type Requests = mpsc::Sender<pb::DeltaDiscoveryRequest>;

async fn open(address: SocketAddr) -> (Requests, Streaming<pb::DeltaDiscoveryResponse>) {
    let channel = common::channel(address).await.expect("a connection");
    let (requests, stream) = mpsc::channel(64);
    requests.send(hello()).await.expect("room");
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let responses = soon(client.delta_aggregated_resources(ReceiverStream::new(stream))).await.expect("let in");
    (requests, responses.into_inner())
}

/// The names and the revision of the next response, which is accepted.
async fn next(requests: &mut Requests, responses: &mut Streaming<pb::DeltaDiscoveryResponse>) -> (Vec<String>, String) {
    let response = soon(responses.message()).await.expect("no error").expect("a response");
    let ack =
        pb::DeltaDiscoveryRequest { type_url: response.type_url, response_nonce: response.nonce, ..Default::default() };
    requests.send(ack).await.expect("room");
    (response.resources.into_iter().map(|resource| resource.name).collect(), response.system_version_info)
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_state_and_nothing_is_queued_for_it() {
    let state = |revision: usize| {
        // The first is more than the transport takes without a reader.
        let body = revision.to_string().repeat(if revision == 0 { 8 << 20 } else { 1 }).into_bytes();
        Arc::new(Snapshot::new(&revision.to_string()).with(Resource::from_bytes(CLUSTER, "a", body)))
    };
    let (world, mut log, server) = start(state(0)).await;
    let (mut requests, mut responses) = open(server.address).await;
    log_until(&mut log, "sent CDS").await;
    for revision in 1..=200 {
        world.snapshots.send_replace(state(revision));
        tokio::task::yield_now().await;
    }
    let mut seen = vec![next(&mut requests, &mut responses).await.1];
    while seen.last().is_some_and(|revision| revision != "200") {
        seen.push(next(&mut requests, &mut responses).await.1);
    }
    assert_eq!(seen, ["0", "200"]);
}

#[tokio::test]
async fn a_client_that_never_answers_gets_one_response() {
    let (world, mut log, server) = start(snapshot("1", &[(CLUSTER, "a", "1")])).await;
    let (requests, mut responses) = open(server.address).await;
    let first = soon(responses.message()).await.expect("no error").expect("a response");
    world.snapshots.send_replace(snapshot("2", &[(CLUSTER, "a", "2")]));
    // Wrong answers are no answers.
    for nonce in ["", "nonsense", "99999999999999999999999"] {
        let request = pb::DeltaDiscoveryRequest { response_nonce: nonce.into(), node: None, ..hello() };
        requests.send(request).await.expect("room");
    }
    let ack = pb::DeltaDiscoveryRequest { type_url: CLUSTER.into(), response_nonce: first.nonce, ..Default::default() };
    requests.send(ack).await.expect("room");
    let second = soon(responses.message()).await.expect("no error").expect("a response");
    assert_eq!(second.system_version_info, "2");
    let lines = log_until(&mut log, "ack CDS 1").await;
    assert_eq!(lines.iter().filter(|line| line.starts_with("sent")).count(), 1, "{lines:?}");
}

#[tokio::test]
async fn the_secret_service_has_secrets_and_nothing_else() {
    let (world, _log, server) = start(snapshot("1", &[(SECRET, "default", "key 1"), (CLUSTER, "a", "1")])).await;
    let channel = common::channel(server.address).await.expect("a connection");
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let request = |type_url: &str, names: &[&str], nonce: &str| pb::DiscoveryRequest {
        node: Some(node("n")),
        type_url: type_url.into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        ..Default::default()
    };
    let (requests, stream) = mpsc::channel(8);
    requests.send(request(SECRET, &["default"], "")).await.expect("room");
    let mut responses = soon(client.stream_secrets(ReceiverStream::new(stream))).await.expect("let in").into_inner();
    let first = soon(responses.message()).await.expect("no error").expect("a secret");
    assert_eq!(first.resources.iter().map(|any| any.value.as_slice()).collect::<Vec<_>>(), [b"key 1"]);
    world.snapshots.send_replace(snapshot("2", &[(SECRET, "default", "key 2")]));
    requests.send(request("", &["default"], &first.nonce)).await.expect("room");
    let second = soon(responses.message()).await.expect("no error").expect("the rotated secret");
    assert_eq!(second.resources.iter().map(|any| any.value.as_slice()).collect::<Vec<_>>(), [b"key 2"]);
    assert_ne!(first.version_info, second.version_info);

    requests.send(request(CLUSTER, &[], "")).await.expect("room");
    let status = soon(responses.message()).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("this service has no "), "{status:?}");

    let status = soon(client.fetch_secrets(request(SECRET, &["default"], ""))).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unimplemented);
}
