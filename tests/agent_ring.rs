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

/// A record that ends just when the reader believes that it has read all is read, though no other follows.
#[test]
fn no_record_is_left_unannounced() {
    need_root!();
    const RECORDS: u64 = 100_000;
    const LEFT: Duration = Duration::from_secs(30);
    /// On a slow machine fewer records do.
    const ENOUGH: Duration = Duration::from_secs(60);
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("skipped: reader and writer meet on two processors only");
        return;
    }
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto/ring.toml");
    let policy = policy::compile("name = \"ring\"\nports = [50051]\ndefault = \"deny\"\n", &origin).unwrap();
    let replay = load::replay(&policy.tables).unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let (events, seen) = (MapHandle::try_from(&replay.shared.events).unwrap(), Arc::clone(&read));
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async move {
            let hear = move |_: &[u8]| {
                // the writer goes on from here; sooner or later its next record ends just as this one is left behind
                let read = seen.fetch_add(1, Ordering::SeqCst);
                (0..read % 256).for_each(|_| std::hint::spin_loop());
                None::<()>
            };
            let ring = Ring::open(&events, hear).unwrap();
            loop {
                ring.next().await;
            }
        });
    });
    let start = Instant::now();
    for record in (1..=RECORDS).take_while(|_| start.elapsed() < ENOUGH) {
        assert!(!replay.judge(b"GET / HTTP/1.1\r\n\r\n", true, 1).unwrap().0);
        let since = Instant::now();
        while read.load(Ordering::SeqCst) != record {
            assert!(!reader.is_finished(), "the reader has ended");
            assert!(since.elapsed() < LEFT, "record {record} was not read");
            std::hint::spin_loop();
        }
    }
}
