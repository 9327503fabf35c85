//! Who still calls in plain text: told by whoever decides about a call, gathered in a table of bounded size.
//!
//! Telling waits for nobody ([`PlainText::note`]); what cannot be taken in time is counted as missed. [`Callers`] is plain data, and time is
//! part of what it is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use weft_model::ServiceName;
use weft_policy::{CallRequest, Principal};

/// Callers of a service that are remembered, at most: one more takes the place of who has not called for the longest.
pub const CALLERS_MAX: usize = 256;
/// Of a user agent, and of what was asked, so much is kept, in bytes.
const TEXT_MAX: usize = 120;
/// The metric that counts these calls, by decision,
pub const METRIC: &str = "weft_plain_text_requests_total";
/// and what it says of itself.
pub const HELP: &str = "Calls in plain text, by decision.";
/// Calls that wait to be taken in.
const WAITING_MAX: usize = 4096;

/// A call in plain text, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainCall {
    /// Who is called.
    pub service: ServiceName,
    /// From where.
    pub address: IpAddr,
    /// What is known of the caller by this call alone.
    pub caller: Caller,
}

/// What is known of one who calls in plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// First call, in seconds since 1970.
    pub first_seen: u64,
    /// Last call.
    pub last_seen: u64,
    /// Calls that were allowed.
    pub allowed: u64,
    /// Calls that were not.
    pub denied: u64,
    /// `User-Agent` of the last call that had one: printable ASCII, at most 120 bytes.
    pub user_agent: String,
    /// Method and path of the last call, as they were decided on; `TCP` where there is no such thing.
    pub asked: String,
}

impl Caller {
    /// Adds what another has seen of the same caller.
    fn add(&mut self, other: Self) {
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.denied = self.denied.saturating_add(other.denied);
        self.first_seen = self.first_seen.min(other.first_seen);
        if other.last_seen >= self.last_seen {
            self.last_seen = other.last_seen;
            self.asked = other.asked;
            if !other.user_agent.is_empty() {
                self.user_agent = other.user_agent;
            }
        }
    }
}

/// Who called one service in plain text, by address. At most [`CALLERS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    by_address: BTreeMap<IpAddr, Caller>,
    /// Callers that were forgotten for others.
    pub forgotten: u64,
    /// Calls that are in no count, because too many came at once.
    pub missed: u64,
}

impl Callers {
    /// Nobody, but for so many of whom nothing is known.
    pub fn unknown(forgotten: u64, missed: u64) -> Self {
        Self { by_address: BTreeMap::new(), forgotten, missed }
    }

    /// Takes in what was seen of a caller.
    pub fn add(&mut self, address: IpAddr, seen: Caller) {
        if let Some(known) = self.by_address.get_mut(&address) {
            return known.add(seen);
        }
        if self.by_address.len() >= CALLERS_MAX {
            let longest_ago = self.by_address.iter().min_by_key(|(_, caller)| caller.last_seen);
            if let Some(address) = longest_ago.map(|(address, _)| *address) {
                self.by_address.remove(&address);
                self.forgotten = self.forgotten.saturating_add(1);
            }
        }
        self.by_address.insert(address, seen);
    }

    /// Takes in what another table has.
    pub fn merge(&mut self, other: Self) {
        self.forgotten = self.forgotten.saturating_add(other.forgotten);
        self.missed = self.missed.saturating_add(other.missed);
        other.by_address.into_iter().for_each(|(address, seen)| self.add(address, seen));
    }

    /// Nobody called.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// By address.
    pub fn iter(&self) -> impl Iterator<Item = (&IpAddr, &Caller)> {
        self.by_address.iter()
    }

    /// When the last call came, in seconds since 1970.
    pub fn last_seen(&self) -> Option<u64> {
        self.by_address.values().map(|caller| caller.last_seen).max()
    }
}

/// Told of each call in plain text. A clone tells the same.
#[derive(Clone)]
pub struct PlainText {
    calls: mpsc::Sender<PlainCall>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    allowed: AtomicU64,
    denied: AtomicU64,
    missed: AtomicU64,
}

impl PlainText {
    /// With where the calls come out.
    pub fn new() -> (Self, mpsc::Receiver<PlainCall>) {
        let (calls, heard) = mpsc::channel(WAITING_MAX);
        (Self { calls, counts: Arc::default() }, heard)
    }

