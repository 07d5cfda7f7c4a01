//! Pages that the sender can still write: after sendfile() and vmsplice() a packet refers to them, and a client on the same
//! machine changes them once the filter has seen them, and before the server reads.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use protocg_peers::harness;
use protocg_peers::harness::net::End;
use serde_json::json;

use crate::field::{Field, Off, PORT, conversation, eventually, fd};
use crate::wall::{Wall, walls};

/// Both texts have one length; the second is denied.
fn texts() -> (Vec<u8>, Vec<u8>) {
    (conversation("harmless-good-"), conversation("harmless-evilA"))
}

/// A file in memory whose pages a socket can refer to, mapped for splicing too.
struct Pages {
    file: File,
    place: *mut u8,
    length: usize,
}

impl Pages {
    fn of(bytes: &[u8]) -> Self {
        // SAFETY: a name; the descriptor is new.
        let file = unsafe { File::from_raw_fd(libc::memfd_create(c"pages".as_ptr(), libc::MFD_CLOEXEC)) };
        file.write_all_at(bytes, 0).unwrap();
        // SAFETY: a new mapping of a file that is open and so long.
        let place =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes.len(), libc::PROT_READ, libc::MAP_SHARED, fd(&file), 0) };
        assert_ne!(place, libc::MAP_FAILED);
        Self { file, place: place.cast(), length: bytes.len() }
    }

    /// As much as the socket takes at once.
    fn send(&self, socket: &TcpStream) {
        let mut at = 0;
        // SAFETY: both descriptors are open, and `at` is valid for the call.
        let n = unsafe { libc::sendfile(fd(socket), fd(&self.file), &raw mut at, self.length) };
        assert!(n >= self.length.min(16384).cast_signed(), "{n}");
    }

    fn splice(&self, socket: &TcpStream) {
        let mut pipe = [0; 2];
        let vector = libc::iovec { iov_base: self.place.cast(), iov_len: self.length };
        // SAFETY: the pipe's descriptors are new, and the vector describes the mapping.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let _ends = pipe.map(|end| OwnedFd::from_raw_fd(end));
            assert_eq!(libc::vmsplice(pipe[1], &raw const vector, 1, 0), self.length.cast_signed());
            let n = libc::splice(pipe[0], std::ptr::null_mut(), fd(socket), std::ptr::null_mut(), self.length, 0);
            assert_eq!(n, self.length.cast_signed());
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.place.cast(), self.length) };
    }
}

/// Bytes that the peer's TCP has not acknowledged.
fn unacknowledged(socket: &TcpStream) -> i32 {
    let mut n = 0;
    // SAFETY: the request writes one integer.
    assert_eq!(unsafe { libc::ioctl(fd(socket), libc::TIOCOUTQ, &raw mut n) }, 0);
    n
}

/// The server reads late. Its TCP has acknowledged the harmless bytes, so whatever filter there is has seen them; then they
/// change.
fn changed(name: &str, send: impl Fn(&Pages, &TcpStream)) {
    if harness::skip_pages(name) {
        return;
    }
    let (good, evil) = texts();
    walls(name, Off::Succeeds, &json!({ "wait": true }), &[], |wall| {
        for (end, address) in [(End::A, "10.77.0.2"), (End::B, "127.0.0.1"), (End::B, "10.77.0.2")] {
            let socket = wall.veth.run(end, || TcpStream::connect((address, PORT)).unwrap());
            let pages = Pages::of(&good);
            send(&pages, &socket);
            if wall.enforcer.is_none() {
                eventually("acknowledged", || unacknowledged(&socket) == 0);
            }
            pages.file.write_all_at(&evil, 0).unwrap();
            std::mem::forget((pages, socket)); // until the server has read them
        }
        wall.said("shared_pages");
        wall.go_on();
        wall.denied();
        if wall.enforcer.is_none() {
            eventually("all three", || wall.got().iter().filter(|got| got.evil).count() == 3);
        }
    });
}

#[test]
fn pages_changed_after_sendfile() {
    changed("sendfile", Pages::send);
}

#[test]
fn pages_changed_after_vmsplice() {
    changed("vmsplice", Pages::splice);
}

/// MSG_ZEROCOPY pins the caller's pages too, but whoever delivers them on the same machine copies them first: the server
/// reads what the filter saw.
#[test]
fn pages_changed_after_msg_zerocopy() {
    const SO_ZEROCOPY: i32 = 60;
    let (good, evil) = texts();
    walls("zerocopy", Off::StackRefuses, &json!({ "wait": true }), &[], |wall| {
        for (end, address) in [(End::A, "10.77.0.2"), (End::B, "127.0.0.1")] {
            let socket = wall.veth.run(end, || TcpStream::connect((address, PORT)).unwrap());
            let mut bytes = good.clone();
            let on = 1_i32;
            // SAFETY: the option's value and the bytes are valid for their lengths.
            unsafe {
                let value = (&raw const on).cast();
                assert_eq!(libc::setsockopt(fd(&socket), libc::SOL_SOCKET, SO_ZEROCOPY, value, 4), 0);
                let n = libc::send(fd(&socket), bytes.as_ptr().cast(), bytes.len(), libc::MSG_ZEROCOPY);
                assert_eq!(n, bytes.len().cast_signed());
            }
            eventually("acknowledged", || unacknowledged(&socket) == 0);
            bytes.copy_from_slice(&evil);
            std::mem::forget((bytes, socket));
        }
        wall.go_on();
        eventually("both are read", || wall.got().iter().filter(|got| got.bytes == good.len()).count() == 2);
    });
}

