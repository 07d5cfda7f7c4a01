//! A plain listener in a cgroup behind a veth pair, with the enforcer or without: each attack is seen to succeed first.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::harness::{self, Cgroup, Protocg, Veth};
use protocg_peers::raw::Raw;
use serde_json::Value;

use crate::field::{Off, POLICY, PORT, eventually};

/// The same attack without the enforcer and with it: the first time it ends as `off` says, the second it fails.
pub fn walls(name: &str, off: Off, options: &Value, sysctls: &[(&str, &str)], act: impl Fn(&Wall)) {
    if harness::skip(name) {
        return;
    }
    for enforced in [false, true] {
        let wall = Wall::new(name, enforced, options, sysctls);
        act(&wall);
        wall.ends(off);
    }
}

/// What the listener has got on one connection.
#[derive(Debug, Clone, Default)]
pub struct Got {
    pub bytes: usize,
    pub evil: bool,
    pub mptcp: bool,
    pub sha256: String,
}

pub struct Wall {
    pub enforcer: Option<Protocg>,
    pub listener: Watched,
    pub cgroup: Cgroup,
    pub veth: Veth,
}

impl Wall {
    /// The listener is started with these options (see listener.py), in a namespace with these sysctls.
    pub fn new(name: &str, enforced: bool, options: &Value, sysctls: &[(&str, &str)]) -> Self {
        let cgroup = Cgroup::new(name);
        let veth = Veth::new();
        for (key, value) in sysctls {
            for end in [End::A, End::B] {
                veth.run(end, || std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap());
            }
        }
        let enforcer =
            enforced.then(|| Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], POLICY, &["--drain", "0.2"]));
        let listener = Self::listener(&Place { cgroup: Some(&cgroup), net: Some((&veth, End::B)) }, options);
        Self { enforcer, listener, cgroup, veth }
    }

    /// The listener's process.
    pub fn listener(place: &Place, options: &Value) -> Watched {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tcp/listener.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(options.to_string());
        place.enter(&mut command);
        let listener = Watched::start(command);
        listener.wait_for("listening", |lines| lines.iter().any(|l| l == "listening").then_some(()));
        listener
    }

    /// Lets a listener that waits accept.
    pub fn go_on(&self) {
        self.listener.signal(nix::sys::signal::Signal::SIGUSR1);
    }

    pub fn client(&self) -> Raw {
        Raw::new(&self.veth, false, PORT)
    }

    /// A client with a stack, connected.
    pub fn connect(&self, protocol: i32) -> TcpStream {
        self.veth.run(End::A, || {
            let stream = socket(protocol);
            let error = connect(&stream);
            assert_eq!(error, 0, "{}", std::io::Error::last_os_error());
            stream
        })
    }

    /// The last that was said of each connection.
    pub fn got(&self) -> Vec<Got> {
        let mut all = BTreeMap::new();
        for line in self.listener.lines() {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let got = Got {
                bytes: line["bytes"].as_u64().unwrap() as usize,
                evil: line["evil"] == true,
                mptcp: line["mptcp"] == true,
                sha256: line["sha256"].as_str().unwrap().to_owned(),
            };
            all.insert(line["connection"].as_u64().unwrap(), got);
        }
        all.into_values().collect()
    }

    /// Waits for a connection that has so many bytes.
    pub fn whole(&self, bytes: usize) -> Got {
        let mut found = None;
        eventually(&format!("{bytes} bytes"), || {
            found = self.got().into_iter().find(|got| got.bytes == bytes);
            found.is_some()
        });
        found.unwrap()
    }

    /// Whether a denied message has got through.
    pub fn breached(&self) -> bool {
        self.got().iter().any(|got| got.evil)
    }

    /// Waits for an event with this cause or reason, if there is an enforcer.
    pub fn said(&self, reason: &str) {
        if let Some(enforcer) = &self.enforcer {
            enforcer.wait_for(reason, |e| e["reason"] == reason || e["cause"] == reason);
        }
    }

    /// Waits for a denial by the rule, if there is an enforcer; else until the denied message is there.
    pub fn denied(&self) {
        match &self.enforcer {
            Some(enforcer) => drop(enforcer.wait_for("a denial", |e| e["verdict"] == "deny")),
            None => eventually("the attack succeeds", || self.breached()),
        }
    }

    /// Without the enforcer, waits until a connection has so many bytes.
    pub fn sent(&self, bytes: usize) {
        if self.enforcer.is_none() {
            self.whole(bytes);
        }
    }

    /// The attack has succeeded without the enforcer, and only then.
    pub fn over(self) {
        self.ends(Off::Succeeds);
    }

    /// The attack is over: it came to what it was to come to.
    pub fn ends(self, off: Off) {
        std::thread::sleep(crate::field::SHORT);
        let succeeds = self.enforcer.is_none() && off == Off::Succeeds;
        assert_eq!(self.breached(), succeeds, "{:#?}", self.listener.lines());
        self.stop();
    }

    /// The enforcer ends, if there is one.
    pub fn stop(mut self) {
        if let Some(enforcer) = self.enforcer.take() {
            assert!(enforcer.stop().success());
        }
    }

    /// A number of `nstat` in the listener's namespace.
    pub fn stat(&self, name: &str) -> u64 {
        harness::net::stat(&self.veth, End::B, name)
    }
}

