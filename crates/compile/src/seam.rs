//! Stands in for `weft_policy::PolicyModel` until it is there: `access` lists only.

use std::sync::Arc;

use weft_model::intent::Caller;
use weft_model::{Intent, ServiceName};

/// Who may call whom.
pub struct PolicyModel(pub Arc<Intent>);

pub(crate) struct Bundle(Vec<u8>);

impl Bundle {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

impl PolicyModel {
    pub(crate) fn may_call(&self, caller: &ServiceName, callee: &ServiceName) -> bool {
        self.0.services.get(callee).is_some_and(|service| {
            service.access.iter().flat_map(|rule| &rule.from).any(|from| match from {
                Caller::Service(name) => name == caller,
                Caller::Namespace(namespace) => **namespace == *caller.namespace(),
                Caller::Role(_) | Caller::Anyone => true,
            })
        })
    }

    pub(crate) fn bundle_for(&self, callee: &ServiceName) -> Bundle {
        Bundle(format!("{:?}", self.0.services[callee].access).into_bytes())
    }
}
