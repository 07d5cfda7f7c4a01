//! What a denied caller gets: the agent's side of it on real sockets, with this test in the engine's place.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags};
use protocg::abi;
use protocg::agent::core::Core;
use protocg::agent::events::Format;
use protocg::agent::output::{Output, Target};
use protocg::agent::{handle, listen, sockets, sweep, wind_up, work};
use protocg::kernel::attach::{self, Asked};
use protocg::kernel::load::{Shared, read};
use protocg::kernel::probe::empty_tables;
use protocg_peers::harness::patience;
use support::Place;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// This process in an enforced cgroup; back home at the end.
struct Stay {
    place: Place,
    home: String,
    _turn: MutexGuard<'static, ()>,
}

impl Stay {
    fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        let place = Place::new();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
        let home = protocg::cgroup::mount_point().unwrap().join(path).join("cgroup.procs");
        fs::write(place.path.join("cgroup.procs"), "0").unwrap();
        Self { place, home: home.to_str().unwrap().to_owned(), _turn: turn }
    }

    /// The agent over programs that look at no port.
    fn core(&self, drain: Duration) -> Rc<Core> {
        let policy = protocg::policy::load(&self.place.policy("search", 1)).unwrap();
        let policy = protocg::policy::Policy { tables: empty_tables(), ..policy };
        let enforcer =
            attach::enforce(vec![self.place.cgroup()], &policy, Asked { shared_pages: true, ..Asked::default() })
                .unwrap();
        let output = Output::start(Target::Stderr);
        Rc::new(Core::new(enforcer.shared, enforcer.attachments, policy, drain, Format::Human, output))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = fs::write(&self.home, "0");
    }
}

/// A denied connection as the engine leaves it.
struct Denied {
    client: TcpStream,
    server: TcpStream,
    event: abi::pg_event,
    conn: RefCell<abi::pg_conn>,
}

