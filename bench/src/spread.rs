//! The middle and the ends of a few values.

/// The middle one, or the mean of the two in the middle. `values` must not be empty.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The smallest and the largest.
pub(crate) fn ends(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    (sorted[0], sorted[sorted.len() - 1])
}

/// The value that `percent` of a hundred are not above. `sorted` must not be empty.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: f64) -> T {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_even_many_is_between_two() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), 3.0);
        assert_eq!(ends(&[9.0, 1.0, 2.0]), (1.0, 9.0));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|percent| percentile(&values, percent)), [100, 198, 200]);
        assert_eq!(percentile(&[7], 1.0), 7);
    }
}
