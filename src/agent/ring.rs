//! The read end of the kernel's ring buffer.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use libbpf_rs::{MapCore, RingBuffer, RingBufferBuilder};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Records handled before other tasks get a turn.
const TURN: usize = 512;

/// Reads a ring buffer, and waits for it.
#[derive(Debug)]
pub struct Ring<T> {
    buffer: RingBuffer<'static>,
    heard: Rc<RefCell<Vec<T>>>,
    readable: AsyncFd<OwnedFd>,
}

impl<T: 'static> Ring<T> {
    /// Opens it; what `hear` makes nothing of is passed over. Needs a runtime.
    pub fn open(map: &impl MapCore, hear: impl Fn(&[u8]) -> Option<T> + 'static) -> anyhow::Result<Self> {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&heard);
        let mut builder = RingBufferBuilder::new();
        builder.add(map, move |bytes: &[u8]| {
            sink.borrow_mut().extend(hear(bytes));
            0
        })?;
        let buffer = builder.build()?;
        // SAFETY: the ring buffer lives, and so does its epoll descriptor, until the copy is made.
        let epoll = unsafe { BorrowedFd::borrow_raw(buffer.epoll_fd()) }.try_clone_to_owned()?;
        // SAFETY: an owned descriptor stays the same open file until it is dropped.
        let readable = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(Self { buffer, heard, readable })
    }

    /// Waits for records and takes at most a turn's worth.
    pub async fn next(&self) -> Vec<T> {
        loop {
            if self.read() {
                return self.heard.take();
            }
            let Ok(mut ready) = self.readable.readable().await else {
                // without readiness `take` still reads
                return std::future::pending().await;
            };
            ready.clear_ready();
        }
    }

    /// Takes at most a turn's worth, without waiting.
    pub fn take(&self) -> Vec<T> {
        self.read();
        self.heard.take()
    }

    /// Reads at most a turn's worth; false: nothing was there that has ended, and what ends next wakes who waits for it.
    ///
    /// The kernel wakes the reader only for a record that stands where the reader is (`bpf_ringbuf_commit`): it ends the
    /// record, then looks at the reader's position. libbpf moves that position, then looks at the next record, with
    /// nothing between, so each may see what the other was a moment ago, and the record lies there unannounced. libbpf's
    /// own loop asks the kernel once more before it sleeps; tokio waits for an edge. Hence the fence, and a read behind it
    /// that finds nothing before each wait. Records that are discarded would not be counted; no program discards one.
    fn read(&self) -> bool {
        fence(Ordering::SeqCst);
        self.buffer.consume_raw_n(TURN) > 0
    }
}
