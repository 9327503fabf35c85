//! Keeps the bundles of the trust domains that the intent names: fetched when it is time, and in the store, so that a restart knows them
//! and the servers that share the store agree. Each server fetches by itself; the newest document counts, whoever has fetched it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use weft_authority::{Event, Record, Records};
use weft_fetch::{By, WebRoots, fetch};
use weft_identity::{Document, Federated, TrustBundle, tls};
use weft_model::TrustDomain;
use weft_model::intent::{ForeignDomain, Profile};
use weft_store::{Store, StoreError, Swap};

use crate::taken::{Verdict, interval, judge, spread};

const FOLDER: &str = "federation/";
/// Until what could not be read or written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// The trust domains that the intent names.
type Wanted = BTreeMap<TrustDomain, ForeignDomain>;

/// What is kept of a trust domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// A hash of how the intent says to get it: what was fetched in another way does not count.
    by: String,
    /// The document, as it was fetched.
    document: String,
}

/// How it is going with one trust domain, as this server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last fetch that brought a bundle, since this server was started.
    pub fetched_at: Option<SystemTime>,
    /// When the next one is due.
    pub next_at: Option<SystemTime>,
    /// Fetches since this server was started.
    pub fetches: u64,
    /// Those of them that brought nothing.
    pub failures: u64,
    /// Why the last one brought nothing.
    pub error: Option<String>,
    /// Since when it is so.
    pub failing_since: Option<SystemTime>,
}

/// See the module.
pub struct Keeper {
    store: Store,
    roots: WebRoots,
    records: Records,
    own: Box<dyn Fn() -> Arc<TrustBundle> + Send + Sync>,
    published: watch::Sender<Arc<Federated>>,
    states: Mutex<BTreeMap<TrustDomain, State>>,
}

impl Keeper {
    /// Keeps nothing until it [runs](Self::run). `own` is the bundle of this trust domain, of the moment.
    pub fn new(
        store: Store,
        roots: WebRoots,
        records: Records,
        own: impl Fn() -> Arc<TrustBundle> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (published, own) = (watch::Sender::default(), Box::new(own));
        Arc::new(Self { store, roots, records, own, published, states: Mutex::default() })
    }

    /// The bundles in force, now and after each change.
    pub fn published(&self) -> watch::Receiver<Arc<Federated>> {
        self.published.subscribe()
    }

