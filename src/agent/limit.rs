//! A storm of equal events is summed up: so many lines a second each, then a count.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Lines a second of one kind that are printed one by one.
pub const LINES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts events by kind.
#[derive(Debug)]
pub struct Limiter<K> {
    kinds: HashMap<K, Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    printed: u32,
    held: u64,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// A limiter that has seen nothing.
    pub fn new() -> Self {
        Self { kinds: HashMap::new() }
    }

    /// Whether an event of this kind is printed now.
    pub fn admit(&mut self, kind: K, now: Instant) -> bool {
        let window = self.kinds.entry(kind).or_insert(Window { since: now, printed: 0, held: 0 });
        if now.duration_since(window.since) >= WINDOW && window.held == 0 {
            *window = Window { since: now, printed: 0, held: 0 };
        }
        if window.printed < LINES {
            window.printed += 1;
            return true;
        }
        window.held += 1;
        false
    }

    /// Kinds whose second is over, with how many events were not printed; all of them if `all` is set.
    pub fn summaries(&mut self, now: Instant, all: bool) -> Vec<(K, u64)> {
        let over = |w: &Window| all || now.duration_since(w.since) >= WINDOW;
        let due = self.kinds.iter().filter(|(_, w)| w.held > 0 && over(w)).map(|(k, w)| (k.clone(), w.held)).collect();
        self.kinds.retain(|_, w| !over(w));
        due
    }
}

impl<K: Hash + Eq + Clone> Default for Limiter<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_printed_up_to_the_limit_and_every_other_event_is_counted() {
        let start = Instant::now();
        let mut limiter = Limiter::new();
        let printed = (0..1000).filter(|_| limiter.admit("storm", start)).count();
        assert_eq!(printed, LINES as usize);
        assert!(limiter.admit("calm", start));
        assert!(limiter.summaries(start, false).is_empty());
        let later = start + WINDOW;
        assert!(!limiter.admit("storm", later), "nothing overtakes the summary");
        assert_eq!(limiter.summaries(later, false), [("storm", 801)]);
        assert!(limiter.admit("storm", later));
        assert!(limiter.summaries(later + WINDOW, false).is_empty());
    }

    #[test]
    fn the_end_sums_up_at_once() {
        let start = Instant::now();
        let mut limiter = Limiter::new();
        for _ in 0..=LINES {
            limiter.admit(7, start);
        }
        assert_eq!(limiter.summaries(start, true), [(7, 1)]);
    }
}