/// A test that fails shows what the enforcer has counted and said.
impl Drop for Wall {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(enforcer) = &self.enforcer
        {
            println!("{}\n{:#?}", crate::maps::counted(self.cgroup.path()), enforcer.events());
        }
    }
}

/// A socket of IPv4 that is not connected.
pub fn socket(protocol: i32) -> TcpStream {
    // SAFETY: plain system call; the descriptor is new.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        TcpStream::from_raw_fd(fd)
    }
}

/// The listener's address, as the system wants it.
pub fn address() -> libc::sockaddr_in {
    let SocketAddr::V4(to) = SocketAddr::from((Veth::SERVER4, PORT)) else { unreachable!() };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// A socket of IPv4 that listens on the policy's port.
pub fn listener(protocol: i32) -> TcpListener {
    let mut all = address();
    all.sin_addr.s_addr = 0;
    let listener = TcpListener::from(OwnedFd::from(socket(protocol)));
    let fd = crate::field::fd(&listener);
    // SAFETY: plain system calls; the address is a valid structure of its stated size.
    let listens =
        unsafe { libc::bind(fd, (&raw const all).cast(), size_of_val(&all) as u32) == 0 && libc::listen(fd, 8) == 0 };
    assert!(listens, "{}", std::io::Error::last_os_error());
    listener
}

fn connect(stream: &TcpStream) -> i32 {
    let to = address();
    // SAFETY: the address is a valid structure of its stated size.
    unsafe { libc::connect(crate::field::fd(stream), (&raw const to).cast(), size_of_val(&to) as u32) }
}

/// A packet socket that hears only packets longer than so many bytes: all of them would be more than it can keep.
pub fn capture(veth: &Veth, end: End, device: &str, longer: u32) -> OwnedFd {
    let name = std::ffi::CString::new(device).unwrap();
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, longer),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 64),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    veth.run(end, || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: plain system calls; the filter and the address are valid structures of their stated sizes, and the
        // descriptor is new.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let (filter, size) = ((&raw const program).cast(), size_of_val(&program) as u32);
            assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter, size), 0);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
            assert_eq!(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32), 0);
            OwnedFd::from_raw_fd(fd)
        }
    })
}

/// How many packets it has heard.
pub fn captured(capture: &OwnedFd) -> usize {
    let mut buffer = [0_u8; 64];
    // SAFETY: the buffer is valid for its length.
    let next = || unsafe { libc::recv(crate::field::fd(capture), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    std::iter::repeat_with(next).take_while(|n| *n >= 0).count()
}