    /// How it is going, by trust domain.
    pub fn states(&self) -> BTreeMap<TrustDomain, State> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self, domain: &TrustDomain, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.states.lock().unwrap_or_else(PoisonError::into_inner).get_mut(domain) {
            change(state);
        }
    }

    /// Follows what the intent wants and what is in the store, until it is aborted or nobody can want anything any more.
    pub async fn run(self: Arc<Self>, mut wanted: watch::Receiver<Arc<Wanted>>) {
        let mut changes = self.store.watch(FOLDER);
        let mut fetching = HashMap::<TrustDomain, (ForeignDomain, AbortOnDrop)>::new();
        loop {
            let now = wanted.borrow_and_update().clone();
            // Whoever is wanted no more is out of force before anything else is tried.
            fetching.retain(|name, (domain, _)| now.get(name).is_some_and(|wanted| is_same(wanted, domain)));
            self.states.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| now.contains_key(name));
            if let Err(error) = self.publish(&now).await {
                tracing::warn!(%error, "the bundles of other trust domains cannot be read from the store; trying again");
                self.drop_unwanted(&now);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            for domain in now.values() {
                if !fetching.contains_key(&domain.name) {
                    self.states.lock().unwrap_or_else(PoisonError::into_inner).entry(domain.name.clone()).or_default();
                    let task = tokio::spawn(self.clone().fetch_forever(domain.clone()));
                    fetching.insert(domain.name.clone(), (domain.clone(), AbortOnDrop(task.abort_handle())));
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                _ = changes.next() => {}
            }
        }
    }

    /// Has the bundles in force that are wanted and kept, and forgets what is kept of others.
    async fn publish(&self, wanted: &Wanted) -> Result<(), StoreError> {
        for (key, _) in self.store.list(FOLDER).await? {
            let name = key.strip_prefix(FOLDER).and_then(|name| name.parse::<TrustDomain>().ok());
            if name.is_none_or(|name| !wanted.contains_key(&name)) {
                self.store.delete(&key).await?;
            }
        }
        let mut bundles = Vec::with_capacity(wanted.len());
        for domain in wanted.values() {
            bundles.extend(self.present(domain).await?.1.map(|document| document.bundle));
        }
        self.set(Federated::new(bundles));
        Ok(())
    }

    fn drop_unwanted(&self, wanted: &Wanted) {
        let left = self.published.borrow().clone();
        let left = left.iter().filter(|bundle| wanted.contains_key(bundle.trust_domain()));
        self.set(Federated::new(left.map(|bundle| (**bundle).clone())));
    }

    fn set(&self, federated: Federated) {
        self.published.send_if_modified(|present| {
            let changed = **present != federated;
            if changed {
                *present = Arc::new(federated);
            }
            changed
        });
    }

    /// The newest document of a trust domain: what is kept, or else what the intent begins with; and the revision of what is kept.
    async fn present(&self, domain: &ForeignDomain) -> Result<(Option<u64>, Option<Document>), StoreError> {
        let entry = self.store.get(&key(&domain.name)).await?;
        let revision = entry.as_ref().map(|entry| entry.revision);
        let kept = entry.and_then(|entry| serde_json::from_slice::<Kept>(&entry.value).ok());
        let kept = kept.filter(|kept| kept.by == by(domain));
        let kept = kept.and_then(|kept| Document::read(&domain.name, kept.document.as_bytes()).ok());
        let first = || match &domain.profile {
            Profile::Spiffe { bundle: Some(bundle), .. } => Document::read(&domain.name, bundle.as_bytes()).ok(),
            Profile::Spiffe { bundle: None, .. } | Profile::Web => None,
        };
        Ok((revision, kept.or_else(first)))
    }

    async fn fetch_forever(self: Arc<Self>, domain: ForeignDomain) {
        let (name, url) = (&domain.name, domain.endpoint.to_string());
        let (mut in_a_row, mut is_first) = (0, true);
        loop {
            let result = self.fetch_once(&domain).await;
            let now = SystemTime::now();
            let hint = match &result {
                Ok(document) => {
                    (in_a_row, is_first) = (0, false);
                    document.refresh_hint
                }
                Err(why) => {
                    in_a_row += 1;
                    // Once as a warning, and then it is in the metrics and in `weft identity federation`.
                    if in_a_row == 1 {
                        tracing::warn!(trust_domain = %name, url, why, "no bundle was fetched; the one of before stays in force");
                    } else {
                        tracing::info!(trust_domain = %name, url, why, in_a_row, "still no bundle was fetched");
                    }
                    self.present(&domain).await.ok().and_then(|(_, document)| document?.refresh_hint)
                }
            };
            let wait = spread(interval(hint, in_a_row, is_first), rand::random());
            self.state(name, |state| {
                if let Err(why) = &result
                    && state.error.as_ref() != Some(why)
                {
                    // Once of each reason: an endpoint may be away for months.
                    let refused = Record::of(Event::BundleTaken, name.id()).refused(&format!("{why}, from {url}"));
                    self.records.write(refused);
                }
                state.fetches += 1;
                state.next_at = Some(now + wait);
                match result {
                    Ok(_) => {
                        (state.fetched_at, state.error, state.failing_since) = (Some(now), None, None);
                    }
                    Err(why) => {
                        state.failures += 1;
                        state.error = Some(why);
                        state.failing_since.get_or_insert(now);
                    }
                }
            });
            tokio::time::sleep(wait).await;
        }
    }

    /// Fetches, judges and keeps; what is kept is what a moment later is in force. Why not, in words.
    async fn fetch_once(&self, domain: &ForeignDomain) -> Result<Document, String> {
        let (_, present) = self.present(domain).await.map_err(|error| error.to_string())?;
        let by_whom = self.judge(domain, present)?;
        let bytes = fetch(&domain.endpoint, &by_whom).await.map_err(|error| error.to_string())?;
        let fetched = Document::read(&domain.name, &bytes)?;
        let text = String::from_utf8(bytes.into()).map_err(|_| "the document is not UTF-8".to_owned())?;
        loop {
            let (revision, present) = self.present(domain).await.map_err(|error| error.to_string())?;
            match judge(present.as_ref(), &fetched) {
                Verdict::Same => {
                    tracing::debug!(trust_domain = %domain.name, url = %domain.endpoint, "the bundle is as it was");
                    return Ok(fetched);
                }
                Verdict::Older { present, fetched } => {
                    return Err(format!(
                        "its spiffe_sequence is {fetched}, and {present} is in force: an older bundle could bring a revoked key back. If the \
                         other side has begun anew, write its bundle into the TrustDomain document"
                    ));
                }
                Verdict::Newer => {}
            }
            let kept = Kept { by: by(domain), document: text.clone() };
            let value = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
            match self.store.compare_and_swap(&key(&domain.name), revision, Some(value)).await {
                Ok(Swap::Done(_)) => {
                    tracing::info!(
                        trust_domain = %domain.name, url = %domain.endpoint, sequence = fetched.sequence,
                        roots = fetched.bundle.roots().len(), jwt_keys = fetched.bundle.jwt().keys().len(),
                        "a new bundle of another trust domain is in force"
                    );
                    self.records
                        .write(Record::of(Event::BundleTaken, domain.name.id()).because(taken(&fetched, domain)));
                    return Ok(fetched);
                }
                Ok(Swap::Conflict(_)) => {} // another server was faster
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// How the endpoint has to prove who it is: by the newest bundle (SPIFFE Federation s.5.2.2.4), or by a CA of the web.
    fn judge(&self, domain: &ForeignDomain, present: Option<Document>) -> Result<By, String> {
        let Profile::Spiffe { id, .. } = &domain.profile else { return Ok(self.roots.judge()) };
        let of = id.trust_domain();
        let bundle = if of == domain.name {
            present.map(|document| Arc::new(document.bundle))
        } else {
            let own = Some((self.own)()).filter(|own| *own.trust_domain() == of);
            own.or_else(|| self.published.borrow().get(&of).cloned())
        };
        let bundle =
            bundle.ok_or_else(|| format!("there is no bundle of {of} yet, by which its endpoint is judged"))?;
        Ok(By::Spiffe(tls::client_config_by(bundle, id.clone())))
    }
}

/// What a document has, for a record.
fn taken(document: &Document, domain: &ForeignDomain) -> String {
    let sequence = document.sequence.map_or("none".to_owned(), |sequence| sequence.to_string());
    let (roots, keys) = (document.bundle.roots().len(), document.bundle.jwt().keys().len());
    format!("sequence {sequence}, roots {roots}, JWT keys {keys}, from {}", domain.endpoint)
}

/// A task that ends with whoever has this.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn key(domain: &TrustDomain) -> String {
    format!("{FOLDER}{domain}")
}

/// Whether both are fetched in the same way.
fn is_same(one: &ForeignDomain, other: &ForeignDomain) -> bool {
    by(one) == by(other)
}

/// A hash of URL and profile, with the bundle to begin with: another one in the intent begins anew.
fn by(domain: &ForeignDomain) -> String {
    let mut hash = Sha256::new();
    hash.update(domain.endpoint.to_string());
    if let Profile::Spiffe { id, bundle, .. } = &domain.profile {
        hash.update([0]);
        hash.update(id.as_str());
        hash.update([0]);
        hash.update(bundle.as_deref().unwrap_or_default().as_bytes());
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
