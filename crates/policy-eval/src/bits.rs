//! Sets of small numbers.

/// A set of numbers below a bound that is the same for all sets that meet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Nothing, of `len` numbers.
    pub fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// All `len` numbers.
    pub fn all(len: usize) -> Self {
        let mut bits = Self(vec![u64::MAX; len.div_ceil(64)]);
        if let Some(last) = bits.0.last_mut().filter(|_| !len.is_multiple_of(64)) {
            *last = (1 << (len % 64)) - 1;
        }
        bits
    }

    /// Puts a number in.
    pub fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Whether a number is in.
    pub fn contains(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    /// Puts in what is in another set.
    pub fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Leaves only what is in another set too.
    pub fn intersect(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= theirs);
    }

    /// Takes out what is in another set.
    pub fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= !theirs);
    }

    /// Whether some number is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The numbers, from the least.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(at, word)| (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(a in proptest::collection::btree_set(0usize..200, 0..20), b in proptest::collection::btree_set(0usize..200, 0..20)) {
            let bits = |set: &BTreeSet<usize>| {
                let mut bits = Bits::none(200);
                set.iter().for_each(|index| bits.insert(*index));
                bits
            };
            let after = |change: fn(&mut Bits, &Bits)| {
                let mut mine = bits(&a);
                change(&mut mine, &bits(&b));
                mine.iter().collect::<Vec<_>>()
            };
            prop_assert_eq!(after(Bits::union), a.union(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(after(Bits::intersect), a.intersection(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(after(Bits::remove), a.difference(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(bits(&a).intersects(&bits(&b)), !a.is_disjoint(&b));
            prop_assert_eq!(bits(&a).is_empty(), a.is_empty());
            prop_assert!((0..200).all(|index| bits(&a).contains(index) == a.contains(&index)));
        }

        #[test]
        fn all_is_all(len in 0usize..200) {
            prop_assert_eq!(Bits::all(len).iter().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
        }
    }
}
