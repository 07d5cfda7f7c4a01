//! Numbers of several rounds.

use serde::{Deserialize, Serialize};

/// The middle of several rounds, and their bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these numbers; nothing if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len() % 2 == 1 { upper } else { *values.get(middle - 1)? };
        Some(Spread { median: f64::midpoint(lower, upper), min, max })
    }

    /// How far the bounds are from 1, at most: the noise that a ratio of equal things shows.
    #[must_use]
    pub fn noise(&self) -> f64 {
        (self.max - 1.0).abs().max((1.0 - self.min).abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_even_and_odd_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).map(|s| s.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn noise_is_the_greater_distance_from_one() {
        let noise = Spread { median: 1.0, min: 0.96, max: 1.02 }.noise();
        assert!((noise - 0.04).abs() < 1e-9);
    }
}
