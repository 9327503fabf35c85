//! Whether the app takes connections: when its endpoint is withdrawn, and when it comes back.
//!
//! Nobody asks an app that answers. A connection that it refused makes it suspect; only then is it asked, by opening a connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// So many refusals in a row make an app gone, so that one which restarts at once stays.
const REFUSALS: u32 = 3;
/// Between two questions to a suspect.
const ASK_SUSPECT: Duration = Duration::from_millis(100);
/// Between two questions to an app that is gone.
const ASK_GONE: Duration = Duration::from_millis(250);
/// For an answer; a host that drops packets gives none.
const ANSWER: Duration = Duration::from_secs(1);
/// How long an app must take connections before it counts as back. Doubles each time that it does not last,
const FIRST_HOLD: Duration = Duration::from_millis(500);
/// up to this.
const LONGEST_HOLD: Duration = Duration::from_secs(30);
/// An app that lasts so long has lasted.
const LASTS: Duration = Duration::from_secs(60);

/// What is known of the app. Pure: times are given.
struct Presence {
    state: State,
    hold: Duration,
    returned: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It takes connections, but for so many refusals in a row.
    Here { refusals: u32 },
    /// It takes none; or does again, since then, and has to show that it lasts.
    Gone { back: Option<Instant> },
}

/// What becomes of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Withdrawn,
    Returned,
}

impl Presence {
    fn new() -> Self {
        Self { state: State::Here { refusals: 0 }, hold: FIRST_HOLD, returned: None }
    }

    /// The app was asked, and took the connection or did not.
    fn asked(&mut self, takes: bool, now: Instant) -> Option<Change> {
        match (&mut self.state, takes) {
            (State::Here { refusals }, true) => *refusals = 0,
            (State::Here { refusals }, false) => {
                *refusals += 1;
                if *refusals >= REFUSALS {
                    self.state = State::Gone { back: None };
                    let lasted = self.returned.is_none_or(|returned| now.duration_since(returned) >= LASTS);
                    self.hold = if lasted { FIRST_HOLD } else { (self.hold * 2).min(LONGEST_HOLD) };
                    return Some(Change::Withdrawn);
                }
            }
            (State::Gone { back }, false) => *back = None,
            (State::Gone { back }, true) => {
                let since = *back.get_or_insert(now);
                if now.duration_since(since) >= self.hold {
                    self.state = State::Here { refusals: 0 };
                    self.returned = Some(now);
                    return Some(Change::Returned);
                }
            }
        }
        None
    }

    /// When to ask again; `None`: when there is a suspicion.
    fn pause(&self) -> Option<Duration> {
        match self.state {
            State::Here { refusals: 0 } => None,
            State::Here { .. } => Some(ASK_SUSPECT),
            State::Gone { .. } => Some(ASK_GONE),
        }
    }
}

/// Tells each change, for ever. `suspected` comes when a connection to the app was refused.
pub(super) async fn watch(app: SocketAddr, suspected: impl AsyncFn(), mut tell: impl FnMut(Change)) -> Infallible {
    let mut presence = Presence::new();
    loop {
        match presence.pause() {
            None => suspected().await,
            Some(pause) => tokio::time::sleep(pause).await,
        }
        let takes = matches!(tokio::time::timeout(ANSWER, TcpStream::connect(app)).await, Ok(Ok(_)));
        match presence.asked(takes, Instant::now()) {
            None => {}
            Some(change) => {
                match change {
                    Change::Withdrawn => {
                        tracing::warn!(%app, "the app takes no connections; its endpoint is withdrawn until it does");
                    }
                    Change::Returned => tracing::info!(%app, "the app takes connections again; its endpoint is back"),
                }
                tell(change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks until something changes, as `watch` does, and gives the time that it took.
    fn until_change(presence: &mut Presence, takes: bool, now: &mut Instant) -> (Change, Duration) {
        let began = *now;
        loop {
            if let Some(change) = presence.asked(takes, *now) {
                return (change, now.duration_since(began));
            }
            *now += presence.pause().expect("it is not settled");
        }
    }

    #[test]
    fn an_app_that_restarts_at_once_stays() {
        let (mut presence, now) = (Presence::new(), Instant::now());
        for takes in [false, false, true, false, false, true] {
            assert_eq!(presence.asked(takes, now), None);
        }
        assert_eq!(presence.pause(), None);
    }

    #[test]
    fn an_app_that_does_not_last_has_to_show_it_for_longer_each_time() {
        let (mut presence, mut now) = (Presence::new(), Instant::now());
        let mut holds = Vec::new();
        for _ in 0..9 {
            assert_eq!(until_change(&mut presence, false, &mut now).0, Change::Withdrawn);
            // One that takes a connection now and then is not back.
            assert_eq!(presence.asked(true, now), None);
            assert_eq!(presence.asked(false, now), None);
            let (change, hold) = until_change(&mut presence, true, &mut now);
            assert_eq!(change, Change::Returned);
            holds.push(hold.as_millis());
        }
        assert_eq!(holds, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        now += LASTS;
        until_change(&mut presence, false, &mut now);
        assert_eq!(until_change(&mut presence, true, &mut now).1, FIRST_HOLD);
    }
}
