//! Loss on the path, in both directions: it may cost speed, and never a wrong verdict.

use std::net::SocketAddr;

use protocg::abi;
use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Calls, Place, Stack, Veth};
use serde_json::{Value, json};

use crate::field::{Field, PATH, POLICY, PORT, eventually};
use crate::loss_program::{loss, no_loss};
use crate::maps;

const CALLS: u32 = 200;
const CONCURRENT: u32 = 8;
/// Of a message's text: it fits into one segment of Ethernet's size, or takes ten. A denial of the second kind may end its
/// connection.
const LENGTHS: [usize; 2] = [300, 14_000];

/// A tonic client makes calls of which every other one is denied; a new connection when one has ended.
fn storm(field: &Field, length: usize) -> Value {
    let place = Place { cgroup: None, net: Some((&field.veth, End::A)) };
    let calls = Calls { stack: Stack::Tonic, place, target: SocketAddr::from((Veth::SERVER4, PORT)) };
    let call = |text: &str| json!({ "method": PATH, "messages": [{ "query": text.repeat(length / text.len()) }] });
    calls.storm(&call("denied-A"), &call("allowed-"), CALLS, CONCURRENT, 7, "denied by policy tcp: no-a")
}

#[test]
fn loss_costs_time_and_never_a_wrong_verdict() {
    if harness::skip("loss") {
        return;
    }
    println!(
        "{CALLS} calls, {CONCURRENT} at once on a channel, half of them denied; links that lose packets both ways"
    );
    println!(" bytes  loss   off, ms    on, ms  ratio  denied: exact, by end  allowed: ok, failed  connections");
    for (length, percent) in LENGTHS.into_iter().flat_map(|length| [0_u32, 1, 3, 5].map(|percent| (length, percent))) {
        let mut times = Vec::new();
        for enforced in [false, true] {
            let field = Field::maybe("loss", enforced, POLICY, &[]);
            for end in [End::A, End::B] {
                loss(&field.veth, end, percent * 10_000);
            }
            let said = storm(&field, length);
            let number = |key: &str| said[key].as_u64().unwrap();
            times.push(said["elapsed_ms"].as_f64().unwrap());
            let half = u64::from(CALLS / 2);
            let (failed, connections) = (number("allowed_failed"), number("connections"));
            if !enforced {
                assert_eq!(number("allowed_ok"), half, "{said:#}");
                eventually("the handler has got what is denied", || field.breaches().len() as u64 == half);
                continue;
            }
            let ratio = times[0] / times[1];
            let by_end = half - number("exact");
            let fates = format!("{:>13}, {by_end:>6}  {:>11}, {failed:>6}", number("exact"), number("allowed_ok"));
            println!(
                "{length:>6} {percent:>4}% {:>9.0} {:>9.0} {ratio:>6.2}  {fates}  {connections:>11}",
                times[0], times[1]
            );
            assert!(field.breaches().is_empty(), "{:#?}", field.breaches());
            // Every denied call failed; an allowed one only with a connection that a denial has ended.
            let succeeded = said["others"].as_object().unwrap().keys().filter(|k| k.starts_with("0: ")).count();
            assert_eq!(succeeded, 0, "{said:#}");
            // No more than were under way with it.
            assert!(by_end + failed <= connections * u64::from(CONCURRENT), "{said:#}");
            // Behind the last calls no new connection shows that a denial has ended one, but the enforcer knows.
            let mended = maps::sum(&maps::of(field.cgroup.path(), "counters"), abi::PG_N_MENDED);
            if connections == 1 && mended == half {
                assert_eq!((by_end, failed), (0, 0), "{said:#}");
            }
            let events = field.enforcer().events();
            // A denied frame that TCP has cut in two ends the connection (bpf/mend.h). Where nothing is lost, that is rare for short calls:
            // only a busy client's are cut.
            let rarely = u64::from(CALLS / 2 / 20);
            assert!(connections <= 1 + rarely || percent > 0 || length > 1400, "{said:#}\n{events:#?}");
            assert!(events.iter().all(|e| e["type"] != "connection"), "{events:#?}");
            // The neighbour's link loses packets too.
            for end in [End::A, End::B].into_iter().filter(|_| percent > 0) {
                no_loss(&field.veth, end);
            }
            field.unharmed();
        }
    }
}