impl Denied {
    fn new(core: &Core) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // SETTINGS
        server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        let cookie = sockets::cookie(server.as_fd()).unwrap();
        let mapped = |ip: std::net::IpAddr| match ip {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(ip) => ip.octets(),
        };
        let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        let event = abi::pg_event {
            cookie,
            conn: cookie,
            cgroup: core.tree().into_keys().next().unwrap(),
            type_: abi::PG_EV_DECISION,
            verdict: abi::PG_V_DENY,
            rule: abi::PG_NO_RULE,
            method: abi::PG_NO_METHOD,
            stream: 1,
            message: 1,
            delivered: 1,
            highest: 1,
            local: mapped(local.ip()),
            remote: mapped(remote.ip()),
            local_port: local.port(),
            remote_port: remote.port(),
            ..Default::default()
        };
        // SAFETY: a structure of integers.
        let mut conn: abi::pg_conn = unsafe { std::mem::zeroed() };
        (conn.id, conn.cookie, conn.phase, conn.followed) = (cookie, cookie, abi::PG_P_DEAD, 1);
        (conn.local, conn.remote) = (event.local, event.remote);
        (conn.local_port, conn.remote_port) = (event.local_port, event.remote_port);
        conn.response.state = abi::PG_H2_HEAD;
        let denied = Self { client, server, event, conn: RefCell::new(conn) };
        denied.change(&core.shared, |_| {});
        denied.client.set_read_timeout(Some(patience(Duration::from_secs(5)))).unwrap();
        denied
    }

    fn change(&self, shared: &Shared, change: impl FnOnce(&mut abi::pg_conn)) {
        let mut conn = self.conn.borrow_mut();
        change(&mut conn);
        // SAFETY: a structure of integers.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const *conn).cast(), size_of::<abi::pg_conn>()) };
        shared.conns.update(&self.event.cookie.to_ne_bytes(), bytes, MapFlags::ANY).unwrap();
    }

    fn registered(&self, shared: &Shared) -> Option<abi::pg_reply> {
        read(&shared.replies.lookup(&self.event.cookie.to_ne_bytes(), MapFlags::ANY).unwrap()?)
    }

    /// Does the egress hook's part once: waits for a registered reply and says what became of it.
    async fn hook(&self, core: &Rc<Core>, type_: u32) -> Vec<u8> {
        let reply = loop {
            if let Some(reply) = self.registered(&core.shared).filter(|r| r.done == 0) {
                break reply;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        handle(core, &abi::pg_event { type_, ..self.event });
        while core.is_attended(self.event.cookie)
            && self.registered(&core.shared).is_some_and(|now| now.bytes == reply.bytes)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reply.bytes[..reply.length as usize].to_vec()
    }

    /// Lets every reply pass until the connection has ended; returns all of them in a row.
    async fn hook_all(&self, core: &Rc<Core>) -> Vec<u8> {
        let mut said = Vec::new();
        while core.is_attended(self.event.cookie) {
            tokio::select! {
                piece = self.hook(core, abi::PG_EV_INJECTED) => said.extend(piece),
                () = tokio::time::sleep(patience(Duration::from_millis(20))) => {}
            }
        }
        said
    }

    /// All that the client gets until the connection ends.
    async fn client_reads(&self) -> Vec<u8> {
        let mut client = self.client.try_clone().unwrap();
        let read = move || {
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got);
            got
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

fn story<F: Future<Output = ()>>(drain: Duration, tell: impl FnOnce(Rc<Core>) -> F) {
    let stay = Stay::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let core = stay.core(drain);
        tell(Rc::clone(&core)).await;
        support::eventually("no task is left", || core.attended_count() == 0);
        assert_eq!(core.shared.replies.keys().count(), 0, "no reply stays registered");
    });
}

async fn all_done(core: &Core) {
    while core.attended_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

#[test]
fn a_denied_caller_gets_the_registered_bytes_and_the_connection_ends() {
    need_root!();
    story(Duration::from_secs(5), |core| async move {
        let denied = Denied::new(&core);
        handle(&core, &denied.event);
        handle(&core, &denied.event);
        let started = Instant::now();
        let registered = denied.hook_all(&core).await;
        let got = denied.client_reads().await;
        assert_eq!(got, [&SETTINGS[..], &registered].concat(), "the reply comes once, whole, after the SETTINGS");
        assert!(started.elapsed() < patience(Duration::from_secs(1)));
        let mut server = denied.server.try_clone().unwrap();
        assert!(matches!(server.read(&mut [0]), Ok(0) | Err(_)), "the server's end is dead");
    });
}

#[test]
fn a_reply_that_stood_inside_a_frame_cuts_the_connection() {
    need_root!();
    story(Duration::from_secs(5), |core| async move {
        let denied = Denied::new(&core);
        handle(&core, &denied.event);
        denied.hook(&core, abi::PG_EV_INJECT_FAILED).await;
        let started = Instant::now();
        all_done(&core).await;
        assert!(started.elapsed() < patience(Duration::from_millis(500)));
    });
}

#[test]
fn nothing_is_said_while_the_server_is_inside_a_frame() {
    need_root!();
    story(Duration::from_millis(400), |core| async move {
        let denied = Denied::new(&core);
        denied.change(&core.shared, |conn| conn.response.have = 3);
        handle(&core, &denied.event);
        let started = Instant::now();
        while core.attended_count() > 0 {
            assert!(denied.registered(&core.shared).is_none(), "no reply is registered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(300) && took < patience(Duration::from_millis(1500)), "cut at the bound");
        assert_eq!(denied.client_reads().await, SETTINGS);
    });
}

#[test]
fn delivered_rpcs_finish_before_the_connection_ends() {
    need_root!();
    story(Duration::from_secs(5), |core| async move {
        let denied = Denied::new(&core);
        denied.change(&core.shared, |conn| conn.pending = 1);
        handle(&core, &denied.event);
        let status = denied.hook(&core, abi::PG_EV_INJECTED).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(core.attended_count(), 1, "one RPC has no answer yet");
        (&denied.server).write_all(b"the answer").unwrap();
        denied.change(&core.shared, |conn| conn.pending = 0);
        handle(&core, &abi::pg_event { type_: abi::PG_EV_DRAINED, ..denied.event });
        let end = denied.hook_all(&core).await;
        let got = denied.client_reads().await;
        assert_eq!(got, [&SETTINGS[..], &status, b"the answer", &end].concat());
    });
}

#[test]
fn a_drain_is_bounded() {
    need_root!();
    story(Duration::from_millis(500), |core| async move {
        let denied = Denied::new(&core);
        denied.change(&core.shared, |conn| conn.pending = 1);
        handle(&core, &denied.event);
        let started = Instant::now();
        denied.hook_all(&core).await;
        assert!(started.elapsed() < patience(Duration::from_millis(1500)));
    });
}

#[test]
fn a_connection_that_cannot_be_read_is_reset_at_once() {
    need_root!();
    story(Duration::from_secs(5), |core| async move {
        let denied = Denied::new(&core);
        let event = abi::pg_event { type_: abi::PG_EV_CONNECTION, reason: abi::PG_R_NOT_HTTP2, ..denied.event };
        handle(&core, &event);
        all_done(&core).await;
        let mut client = denied.client.try_clone().unwrap();
        let mut got = [0; 64];
        let result = client.read(&mut got).and_then(|_| client.read(&mut got));
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_dead_connection_whose_event_was_lost_is_cut_within_a_second() {
    need_root!();
    story(Duration::from_secs(5), |core| async move {
        let denied = Denied::new(&core);
        let mut sweeper = sweep::Sweeper::new();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            sweeper.tick(&core);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(denied.client_reads().await, SETTINGS);
        all_done(&core).await;
    });
}

#[test]
fn dead_connections_do_not_outlive_enforcement() {
    need_root!();
    story(Duration::from_secs(60), |core| async move {
        let denied = Denied::new(&core);
        denied.change(&core.shared, |conn| conn.response.have = 3);
        let ring = listen(&core).unwrap();
        handle(&core, &denied.event);
        let stop = tokio::time::sleep(Duration::from_millis(50));
        work(&core, &ring, Default::default(), stop).await;
        wind_up(&core, &ring).await;
        assert_eq!(denied.client_reads().await, SETTINGS);
        denied.change(&core.shared, |conn| conn.followed = 0);
        all_done(&core).await;
    });
}

#[test]
fn five_hundred_denials_in_a_second_are_answered() {
    need_root!();
    story(patience(Duration::from_secs(5)), |core| async move {
        const DENIALS: usize = 500;
        let all: Vec<Denied> = (0..DENIALS).map(|_| Denied::new(&core)).collect();
        let started = Instant::now();
        all.iter().for_each(|denied| handle(&core, &denied.event));
        let mut told = std::collections::HashSet::new();
        let mut answered = None;
        while core.attended_count() > 0 {
            for denied in all.iter().filter(|d| core.is_attended(d.event.cookie)) {
                let Some(reply) = denied.registered(&core.shared) else { continue };
                if told.insert((denied.event.cookie, reply.length)) {
                    handle(&core, &abi::pg_event { type_: abi::PG_EV_INJECTED, ..denied.event });
                }
            }
            if told.len() >= DENIALS {
                answered.get_or_insert(started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answered = answered.unwrap();
        eprintln!("{DENIALS} denials answered in {} ms", answered.as_millis());
        assert!(answered < patience(Duration::from_secs(1)));
        assert_eq!(told.len(), 2 * DENIALS, "a status and a GOAWAY each");
    });
}
