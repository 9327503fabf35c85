//! Whose identities an agent may ask for: what the control plane tells it, and keeps to itself.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_model::ServiceName;
use weft_model::attest::Selectors;

use crate::proto;

/// A service whose identity processes of a machine may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which.
    pub service: ServiceName,
    /// A process has it of which one of these holds.
    pub any: Vec<Selectors>,
    /// Life of its X.509-SVIDs.
    pub svid_ttl: Duration,
}

/// All of them, as they go over the wire; of those in `renew` another certificate is wanted at once.
pub fn to_proto(all: &[Assignment], renew: &[ServiceName]) -> proto::Assigned {
    let one = |assignment: &Assignment| proto::Assignment {
        service: assignment.service.to_string(),
        any: assignment.any.iter().map(selectors_to_proto).collect(),
        svid_ttl_seconds: assignment.svid_ttl.as_secs(),
    };
    proto::Assigned { services: all.iter().map(one).collect(), renew: renew.iter().map(ToString::to_string).collect() }
}

/// As they came, without what this version would take for less than it asks of a process.
///
/// # Errors
/// A service has a name that is none.
pub fn from_proto(assigned: proto::Assigned) -> Result<(Vec<Assignment>, Vec<ServiceName>), String> {
    let name = |text: &str| text.parse::<ServiceName>().map_err(|error| error.to_string());
    let one = |assignment: proto::Assignment| {
        let any = assignment.any.into_iter().filter_map(selectors_from_proto);
        let svid_ttl = Duration::from_secs(assignment.svid_ttl_seconds);
        Ok::<_, String>(Assignment { service: name(&assignment.service)?, any: any.collect(), svid_ttl })
    };
    let all = assigned.services.into_iter().map(one).collect::<Result<_, _>>()?;
    let renew = assigned.renew.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
    Ok((all, renew))
}

fn selectors_to_proto(selectors: &Selectors) -> proto::Selectors {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    proto::Selectors {
        uid: selectors.uid,
        gid: selectors.gid,
        user: text(&selectors.user),
        group: text(&selectors.group),
        path: text(&selectors.path),
        sha256: text(&selectors.sha256),
        systemd_unit: text(&selectors.systemd_unit),
        cgroup: text(&selectors.cgroup),
        container_id: text(&selectors.container_id),
        asks: selectors.count(),
    }
}

fn selectors_from_proto(selectors: proto::Selectors) -> Option<Selectors> {
    let text = |text: Option<String>| text.map(Arc::from);
    let asks = selectors.asks;
    let known = Selectors {
        uid: selectors.uid,
        gid: selectors.gid,
        user: text(selectors.user),
        group: text(selectors.group),
        path: text(selectors.path),
        sha256: text(selectors.sha256),
        systemd_unit: text(selectors.systemd_unit),
        cgroup: text(selectors.cgroup),
        container_id: text(selectors.container_id),
    };
    (asks > 0 && known.count() == asks).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_come_as_they_went_and_nothing_becomes_broader_on_the_way() {
        let text = |text: &str| Some(Arc::from(text));
        let all = Selectors {
            uid: Some(0),
            gid: Some(1),
            user: text("a"),
            group: text("b"),
            path: text("/c"),
            sha256: text("d"),
            systemd_unit: text("e"),
            cgroup: text("/f"),
            container_id: text("g"),
        };
        let service: ServiceName = "prod/web".parse().expect("legal");
        let any = vec![all, Selectors { uid: Some(7), ..Selectors::default() }];
        let good = Assignment { service: service.clone(), any, svid_ttl: Duration::from_secs(60) };
        let came = from_proto(to_proto(std::slice::from_ref(&good), std::slice::from_ref(&service)));
        assert_eq!(came, Ok((vec![good.clone()], vec![service])));
        // A later version asks for something beside that this one does not know.
        let mut later = to_proto(std::slice::from_ref(&good), &[]);
        later.services[0].any[1].asks = 2;
        assert_eq!(from_proto(later).expect("it is read").0[0].any, good.any[..1]);
        let mut nothing = to_proto(&[good], &[]);
        nothing.services[0].any = vec![proto::Selectors::default()];
        assert_eq!(from_proto(nothing).expect("it is read").0[0].any, Vec::new());
    }
}
