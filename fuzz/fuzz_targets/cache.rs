//! A cache file that is not what a sidecar wrote: it is taken as far as it goes, and what is kept of it is taken again as it is.
#![no_main]

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use weft_fuzz::{edited, web};
use weft_proxy_config::Builder;
use weft_xds::{Rejection, Sink, Update, replay};

const MAGIC: &[u8] = b"weft-xds-cache1\n";
const HASH: usize = 32;

#[derive(Default)]
struct Proxy(Builder);

#[tonic::async_trait]
impl Sink for Proxy {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        self.0.apply(update)
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        self.0.wanted(type_url)
    }
}

/// The content of the file of `prod/web`.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use prost::Message;
    use weft_xds::type_url::{CLUSTER, ENDPOINT, LISTENER, REVISION, ROUTE};
    #[derive(Clone, PartialEq, Message)]
    struct Content {
        #[prost(string, tag = "1")]
        owner: String,
        #[prost(message, repeated, tag = "2")]
        responses: Vec<pb::DeltaDiscoveryResponse>,
    }
    let responses = [CLUSTER, ENDPOINT, LISTENER, ROUTE, REVISION].map(|type_url| {
        let resources = web().get(type_url).values().map(|resource| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.any.clone()),
            ..Default::default()
        });
        let (type_url, system_version_info) = (type_url.to_owned(), "c0ffee".to_owned());
        pb::DeltaDiscoveryResponse {
            type_url,
            system_version_info,
            resources: resources.collect(),
            ..Default::default()
        }
    });
    Content { owner: "prod/web".to_owned(), responses: responses.into() }.encode_to_vec()
});

fuzz_target!(|edits: &[u8]| {
    let content = edited(&GOOD, edits);
    let file = [MAGIC, &Sha256::digest(&content), &content].concat();
    let run = |file: &[u8]| replay(file, &mut Proxy::default()).now_or_never().expect("nothing to wait for");
    let Ok(kept) = run(&file) else { return };
    if edits.is_empty() {
        assert_eq!(kept.len(), file.len(), "all of a good file is kept");
    }
    assert_eq!(run(&kept).as_ref(), Ok(&kept));
    let mut damaged = kept;
    damaged[MAGIC.len() + HASH - 1] ^= 1;
    assert!(run(&damaged).is_err());
});
