//! What a stream's Node means to the compiler.

use std::net::SocketAddr;

use weft_compile::{Proxy, ProxyKind};

use crate::node::{Introduction, NodeKind};

/// The proxy that introduced itself so.
pub(super) fn proxy_of(introduction: &Introduction) -> Proxy {
    let service = introduction.service.clone();
    match &introduction.kind {
        NodeKind::Agent(agent) => Proxy {
            service,
            ingress: agent.ingress,
            egress: agent.egress,
            app: agent.app,
            authz: agent.authz,
            access_log: agent.access_log.clone(),
            kind: ProxyKind::Sidecar,
        },
        NodeKind::Grpc => {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            Proxy {
                service,
                ingress: nowhere,
                egress: nowhere,
                app: nowhere,
                authz: None,
                access_log: String::new(),
                kind: ProxyKind::Grpc,
            }
        }
    }
}