    /// Takes note of a decision about a call of `service`, if the call came in plain text. Waits for nothing, and takes no lock.
    pub fn note(&self, service: &ServiceName, request: &CallRequest<'_>, allowed: bool) {
        if request.principal != Principal::PlainText {
            return;
        }
        self.count(allowed);
        let Some(address) = request.source() else { return };
        let call = PlainCall { service: service.clone(), address, caller: seen(request, allowed) };
        if self.calls.try_send(call).is_err() {
            self.counts.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a call in plain text that is told of elsewhere.
    pub fn count(&self, allowed: bool) {
        let count = if allowed { &self.counts.allowed } else { &self.counts.denied };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The values of [`METRIC`] so far, each with its label.
    pub fn samples(&self) -> Vec<(String, f64)> {
        let value = |decision: &str, count: &AtomicU64| {
            (format!("{{decision=\"{decision}\"}}"), count.load(Ordering::Relaxed) as f64)
        };
        vec![value("allow", &self.counts.allowed), value("deny", &self.counts.denied)]
    }

    /// Calls so far that are in no report, because too many came at once.
    pub fn missed(&self) -> u64 {
        self.counts.missed.load(Ordering::Relaxed)
    }
}

fn seen(request: &CallRequest<'_>, allowed: bool) -> Caller {
    let user_agent = request.headers.header("user-agent").unwrap_or_default();
    let asked =
        if request.method.is_empty() { "TCP".to_owned() } else { format!("{} {}", request.method, request.path) };
    Caller {
        first_seen: seconds(request.now),
        last_seen: seconds(request.now),
        allowed: u64::from(allowed),
        denied: u64::from(!allowed),
        user_agent: printable(&user_agent),
        asked: printable(&asked),
    }
}

/// At most 120 bytes of printable ASCII: strangers write these texts, and people read them.
pub fn printable(text: &str) -> String {
    let legal = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(TEXT_MAX).map(legal).collect()
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_policy::testing;

    use super::*;

    fn caller(at: u64, allowed: u64, denied: u64) -> Caller {
        let (user_agent, asked) = (format!("agent-{at}"), format!("GET /{at}"));
        Caller { first_seen: at, last_seen: at, allowed, denied, user_agent, asked }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn what_two_have_seen_of_a_caller_is_added_in_whatever_order() {
        let (mut early, mut late) = (Callers::default(), Callers::default());
        early.add(address(1), caller(10, 1, 2));
        late.add(address(1), caller(20, 3, 0));
        late.add(address(2), caller(15, 0, 1));
        let (mut one, mut other) = (early.clone(), late.clone());
        one.merge(late);
        other.merge(early);
        assert_eq!(one, other);
        let merged = Caller { first_seen: 10, allowed: 4, denied: 2, ..caller(20, 0, 0) };
        assert_eq!(one.iter().next(), Some((&address(1), &merged)));
        assert_eq!(one.last_seen(), Some(20));
    }

    #[test]
    fn the_table_is_bounded_and_says_how_many_it_forgot() {
        let mut callers = Callers::default();
        let most = CALLERS_MAX as u32;
        for n in 0..most + 10 {
            callers.add(address(n), caller(u64::from(n), 1, 0));
        }
        callers.add(address(most), caller(1, 1, 0));
        assert_eq!((callers.iter().count(), callers.forgotten), (CALLERS_MAX, 10));
        assert!(callers.iter().all(|(known, _)| *known >= address(10)), "who has not called for the longest goes");
        let other = callers.clone();
        callers.merge(other);
        assert_eq!((callers.iter().count(), callers.forgotten), (CALLERS_MAX, 20));
    }

    #[test]
    fn only_plain_text_is_noted_and_what_cannot_be_taken_is_counted() {
        let (plain_text, mut heard) = PlainText::new();
        let (board, web) = (testing::name("prod/board"), testing::id("prod/web"));
        let headers: BTreeMap<Arc<str>, Arc<str>> = [("user-agent".into(), "curl/8\u{1b}[31m".into())].into();
        let of_mesh = CallRequest { source_ip: Some(address(1)), headers: &headers, ..testing::request(&web) };
        let now = UNIX_EPOCH + Duration::from_secs(7);
        let plain = CallRequest { principal: Principal::PlainText, path: "/ä", now, ..of_mesh };
        plain_text.note(&board, &of_mesh, true);
        plain_text.note(&board, &plain, false);
        let told = heard.try_recv().expect("a call");
        let (user_agent, asked) = ("curl/8?[31m".to_owned(), "GET /?".to_owned());
        let caller = Caller { first_seen: 7, last_seen: 7, allowed: 0, denied: 1, user_agent, asked };
        assert_eq!(told, PlainCall { service: board.clone(), address: address(1), caller });
        assert!(heard.try_recv().is_err());
        for _ in 0..=WAITING_MAX {
            plain_text.note(&board, &plain, true);
        }
        let (allowed, denied) = ("{decision=\"allow\"}".to_owned(), "{decision=\"deny\"}".to_owned());
        assert_eq!(plain_text.samples(), [(allowed, WAITING_MAX as f64 + 1.0), (denied, 1.0)]);
        assert_eq!(plain_text.missed(), 1);
    }

    #[test]
    fn texts_of_strangers_are_cut() {
        assert_eq!(printable(&"é".repeat(500)), "?".repeat(TEXT_MAX));
        assert_eq!(printable("a b\r\nc"), "a b??c");
    }
}
