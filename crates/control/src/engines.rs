//! Policy engines of the serving commit, one a service, for an authorization server that is asked about any of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use weft_compile::CompiledMesh;
use weft_model::ServiceName;
use weft_policy::Engine;

use crate::hub::Hub;

/// Made on first use and kept for as long as the commit serves.
#[derive(Clone)]
pub struct Engines {
    hub: Arc<Hub>,
    made: Arc<Mutex<Made>>,
}

#[derive(Default)]
struct Made {
    of: Weak<CompiledMesh>,
    engines: HashMap<ServiceName, Option<Arc<Engine>>>,
}

impl Engines {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, made: Arc::default() }
    }

    /// The serving commit, empty before the first.
    pub fn commit(&self) -> Arc<str> {
        self.hub.state().mesh.as_ref().map(|mesh| mesh.revision().clone()).unwrap_or_default()
    }

    /// The engine that decides about calls of `callee`; `None` for a service that the serving commit does not know.
    pub fn engine(&self, callee: &ServiceName) -> Option<Arc<Engine>> {
        let mesh = self.hub.state().mesh.clone()?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(made.of.as_ptr(), Arc::as_ptr(&mesh)) {
            *made = Made { of: Arc::downgrade(&mesh), engines: HashMap::new() };
        }
        let make = || {
            mesh.intent().services.contains_key(callee).then_some(())?;
            Engine::new(&mesh.policy().bundle_with(callee, mesh.break_glass()))
                .inspect_err(|error| tracing::error!(service = %callee, %error, "its policy cannot be used; its calls are denied"))
                .ok()
                .map(Arc::new)
        };
        made.engines.entry(callee.clone()).or_insert_with(make).clone()
    }
}
