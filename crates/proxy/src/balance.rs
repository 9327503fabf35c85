//! Which endpoint a request goes to: pure functions of the endpoints, their load, a turn and a random number.

use weft_proxy_config::{Endpoints, LbPolicy};

/// The index of the endpoint to use; `None` if there is none.
///
/// `load` tells for an index how many requests are under way there, and whether it failed lately and should be avoided;
/// when all are to be avoided, none is. `turn` counts up by one from request to request (for round robin), `random` is
/// uniform.
pub fn pick(
    endpoints: &Endpoints,
    policy: LbPolicy,
    load: impl Fn(usize) -> (u32, bool),
    turn: u64,
    random: u64,
) -> Option<usize> {
    match endpoints.len() {
        0 => None,
        1 => Some(0),
        _ => Some(match policy {
            LbPolicy::RoundRobin => round_robin(endpoints, load, turn),
            LbPolicy::LeastRequest => least_request(endpoints, load, random),
        }),
    }
}

/// Each in turn, as often as its weight, and not in bursts.
fn round_robin(endpoints: &Endpoints, load: impl Fn(usize) -> (u32, bool), turn: u64) -> usize {
    let first = endpoints.at(endpoints.spread(turn));
    if !load(first).1 {
        return first;
    }
    usable_at(endpoints, |index| !load(index).1, |total| turn % total).unwrap_or(first)
}

/// The power of two choices: two different endpoints are drawn by weight, and the one with less under way for its
/// weight is taken; the first where they are equal, so that an idle cluster is used exactly by weight.
fn least_request(endpoints: &Endpoints, load: impl Fn(usize) -> (u32, bool), random: u64) -> usize {
    let first = endpoints.at(scale(random, endpoints.total_weight()));
    let (start, first_weight) = endpoints.part(first);
    // The line without the first one's part.
    let point = scale(mix(random), endpoints.total_weight() - first_weight);
    let second = endpoints.at(if point < start { point } else { point + first_weight });
    let (_, second_weight) = endpoints.part(second);
    let ((first_active, avoid_first), (second_active, avoid_second)) = (load(first), load(second));
    match (avoid_first, avoid_second) {
        (false, true) => return first,
        (true, false) => return second,
        (true, true) => {
            if let Some(other) = usable_at(endpoints, |index| !load(index).1, |total| scale(random, total)) {
                return other;
            }
        }
        (false, false) => {}
    }
    let busier =
        u128::from(first_active) * u128::from(second_weight) > u128::from(second_active) * u128::from(first_weight);
    if busier { second } else { first }
}

/// Whose part a point is in, on the line of the usable ones alone; `None` if no one is.
fn usable_at(endpoints: &Endpoints, usable: impl Fn(usize) -> bool, point: impl FnOnce(u64) -> u64) -> Option<usize> {
    let parts = || (0..endpoints.len()).filter(|index| usable(*index)).map(|index| (index, endpoints.part(index).1));
    let total: u64 = parts().map(|(_, weight)| weight).sum();
    if total == 0 {
        return None;
    }
    let mut point = point(total);
    for (index, weight) in parts() {
        match point.checked_sub(weight) {
            None => return Some(index),
            Some(rest) => point = rest,
        }
    }
    None
}

/// From the whole range of `random` evenly to `0..length`.
fn scale(random: u64, length: u64) -> u64 {
    ((u128::from(random) * u128::from(length)) >> 64) as u64
}

