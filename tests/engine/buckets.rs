//! Token buckets against a slow model, with a clock that tests set: who gets a token, and when the next one comes.

use std::collections::HashMap;

use protocg::abi;
use protocg::engine::{Buckets, Connection, Outcome};
use protocg::policy::Policy;

use crate::fixtures::UNARY;
use crate::rig::{Random, compile, seed};
use crate::wire::*;

const SECOND: u64 = 1_000_000_000;

fn calls_of(tenant: &str) -> Vec<u8> {
    let block = request_and(UNARY, &[literal(PLAIN, "x-tenant", tenant)]);
    [PREFACE, SETTINGS, &headers(1, &block)].concat()
}

/// Whether the call gets a token; else when the next one comes, and the connection's count of keys without a place.
fn call(policy: &Policy, buckets: &Buckets, now: u64, tenant: &str) -> (Result<(), u32>, u64) {
    let mut connection = Connection::new(&policy.tables, std::net::Ipv6Addr::LOCALHOST, 1);
    connection.share(buckets);
    connection.set_time(now);
    let outcome = connection.request(&calls_of(tenant));
    let full = connection.counter(abi::PG_N_BUCKETS_FULL);
    if outcome == Outcome::Pass {
        return (Ok(()), full);
    }
    let events = connection.events();
    assert_eq!((outcome, events.len(), events[0].status), (Outcome::Denied, 1, 8));
    assert_eq!(connection.counter(abi::PG_N_LIMITED), 1);
    (Err(events[0].retry_ms), full)
}

fn limited(rate: &str, burst: u64) -> Policy {
    compile(&format!(
        "default = \"allow\"\n[[limit]]\nname = \"l\"\nrate = \"{rate}\"\nburst = {burst}\nper = 'metadata[\"x-tenant\"]'\n"
    ))
}

/// A bucket as people think of it, in units that have no fractions: tokens times the period.
struct Model {
    level: u128,
    at: u64,
}

impl Model {
    fn take(&mut self, now: u64, rate: u64, period: u64, burst: u64) -> Result<(), u32> {
        let (rate, period, most) = (u128::from(rate), u128::from(period), u128::from(burst) * u128::from(period));
        self.level = most.min(self.level + u128::from(now - self.at) * rate);
        self.at = now;
        if self.level >= period {
            self.level -= period;
            return Ok(());
        }
        let ns = (period - self.level).div_ceil(rate);
        Err(u32::try_from(ns.div_ceil(1_000_000)).unwrap())
    }
}

#[test]
fn tokens_are_those_of_a_model_without_fractions() {
    let mut random = Random(seed(0x7a11));
    let (mut granted, mut refused) = (0, 0);
    for (rate, unit, period) in [
        (1, "s", SECOND),
        (3, "s", SECOND),
        (1_000_000, "s", SECOND),
        (7, "m", 60 * SECOND),
        (999_983, "m", 60 * SECOND),
        (1, "h", 3600 * SECOND),
        (11, "h", 3600 * SECOND),
    ] {
        for burst in [1, 2, 20, 1_000_000] {
            let policy = limited(&format!("{rate}/{unit}"), burst);
            let buckets = Buckets::new(&policy.tables);
            let mut models: HashMap<String, Model> = HashMap::new();
            // long after the machine started: numbers are large
            let mut now = 400 * 24 * 3600 * SECOND;
            let token = period / rate;
            for _ in 0..300 {
                now += match random.below(5) {
                    0 => 0,
                    1 => 1,
                    2 => random.draw() % (token / 4 + 2),
                    3 => token,
                    _ => random.draw() % (token * 3 + 2),
                };
                let tenant = format!("t{}", random.below(3));
                let full = u128::from(burst) * u128::from(period);
                let model = models.entry(tenant.clone()).or_insert(Model { level: full, at: now });
                let expected = model.take(now, rate, period, burst);
                let (got, _) = call(&policy, &buckets, now, &tenant);
                assert_eq!(got, expected, "{rate}/{unit}, burst {burst}, {tenant} at {now}");
                if got.is_ok() { granted += 1 } else { refused += 1 }
            }
        }
    }
    println!("{granted} tokens taken, {refused} refused");
    assert!(granted > 2000 && refused > 1000, "{granted} {refused}");
}

#[test]
fn a_clock_that_another_cpu_read_earlier_gives_nothing_away() {
    let policy = limited("1/s", 1);
    let buckets = Buckets::new(&policy.tables);
    let at = |now: u64| call(&policy, &buckets, now, "a").0;
    assert_eq!(at(10 * SECOND), Ok(()));
    assert_eq!(at(10 * SECOND - 500), Err(1000));
    assert_eq!(at(11 * SECOND - 1), Err(1));
    assert_eq!(at(11 * SECOND), Ok(()));
    assert_eq!(at(11 * SECOND - 1), Err(1000));
    assert_eq!(at(12 * SECOND), Ok(()));
}

#[test]
fn keys_past_the_bound_share_one_bucket_and_no_call_passes_without_a_token() {
    const KEYS: u64 = 120_000;
    const BURST: u64 = 2;
    let policy = limited("1/h", BURST);
    let buckets = Buckets::new(&policy.tables);
    let (mut passed, mut full) = (0, 0);
    for key in 0..KEYS {
        let (got, without) = call(&policy, &buckets, 1, &format!("k{key}"));
        passed += u64::from(got.is_ok());
        full += without;
    }
    // whoever had a place passed, and of all others as many as the limit's own bucket has tokens
    println!("{KEYS} keys: {passed} passed, {full} took of the limit's own bucket");
    assert!(passed <= u64::from(abi::PG_MAX_BUCKETS) + BURST, "{passed}");
    assert!(passed > u64::from(abi::PG_MAX_BUCKETS) * 9 / 10, "{passed}");
    assert_eq!(full, BURST);
    // who has a bucket keeps it, and what it holds
    assert_eq!(call(&policy, &buckets, 1, "k0").0, Ok(()));
    assert_eq!(call(&policy, &buckets, 1, "k0").0, Err(3_600_000));
    assert_eq!(call(&policy, &buckets, 1, "one more").0, Err(3_600_000));
    // a bucket that is full again gives up its place: all keys are as new
    let later = 3 * 3600 * SECOND;
    let again = (0..1000).filter(|key| call(&policy, &buckets, later, &format!("n{key}")).0.is_ok()).count();
    assert_eq!(again, 1000);
}
