use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { longest: 100, fetchers: 20 };

fn held(lowest: u64, under: &[&str]) -> Held {
    Held { lowest: Some(lowest), under: under.iter().map(|id| (*id).to_owned()).collect() }
}

fn made(id: impl Into<String>, not_before: u64, not_after: u64) -> Made {
    Made { id: id.into(), not_before, not_after, ..Made::default() }
}

fn of(lineage: &Lineage) -> Vec<&str> {
    let phase = |key: &Key| match key.phase {
        Phase::Published { .. } => "published",
        Phase::Active { .. } => "active",
        Phase::Retired { .. } => "retired",
    };
    lineage.keys.iter().map(phase).collect()
}

/// A trust domain whose first root is `a`, from 0 to 1000.
fn first() -> Trust {
    let mut trust = Trust::default();
    assert_eq!(trust.x509.next(0, &Held::default(), PATIENCE), Some(Step::Publish));
    trust.publish(Kind::X509, made("a", 0, 1000), 0);
    let step = trust.x509.next(0, &Held::default(), PATIENCE);
    assert_eq!(step, Some(Step::Activate("a".into())), "nobody has to be waited for");
    trust.x509.activate("a", 0, PATIENCE).unwrap();
    trust
}

#[test]
fn a_root_is_followed_at_half_life_once_everybody_holds_its_successor() {
    let mut trust = first();
    assert_eq!(trust.x509.next(499, &held(1, &["a"]), PATIENCE), None);
    assert_eq!(trust.x509.next(500, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
    trust.publish(Kind::X509, made("b", 500, 1500), 500);
    assert_eq!(trust.sequence, 2);
    assert_eq!(trust.x509.next(600, &held(1, &["a"]), PATIENCE), None, "one does not hold it");
    assert_eq!(trust.x509.next(519, &held(2, &["a"]), PATIENCE), None, "those who fetch may not");
    let step = trust.x509.next(520, &held(2, &["a"]), PATIENCE);
    assert_eq!(step, Some(Step::Activate("b".into())));
    trust.x509.activate("b", 520, PATIENCE).unwrap();
    assert_eq!(of(&trust.x509), ["retired", "active"]);
    assert_eq!(trust.x509.next(619, &held(2, &["b"]), PATIENCE), None, "what `a` signed may live");
    let step = trust.x509.next(620, &held(2, &["b"]), PATIENCE);
    assert_eq!(step, Some(Step::Forget("a".into())));
    trust.forget(Kind::X509, "a").unwrap();
    assert_eq!((of(&trust.x509), trust.sequence), (vec!["active"], 3));
}

#[test]
fn a_tainted_root_goes_as_soon_as_nobody_lives_by_it() {
    let mut trust = first();
    trust.taint(Kind::X509, "a", "the backup was stolen").unwrap();
    assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
    trust.publish(Kind::X509, made("b", 10, 1010), 10);
    assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), None, "calls would fail");
    let step = trust.x509.next(11, &held(2, &["a"]), PATIENCE);
    assert_eq!(step, Some(Step::Activate("b".into())), "fetchers are not waited for");
    trust.x509.activate("b", 11, PATIENCE).unwrap();
    assert_eq!(trust.x509.next(12, &held(2, &["a", "b"]), PATIENCE), None);
    assert_eq!(trust.x509.next(13, &held(2, &["b"]), PATIENCE), Some(Step::Forget("a".into())));
}

#[test]
fn a_key_that_has_signed_nothing_is_forgotten_when_it_is_tainted() {
    let mut trust = first();
    trust.x509.ask("a drill");
    assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
    trust.publish(Kind::X509, made("b", 10, 1010), 10);
    trust.x509.ask("another");
    assert_eq!(trust.x509.next(11, &held(1, &["a"]), PATIENCE), None, "one at a time");
    trust.taint(Kind::X509, "b", "seen in a log").unwrap();
    assert_eq!((of(&trust.x509), trust.sequence), (vec!["active"], 3));
    assert_eq!(trust.taint(Kind::X509, "b", "again"), Err(UnknownKey("b".into())));
    assert_eq!(trust.x509.activate("b", 12, PATIENCE), Err(UnknownKey("b".into())));
}

proptest! {
    /// Whatever happens in which order: what somebody lives by is published, a key signs only when everybody holds it, and of each
    /// kind one key signs.
    #[test]
    fn nobody_is_ever_left_without_a_root(events in prop::collection::vec((0u8..6, 0u64..40), 1..200)) {
        let mut trust = first();
        let (mut now, mut names) = (0, 0);
        // One workload that is slow: what it holds, under which key, and until when.
        let (mut holds, mut under, mut ends) = (trust.sequence, "a".to_owned(), 100);
        for (event, time) in events {
            now += time;
            match event {
                0 => trust.x509.ask(""),
                1 => holds = trust.sequence,
                2 => {
                    // A renewal brings the bundle too.
                    holds = trust.sequence;
                    under = trust.x509.active().expect("one signs").id.clone();
                    ends = now + PATIENCE.longest;
                }
                3 => {
                    let active = trust.x509.active().expect("one signs").id.clone();
                    trust.taint(Kind::X509, &active, "").unwrap();
                }
                _ => {}
            }
            let lives = now < ends;
            let known = if lives { held(holds, &[&under]) } else { Held::default() };
            while let Some(step) = trust.x509.next(now, &known, PATIENCE) {
                match step {
                    Step::Publish => {
                        names += 1;
                        trust.publish(Kind::X509, made(format!("k{names}"), now, now + 1000), now);
                    }
                    Step::Take(_) => panic!("nobody brings keys"),
                    Step::Activate(id) => {
                        let (_, published, _) = trust.x509.published().expect("it waits");
                        prop_assert!(!lives || holds >= published, "it is not known everywhere: {trust:?}");
                        trust.x509.activate(&id, now, PATIENCE).unwrap();
                    }
                    Step::Forget(id) => trust.forget(Kind::X509, &id).unwrap(),
                }
            }
            prop_assert!(trust.x509.active().is_some());
            prop_assert!(trust.x509.keys().len() <= 20, "{:?}", trust.x509);
            if lives {
                prop_assert!(trust.x509.keys().iter().any(|key| key.id == under), "lives by {under}: {trust:?}");
            }
        }
    }
}
