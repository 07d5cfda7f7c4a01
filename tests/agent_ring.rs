//! The ring buffer's read end, against the kernel's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libbpf_rs::MapHandle;
use protocg::agent::ring::Ring;
use protocg::kernel::load;
use protocg::policy;

/// A record written in the moment in which the reader believes that it has read all must wake it.
#[test]
fn no_record_is_left_unannounced() {
    need_root!();
    const RECORDS: u64 = 100_000;
    const HANGS: Duration = Duration::from_secs(30);
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto/ring.toml");
    let policy = policy::compile("name = \"ring\"\nports = [50051]\ndefault = \"deny\"\n", &origin).unwrap();
    let replay = load::replay(&policy.tables).unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let (events, count) = (MapHandle::try_from(&replay.shared.events).unwrap(), Arc::clone(&read));
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async move {
            let seen = Arc::clone(&count);
            let ring = Ring::open(&events, move |_| {
                // the writer goes on from here; sooner or later its next record ends just as this one is left behind
                let read = seen.fetch_add(1, Ordering::SeqCst);
                (0..read % 256).for_each(|_| std::hint::spin_loop());
                None::<()>
            });
            let ring = ring.unwrap();
            while count.load(Ordering::SeqCst) < RECORDS {
                ring.next().await;
            }
        });
    });
    for record in 1..=RECORDS {
        assert_eq!(replay.judge(b"GET / HTTP/1.1\r\n\r\n", true, 1).unwrap().0, false);
        let since = Instant::now();
        while read.load(Ordering::SeqCst) < record {
            assert!(since.elapsed() < HANGS, "record {record} has not woken the reader");
            std::hint::spin_loop();
        }
    }
    reader.join().unwrap();
}
