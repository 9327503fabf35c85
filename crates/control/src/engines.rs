//! Policy engines of the serving commit, one a service, for an authorization server that is asked about any of them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use weft_compile::CompiledMesh;
use weft_model::ServiceName;
use weft_policy::Engine;

use crate::hub::Hub;

/// Made on first use and kept for as long as the commit serves. Whoever asks takes no lock; only those that come together as the first
/// for one service wait for its engine.
#[derive(Clone)]
pub struct Engines {
    hub: Arc<Hub>,
    made: Arc<ArcSwap<Made>>,
}

/// The engines of one commit.
struct Made {
    /// Weak: it keeps the address from being given to another commit, and no commit alive.
    of: Weak<CompiledMesh>,
    engines: BTreeMap<ServiceName, OnceLock<Option<Arc<Engine>>>>,
}

impl Engines {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        let none = Made { of: Weak::new(), engines: BTreeMap::new() };
        Self { hub, made: Arc::new(ArcSwap::from_pointee(none)) }
    }

    /// The serving commit, empty before the first.
    pub fn commit(&self) -> Arc<str> {
        self.hub.mesh().map(|mesh| mesh.revision().clone()).unwrap_or_default()
    }

    /// The engine that decides about calls of `callee`; `None` for a service that the serving commit does not know.
    pub fn engine(&self, callee: &ServiceName) -> Option<Arc<Engine>> {
        let mesh = self.hub.mesh()?;
        let mut made = self.made.load_full();
        if !std::ptr::eq(made.of.as_ptr(), Arc::as_ptr(&mesh)) {
            let engines = mesh.intent().services.keys().map(|name| (name.clone(), OnceLock::new())).collect();
            made = Arc::new(Made { of: Arc::downgrade(&mesh), engines });
            self.made.store(made.clone());
        }
        let make = || {
            Engine::new(&mesh.policy().bundle_with(callee, mesh.break_glass()))
                .inspect_err(|error| tracing::error!(service = %callee, %error, "its policy cannot be used; its calls are denied"))
                .ok()
                .map(Arc::new)
        };
        made.engines.get(callee)?.get_or_init(make).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use weft_compile::testing::{MESH, compiled, intent, name, service};

    use super::*;
    use crate::issued::Issued;
    use crate::registry::Registry;

    fn serve(hub: &Hub, services: &[&str], revision: &str) {
        let services: String = services.iter().map(|name| service(name, "")).collect();
        hub.commit(
            compiled(intent(&(MESH.to_owned() + &services)), revision),
            String::new(),
            Duration::ZERO,
            Vec::new(),
        );
    }

    #[test]
    fn an_engine_is_that_of_the_serving_commit_and_made_once() {
        let hub = Hub::new(Registry::default(), Issued::default(), Duration::from_secs(30));
        let engines = Engines::new(hub.clone());
        assert!(engines.engine(&name("prod/web")).is_none(), "nothing is served yet");
        serve(&hub, &["prod/web"], "c1");
        let web = engines.engine(&name("prod/web")).expect("it is served");
        assert_eq!(web.service().as_str(), "prod/web");
        assert!(Arc::ptr_eq(&web, &engines.engine(&name("prod/web")).expect("it is served")));
        assert!(engines.engine(&name("prod/board")).is_none(), "no such service");
        serve(&hub, &["prod/board"], "c2");
        assert_eq!(engines.engine(&name("prod/board")).expect("it is served").service().as_str(), "prod/board");
        assert!(engines.engine(&name("prod/web")).is_none(), "it is gone");
    }

    #[test]
    fn whoever_asks_for_an_engine_waits_for_no_lock() {
        let hub = Hub::new(Registry::default(), Issued::default(), Duration::from_secs(30));
        serve(&hub, &["prod/web"], "c1");
        let engines = Engines::new(hub.clone());
        let _held = hub.state();
        let (told, answer) = mpsc::channel();
        std::thread::spawn(move || told.send(engines.engine(&name("prod/web")).is_some()));
        assert_eq!(answer.recv_timeout(Duration::from_secs(20)), Ok(true), "it waits for the hub");
    }
}