/// What send() copied is frozen, however long; and a call that is sent by file is refused over each way to the server.
#[test]
fn only_pages_that_can_be_written_are_refused() {
    if harness::skip_pages("shared_pages") {
        return;
    }
    let field = Field::new("pages");
    let pages = Pages::of(&texts().0);
    for (end, address) in [(End::A, "10.77.0.2"), (End::B, "127.0.0.1"), (End::B, "::1")] {
        for send in [Pages::send, Pages::splice] {
            let before = field.enforcer().events().iter().filter(|e| e["reason"] == "shared_pages").count();
            let socket = field.veth.run(end, || TcpStream::connect((address, PORT)).unwrap());
            send(&pages, &socket);
            field
                .enforcer()
                .process_lines(|lines| lines.iter().filter(|l| l.contains("shared_pages")).count() > before);
        }
    }
    let mut socket = field.veth.run(End::A, || TcpStream::connect(("10.77.0.2", PORT)).unwrap());
    socket.write_all(&conversation(&"copied".repeat(2000))).unwrap();
    field.seen("copiedcopiedcopi...(12000)");
    field.unharmed();
}

/// Receive offload merges segments into one: the mark of pages that can still be written must survive it.
#[test]
fn merged_segments_keep_the_mark_of_shared_pages() {
    if harness::skip_pages("shared_pages_merged") {
        return;
    }
    let field = Field::new("merged");
    for (end, device, features) in
        [(End::A, "pga0", ["tso", "off", "gso", "off"]), (End::B, "pgb0", ["gro", "on", "rx", "on"])]
    {
        let mut ethtool = std::process::Command::new("ethtool");
        ethtool.arg("-K").arg(device).args(features);
        field.veth.enter(end, &mut ethtool);
        assert!(ethtool.status().unwrap().success());
    }
    let pages = Pages::of(&conversation(&"shAred".repeat(20_000)));
    for round in 1..=5 {
        let socket = field.veth.run(End::A, || TcpStream::connect(("10.77.0.2", PORT)).unwrap());
        pages.send(&socket);
        field.enforcer().process_lines(|lines| lines.iter().filter(|l| l.contains("shared_pages")).count() == round);
    }
    field.unharmed();
}

#[test]
fn audit_mode_cuts_nothing() {
    if harness::skip("audit") {
        return;
    }
    let field = Field::under("audit", &crate::field::POLICY.replace("default =", "mode = \"audit\"\ndefault ="));
    let pages = Pages::of(&conversation("by-file-A"));
    let socket = field.veth.run(End::A, || TcpStream::connect(("10.77.0.2", PORT)).unwrap());
    pages.send(&socket);
    if harness::pages_can_be_told() {
        let audited = |e: &serde_json::Value| e["reason"] == "shared_pages" && e["verdict"] == "audit-deny";
        field.enforcer().wait_for("shared", audited);
    }
    field.seen("by-file-A");
    field.stop();
}

/// A client in the cgroup of an egress policy is a local one too.
#[test]
fn a_protected_client_that_sends_by_file() {
    if harness::skip_pages("egress_pages") {
        return;
    }
    let (good, _) = texts();
    let policy = crate::field::POLICY.replace("default =", "direction = \"egress\"\ndefault =");
    let wall = Wall::new("egress", false, &json!({}), &[]);
    let cgroup = harness::Cgroup::new("egress-client");
    let enforcer = harness::Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], &policy, &[]);
    let script = "import os, socket, sys, time\ns = socket.create_connection(('10.77.0.2', 50051))\n\
        f = os.memfd_create('pages')\nos.write(f, bytes.fromhex(sys.argv[1]))\nprint(os.sendfile(s.fileno(), f, 0, 1 << 16))\n\
        time.sleep(60)";
    let mut command = std::process::Command::new("python3");
    let hex: String = good.iter().map(|byte| format!("{byte:02x}")).collect();
    command.args(["-u", "-c", script, &hex]);
    harness::Place { cgroup: Some(&cgroup), net: Some((&wall.veth, End::A)) }.enter(&mut command);
    let client = harness::process::Watched::start(command);
    client.wait_for("sent", |lines| lines.iter().any(|l| *l == good.len().to_string()).then_some(()));
    enforcer.wait_for("shared pages", |e| e["reason"] == "shared_pages" && e["verdict"] == "deny");
    assert!(wall.got().iter().all(|got| got.bytes == 0), "{:?}", wall.got());
    assert!(enforcer.stop().success());
}
