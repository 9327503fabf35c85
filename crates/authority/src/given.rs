//! The step that comes next where the roots are those of a CA outside. Pure, as [`crate::trust`] is.
//!
//! Such a CA says itself when another root signs, and does not ask whether everybody holds it. So what it brings is published at once, and
//! the issuing CA that it has signed waits until its root may sign.

use crate::trust::{Held, KeyId, Lineage, Made, Patience, Phase, Step, is_over};

/// What a CA outside has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// The roots that are to be trusted.
    pub(crate) roots: Vec<Made>,
    /// The root of the issuing CA that waits to be put in force, if one does.
    pub(crate) wanted: Option<KeyId>,
}

/// What is to be done at `now`, if anything.
pub(crate) fn next(roots: &Lineage, given: &Given, now: u64, held: &Held, patience: Patience) -> Option<Step> {
    let is_given = |id: &str| given.roots.iter().any(|root| root.id == id);
    let gone = roots.keys().iter().find(|root| match root.phase {
        // One that signs nothing here is trusted as long as it is valid, or until somebody says that it is in wrong hands.
        Phase::Published { .. } => root.source.is_some() && now > root.not_after,
        _ => is_over(root, now, held) && (root.tainted.is_some() || !is_given(&root.id)),
    });
    if let Some(gone) = gone {
        return Some(Step::Forget(gone.id.clone()));
    }
    let known = |made: &Made| roots.keys().iter().any(|root| root.id == made.id && root.public == made.public);
    let may_be_taken = |made: &&Made| !known(made) && !roots.is_refused(&made.id) && made.not_after >= now;
    if let Some(made) = given.roots.iter().find(may_be_taken) {
        return Some(Step::Take(made.clone()));
    }
    let wanted = roots.keys().iter().find(|root| Some(&root.id) == given.wanted.as_ref())?;
    let may_sign = wanted.tainted.is_none()
        && match wanted.phase {
            Phase::Published { sequence, since } => roots.is_held(sequence, since, now, held, patience),
            Phase::Active { .. } => false,
            Phase::Retired { .. } => true, // everybody has had it
        };
    may_sign.then(|| Step::Activate(wanted.id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{Kind, Trust};

    const PATIENCE: Patience = Patience { longest: 100, fetchers: 20 };

    fn root(id: &str) -> Made {
        let source = Some("ca.pem".to_owned());
        Made { id: id.into(), public: format!("{id} 1"), not_after: 1000, source, ..Made::default() }
    }

    fn given(roots: &[&str], wanted: Option<&str>) -> Given {
        Given { roots: roots.iter().map(|id| root(id)).collect(), wanted: wanted.map(str::to_owned) }
    }

    fn held(lowest: u64, under: &[&str]) -> Held {
        Held { lowest: Some(lowest), under: under.iter().map(|id| (*id).to_owned()).collect() }
    }

    /// Takes all steps; who is active then.
    fn settle(trust: &mut Trust, given: &Given, now: u64, held: &Held) -> Option<String> {
        while let Some(step) = next(&trust.x509, given, now, held, PATIENCE) {
            match step {
                Step::Publish => panic!("nothing is made here"),
                Step::Take(made) => trust.publish(Kind::X509, made, now),
                Step::Activate(id) => trust.lineage_mut(Kind::X509).activate(&id, now, PATIENCE).unwrap(),
                Step::Forget(id) => trust.forget(Kind::X509, &id).unwrap(),
            }
        }
        trust.x509.active().map(|root| root.id.clone())
    }

    fn ids(trust: &Trust) -> Vec<&str> {
        trust.x509.keys().iter().map(|root| &*root.id).collect()
    }

    #[test]
    fn another_root_signs_when_everybody_holds_it_and_the_old_one_leaves() {
        let mut trust = Trust::default();
        let nobody = Held::default();
        assert_eq!(settle(&mut trust, &given(&["a"], Some("a")), 0, &nobody).as_deref(), Some("a"));
        let both = given(&["b", "a"], Some("b"));
        assert_eq!(settle(&mut trust, &both, 10, &held(1, &["a"])).as_deref(), Some("a"), "one does not hold it");
        assert_eq!(settle(&mut trust, &both, 29, &held(2, &["a"])).as_deref(), Some("a"), "those who fetch may not");
        assert_eq!(settle(&mut trust, &both, 30, &held(2, &["a"])).as_deref(), Some("b"));
        settle(&mut trust, &both, 500, &held(2, &["b"]));
        assert_eq!(ids(&trust), ["a", "b"], "the CA outside still says that it is to be trusted");
        settle(&mut trust, &given(&["b"], None), 500, &held(2, &["a", "b"]));
        assert_eq!(ids(&trust), ["a", "b"], "a server still issues under it");
        settle(&mut trust, &given(&["b"], None), 500, &held(2, &["b"]));
        assert_eq!(ids(&trust), ["b"]);
    }

    #[test]
    fn a_root_that_signs_nothing_is_published_and_no_more() {
        let mut trust = Trust::default();
        assert_eq!(settle(&mut trust, &given(&["a", "next"], Some("a")), 0, &Held::default()).as_deref(), Some("a"));
        assert_eq!(settle(&mut trust, &given(&["a", "next"], None), 100, &held(2, &["a"])).as_deref(), Some("a"));
        assert_eq!(ids(&trust), ["a", "next"]);
        settle(&mut trust, &given(&["a"], None), 200, &held(2, &["a"]));
        assert_eq!(ids(&trust), ["a", "next"], "other servers may have it still");
        settle(&mut trust, &given(&["a", "next"], None), 1001, &held(2, &["a"]));
        assert_eq!(ids(&trust), ["a"], "it has run out, and does not come back");
    }

    #[test]
    fn a_root_in_wrong_hands_does_not_come_back() {
        let mut trust = Trust::default();
        settle(&mut trust, &given(&["a"], Some("a")), 0, &Held::default());
        trust.taint(Kind::X509, "a", "stolen").unwrap();
        assert_eq!(
            settle(&mut trust, &given(&["a"], Some("a")), 1, &held(1, &["a"])).as_deref(),
            Some("a"),
            "there is no other"
        );
        let two = given(&["b", "a"], Some("b"));
        assert_eq!(settle(&mut trust, &two, 2, &held(1, &["a"])).as_deref(), Some("a"));
        assert_eq!(
            settle(&mut trust, &two, 2, &held(2, &["a"])).as_deref(),
            Some("b"),
            "those who fetch are not waited for"
        );
        assert_eq!(settle(&mut trust, &two, 3, &held(2, &["b"])).as_deref(), Some("b"));
        assert_eq!(ids(&trust), ["b"]);
        // One that was only published goes at once, and stays away too.
        settle(&mut trust, &given(&["b", "c"], None), 4, &held(9, &["b"]));
        trust.taint(Kind::X509, "c", "stolen too").unwrap();
        settle(&mut trust, &given(&["b", "c"], None), 5, &held(9, &["b"]));
        assert_eq!(ids(&trust), ["b"]);
    }

    #[test]
    fn the_same_root_with_another_certificate_replaces_it_and_goes_on_signing() {
        let mut trust = Trust::default();
        settle(&mut trust, &given(&["a"], Some("a")), 0, &Held::default());
        let mut again = given(&["a"], Some("a"));
        again.roots[0].public = "a 2".into();
        assert_eq!(settle(&mut trust, &again, 5, &held(1, &["a"])).as_deref(), Some("a"));
        assert_eq!((trust.sequence, ids(&trust), &*trust.x509.keys()[0].public), (2, vec!["a"], "a 2"));
    }

    #[test]
    fn who_goes_back_to_the_root_of_before_need_not_wait_and_own_roots_give_way() {
        let mut trust = Trust::default();
        let own = Made { id: "own".into(), not_after: 1000, ..Made::default() };
        trust.publish(Kind::X509, own, 0);
        trust.lineage_mut(Kind::X509).activate("own", 0, PATIENCE).unwrap();
        assert_eq!(settle(&mut trust, &given(&["a"], Some("a")), 1, &held(1, &["own"])).as_deref(), Some("own"));
        assert_eq!(settle(&mut trust, &given(&["a"], Some("a")), 30, &held(2, &["own"])).as_deref(), Some("a"));
        assert_eq!(settle(&mut trust, &given(&["b"], Some("b")), 31, &held(2, &["a"])).as_deref(), Some("a"));
        assert_eq!(settle(&mut trust, &given(&["b"], Some("b")), 60, &held(3, &["a"])).as_deref(), Some("b"));
        assert_eq!(settle(&mut trust, &given(&["a"], Some("a")), 61, &held(3, &["b"])).as_deref(), Some("a"));
        // And back to roots of its own.
        let step = trust.x509.next(62, &held(3, &["a"]), PATIENCE);
        assert_eq!(step, Some(Step::Publish));
    }
}
