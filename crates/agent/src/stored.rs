//! What an agent keeps in its state folder (mode 0600), so that a restart without a control plane serves what has not run out: whose identities
//! there are, and the certificates in use, each as a sidecar keeps its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_identity::saved::{Saved, save, write_private};
use weft_identity::{Assignment, Svid, TrustBundle, on_behalf};
use weft_model::{ServiceName, SpiffeId};

const ASSIGNMENTS: &str = "assignments.json";
const WORKLOADS: &str = "workloads";

/// A state folder.
#[derive(Clone, Debug)]
pub(crate) struct Stored(PathBuf);

impl Stored {
    pub(crate) fn new(state: &Path) -> Self {
        Self(state.to_owned())
    }

    /// What the control plane said last; nothing if it never did.
    pub(crate) fn assignments(&self) -> Option<Vec<Assignment>> {
        let path = self.0.join(ASSIGNMENTS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "whose identities there are cannot be read; the control plane says it anew");
                return None;
            }
        };
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "ignoring what is damaged")).ok()
    }

    /// Keeps what the control plane says now, and nothing of services that are no longer assigned, or that has run out.
    pub(crate) fn keep_assignments(&self, all: &[Assignment]) {
        let written = serde_json::to_vec(all).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| write_private(&self.0.join(ASSIGNMENTS), &text)) {
            tracing::warn!(%error, "whose identities there are was not saved; a restart begins with what was saved before");
        }
        self.sweep(|service| all.iter().any(|assignment| assignment.service == *service));
    }

    /// The certificate of a service, while it is good.
    pub(crate) fn svid(&self, service: &ServiceName, bundle: &TrustBundle) -> Option<(Svid, SystemTime)> {
        let saved = Saved::load(&self.folder(service)).ok()??;
        let is_its = *saved.svid.id() == SpiffeId::for_service(bundle.trust_domain(), service);
        (is_its && on_behalf::usable(&saved.svid, bundle).is_ok()).then_some((saved.svid, saved.issued_at))
    }

    pub(crate) fn keep_svid(&self, service: &ServiceName, svid: &Svid, bundle: &TrustBundle, issued_at: SystemTime) {
        if let Err(error) = save(&self.folder(service), svid, bundle, issued_at) {
            tracing::warn!(%service, %error, "the certificate is in use, and was not saved; a restart needs the control plane");
        }
    }

    /// Removes the certificates of all others.
    fn sweep(&self, stays: impl Fn(&ServiceName) -> bool) {
        for entry in fs::read_dir(self.0.join(WORKLOADS)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let service = name.to_str().and_then(|name| name.replace('_', "/").parse().ok());
            let lives =
                Saved::load(&entry.path()).ok().flatten().is_some_and(|it| SystemTime::now() < it.svid.not_after());
            if !lives || !service.is_some_and(|service| stays(&service)) {
                let _ = fs::remove_dir_all(entry.path()); // it harms nobody
            }
        }
    }

    /// No name of a service has an underscore.
    fn folder(&self, service: &ServiceName) -> PathBuf {
        self.0.join(WORKLOADS).join(format!("{}_{}", service.namespace(), service.name()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use weft_identity::Names;
    use weft_identity::ca::{Ca, KeyRequest, requested_key};
    use weft_model::attest::Selectors;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_while_it_is_good_and_goes_with_its_assignment() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let stored = Stored::new(folder.path());
        let (web, job): (ServiceName, ServiceName) = ("prod/web".parse().unwrap(), "prod/job".parse().unwrap());
        let domain = "acme.internal".parse().unwrap();
        let root = Ca::root(&domain, now, Duration::from_secs(7200)).unwrap();
        let bundle = TrustBundle::new(domain.clone(), vec![root.certificate().clone()]).unwrap();
        let issue = |service: &ServiceName, life| {
            let request = KeyRequest::new().unwrap();
            let (key, id) = (requested_key(&request.csr).unwrap(), SpiffeId::for_service(&domain, service));
            let leaf = root.leaf(&key, &id, None, &Names::default(), now, now + Duration::from_secs(life)).unwrap();
            Svid::from_der(vec![leaf], &request.key).unwrap()
        };
        let selectors = Selectors { uid: Some(7), ..Selectors::default() };
        let assigned = |service: &ServiceName| Assignment {
            service: service.clone(),
            any: vec![selectors.clone()],
            svid_ttl: Duration::from_secs(60),
        };
        let all = vec![assigned(&web), assigned(&job)];
        assert!(stored.assignments().is_none() && stored.svid(&web, &bundle).is_none());
        stored.keep_assignments(&all);
        assert_eq!(stored.assignments(), Some(all.clone()));
        let svid = issue(&web, 3600);
        stored.keep_svid(&web, &svid, &bundle, now);
        stored.keep_svid(&job, &svid, &bundle, now);
        assert_eq!(stored.svid(&web, &bundle).unwrap().0.serial(), svid.serial());
        assert!(stored.svid(&job, &bundle).is_none(), "it is another service's");
        let file = stored.folder(&web).join("identity.json");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let stranger = Ca::root(&domain, now, Duration::from_secs(7200)).unwrap();
        let other = TrustBundle::new(domain.clone(), vec![stranger.certificate().clone()]).unwrap();
        assert!(stored.svid(&web, &other).is_none(), "its root is gone");

        stored.keep_assignments(&all[..1]);
        assert!(file.exists() && !stored.folder(&job).exists());
        stored.keep_assignments(&[]);
        assert!(!file.exists());
    }
}
