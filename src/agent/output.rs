//! Lines out. A reader that is slow, stalled or gone never holds up the agent.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Lines that wait for a slow reader; further ones are lost, counted and said.
const WAITING: usize = 8192;
/// How long the end waits for a reader.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error: standard output belongs to a command.
    Stderr,
}

/// A writer with a thread of its own.
#[derive(Debug)]
pub struct Output {
    lines: Option<SyncSender<String>>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    lost: Cell<u64>,
}

impl Output {
    /// Starts the thread.
    pub fn start(target: Target) -> Self {
        let (lines, queue) = mpsc::sync_channel::<String>(WAITING);
        let (done, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while let Ok(line) = queue.recv() {
                // A reader that is gone is no failure: enforcement goes on without it.
                let _ = match target {
                    Target::Stdout => write_line(&mut io::stdout().lock(), &line),
                    Target::Stderr => write_line(&mut io::stderr().lock(), &line),
                };
            }
            let _ = done.send(());
        });
        Self { lines: Some(lines), ended, thread: Some(thread), lost: Cell::new(0) }
    }

    /// Hands over a line.
    pub fn line(&self, line: String) {
        if let Some(Err(TrySendError::Full(_))) = self.lines.as_ref().map(|lines| lines.try_send(line)) {
            self.lost.set(self.lost.get() + 1);
        }
    }

    /// Lines lost since the last time.
    pub fn take_lost(&self) -> u64 {
        self.lost.take()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.lines.take();
        if self.ended.recv_timeout(LAST_WORDS).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn write_line(into: &mut impl Write, line: &str) -> io::Result<()> {
    into.write_all(line.as_bytes())?;
    into.write_all(b"\n")?;
    into.flush()
}
