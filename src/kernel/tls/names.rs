//! TLS libraries that are known by their functions' names.

use std::fs::File;

use super::code;
use super::elf::{Function, Symbols};
use super::plan::{Hook, Program};
use crate::abi;

/// What a library's functions are called, and what they do.
pub struct Library {
    /// Calls that begin and return.
    calls: &'static [(&'static str, u32)],
    /// What else is done with objects.
    others: &'static [(&'static str, Program, u32)],
    /// A file with these is such a library.
    needed: &'static [&'static str],
    /// Does nothing but fail if its second argument is null, and says so in the library's own way: a call that is denied becomes a
    /// call of it.
    failure: &'static str,
    /// Its code tells where objects have the client's random number.
    random: &'static str,
}

/// OpenSSL, and what has its functions: LibreSSL, BoringSSL.
const OPENSSL: Library = Library {
    calls: &[
        ("SSL_read", abi::PG_FN_READ),
        ("SSL_read_ex", abi::PG_FN_READ_EX),
        ("SSL_peek", abi::PG_FN_PEEK),
        ("SSL_peek_ex", abi::PG_FN_PEEK_EX),
        ("SSL_write", abi::PG_FN_WRITE),
        ("SSL_write_ex", abi::PG_FN_WRITE_EX),
        ("SSL_write_ex2", abi::PG_FN_WRITE_EX2),
        ("SSL_do_handshake", abi::PG_FN_SHAKE),
        ("SSL_accept", abi::PG_FN_SHAKE),
        ("SSL_connect", abi::PG_FN_SHAKE),
        ("SSL_shutdown", abi::PG_FN_SHAKE),
    ],
    others: &[
        ("SSL_read_early_data", Program::Other, 0),
        ("SSL_write_early_data", Program::Other, 0),
        ("SSL_sendfile", Program::Other, 0),
        ("SSL_stateless", Program::Other, 0),
        ("SSL_dup", Program::Other, 0),
        ("SSL_free", Program::Forget, 0),
        ("SSL_clear", Program::Forget, 0),
        ("BIO_f_ssl", Program::Bio, 0),
        ("BIO_new_ssl", Program::Bio, 0),
        ("BIO_new_ssl_connect", Program::Bio, 0),
        ("BIO_new_buffer_ssl_connect", Program::Bio, 0),
    ],
    needed: &["SSL_read", "SSL_write", "SSL_do_handshake", "SSL_free"],
    // The error is in its queue, and the caller finds SSL_ERROR_SSL, whatever the object's last call was.
    failure: "SSL_use_certificate",
    random: "SSL_get_client_random",
};

const GNUTLS: Library = Library {
    calls: &[
        ("gnutls_record_recv", abi::PG_FN_RECV),
        ("gnutls_record_recv_seq", abi::PG_FN_RECV),
        ("gnutls_record_send", abi::PG_FN_SEND),
        ("gnutls_record_send2", abi::PG_FN_SEND2),
        ("gnutls_record_uncork", abi::PG_FN_UNCORK),
        ("gnutls_handshake", abi::PG_FN_SHAKE),
        ("gnutls_reauth", abi::PG_FN_SHAKE),
        ("gnutls_heartbeat_ping", abi::PG_FN_SHAKE),
        ("gnutls_bye", abi::PG_FN_SHAKE),
    ],
    others: &[
        ("gnutls_record_recv_packet", Program::Other, abi::PG_FN_PACKET),
        ("gnutls_record_recv_early_data", Program::Other, 0),
        ("gnutls_record_send_early_data", Program::Other, 0),
        ("gnutls_record_send_range", Program::Other, 0),
        ("gnutls_record_send_file", Program::Other, 0),
        // With the keys that it gives the kernel or the program itself can go on.
        ("gnutls_record_get_state", Program::Other, 0),
        ("gnutls_deinit", Program::Forget, 0),
    ],
    needed: &["gnutls_record_recv", "gnutls_record_send", "gnutls_handshake", "gnutls_deinit"],
    // It returns GNUTLS_E_INVALID_REQUEST before it looks at the object, and as many bits of it as the calls do.
    failure: "gnutls_record_recv_packet",
    random: "gnutls_session_get_random",
};

const LIBRARIES: [&Library; 2] = [&OPENSSL, &GNUTLS];

/// All names that a library may be known by.
pub fn all() -> impl Iterator<Item = &'static str> {
    LIBRARIES.iter().flat_map(|library| {
        let names = library.calls.iter().map(|(name, _)| *name).chain(library.others.iter().map(|(name, ..)| *name));
        names.chain([library.failure, library.random])
    })
}

/// The libraries whose functions a file has.
pub fn find(symbols: &Symbols) -> impl Iterator<Item = &'static Library> {
    let whole = |library: &&Library| {
        let mut needed = library.needed.iter().chain([&library.failure]);
        needed.all(|name| symbols.get(name).is_some())
    };
    LIBRARIES.into_iter().filter(whole)
}

impl Library {
    /// What is to be hooked of it.
    pub fn hooks(&self, symbols: &Symbols) -> Vec<Hook> {
        let failure = symbols.get(self.failure).map(|function| function.address).unwrap_or_default();
        let place = |name, program, function, caught| {
            let found: Function = symbols.get(name)?;
            // OpenSSL and LibreSSL refuse negative lengths, with -1, which node insists on. BoringSSL would read on; it has no SSL_write_ex.
            let enters = function == abi::PG_FN_WRITE && program == Program::Enter;
            let itself = enters && symbols.get("SSL_write_ex").is_some();
            let failure = if itself { 0 } else { failure.wrapping_sub(found.address) };
            Some(Hook { program, function, offset: found.offset, failure, caught })
        };
        let mut hooks = Vec::new();
        for (name, function) in self.calls {
            // Returns first: no call is seen to begin whose end is not.
            hooks.extend(place(name, Program::Return, *function, true));
            hooks.extend(place(name, Program::Enter, *function, false));
        }
        hooks
            .extend(self.others.iter().filter_map(|(name, program, function)| place(name, *program, *function, false)));
        hooks
    }

    /// Where objects have the client's random number, as in `pg_tls_library`; 0: unknown.
    pub fn random_at(&self, file: &File, symbols: &Symbols) -> u32 {
        let getter = symbols.get(self.random).and_then(|function| function.code(file));
        getter.and_then(|code| code::field(&code)).unwrap_or_default()
    }
}