/// Another number that looks independent (the finalizer of SplitMix64).
fn mix(random: u64) -> u64 {
    let mut z = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use weft_proxy_config::Endpoint;

    fn endpoints(weights: &[u32]) -> Endpoints {
        let one = |(port, weight): (usize, &u32)| Endpoint {
            address: ([127, 0, 0, 1], port as u16 + 1).into(),
            weight: *weight,
            labels: BTreeMap::new(),
        };
        Endpoints::new(weights.iter().enumerate().map(one).collect())
    }

    fn counts(of: impl Iterator<Item = usize>, length: usize) -> Vec<u64> {
        let mut counts = vec![0; length];
        of.for_each(|index| counts[index] += 1);
        counts
    }

    #[test]
    fn nothing_and_one() {
        for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
            assert_eq!(pick(&endpoints(&[]), policy, |_| (0, false), 7, 7), None);
            assert_eq!(pick(&endpoints(&[3]), policy, |_| (9, true), 7, 7), Some(0));
        }
    }

    #[test]
    fn equal_endpoints_take_turns_in_order() {
        let three = endpoints(&[5, 5, 5]);
        let turns: Vec<_> =
            (0..6).map(|turn| pick(&three, LbPolicy::RoundRobin, |_| (0, false), turn, 0).unwrap()).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn heavy_endpoints_do_not_come_in_bursts() {
        let two = endpoints(&[3, 2]);
        let turns: Vec<_> =
            (0..5).map(|turn| pick(&two, LbPolicy::RoundRobin, |_| (0, false), turn, 0).unwrap()).collect();
        assert!(turns.windows(3).all(|three| three.iter().any(|index| *index != three[0])), "{turns:?}");
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken_for_its_weight() {
        let two = endpoints(&[1, 1]);
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(pick(&two, LbPolicy::LeastRequest, |index| ([3, 2][index], false), 0, random), Some(1));
            assert_eq!(pick(&two, LbPolicy::LeastRequest, |index| ([2, 3][index], false), 0, random), Some(0));
        }
        let heavy = endpoints(&[1, 4]);
        assert_eq!(pick(&heavy, LbPolicy::LeastRequest, |index| ([2, 4][index], false), 0, 0), Some(1));
        assert_eq!(pick(&heavy, LbPolicy::LeastRequest, |index| ([1, 5][index], false), 0, u64::MAX), Some(0));
    }

    proptest! {
        #[test]
        fn round_robin_is_exact_over_any_window(
            weights in prop::collection::vec(1_u32..40, 1..8), start in 0_u64..1_000_000
        ) {
            let endpoints = endpoints(&weights);
            let turns = start..start + endpoints.total_weight();
            let picked = turns.map(|turn| pick(&endpoints, LbPolicy::RoundRobin, |_| (0, false), turn, 0).unwrap());
            let counts = counts(picked, weights.len());
            let equal = weights.iter().all(|weight| *weight == weights[0]);
            let expected: Vec<u64> = weights.iter().map(|weight| if equal { 1 } else { u64::from(*weight) }).collect();
            prop_assert_eq!(counts, expected);
        }

        #[test]
        fn an_idle_cluster_is_used_by_weight(weights in prop::collection::vec(1_u32..40, 2..8)) {
            let endpoints = endpoints(&weights);
            let total = endpoints.total_weight();
            // The middle of each unit of the line.
            let randoms = (0..total).map(|unit| (((2 * u128::from(unit) + 1) << 63) / u128::from(total)) as u64);
            let pick = |random| pick(&endpoints, LbPolicy::LeastRequest, |_| (0, false), 0, random).unwrap();
            let counts = counts(randoms.map(pick), weights.len());
            let equal = weights.iter().all(|weight| *weight == weights[0]);
            let expected: Vec<u64> = weights.iter().map(|weight| if equal { 1 } else { u64::from(*weight) }).collect();
            prop_assert_eq!(counts, expected);
        }

        #[test]
        fn what_failed_is_avoided_unless_all_did(
            hosts in prop::collection::vec((1_u32..1000, 0_u32..50, any::<bool>()), 1..12), turn: u64, random: u64
        ) {
            let endpoints = endpoints(&hosts.iter().map(|(weight, ..)| *weight).collect::<Vec<_>>());
            let load = |index: usize| (hosts[index].1, hosts[index].2);
            for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
                let picked = pick(&endpoints, policy, load, turn, random).unwrap();
                prop_assert!(!hosts[picked].2 || hosts.iter().all(|(.., failed)| *failed));
            }
        }

        #[test]
        fn the_busiest_one_is_never_taken(hosts in prop::collection::vec(0_u32..50, 2..12), random: u64) {
            let endpoints = endpoints(&vec![1; hosts.len()]);
            let picked = pick(&endpoints, LbPolicy::LeastRequest, |index| (hosts[index], false), 0, random).unwrap();
            let busier = hosts.iter().enumerate().any(|(index, active)| index != picked && *active >= hosts[picked]);
            prop_assert!(busier, "{} of {:?}", hosts[picked], hosts);
        }

        #[test]
        fn weights_up_to_the_bound_never_overflow(
            weights in prop::collection::vec(u32::MAX - 2..=u32::MAX, 2..6), active: u32, turn: u64, random: u64
        ) {
            let endpoints = endpoints(&weights);
            for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
                prop_assert!(pick(&endpoints, policy, |_| (active, false), turn, random).unwrap() < weights.len());
            }
        }
    }
}
