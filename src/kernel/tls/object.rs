//! The object of the hooks: the engine again, over the maps of the one that judges packets.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::ProgramAttachType;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

use super::super::load::{self, Loaded, bytes_of, bytes_of_mut};
use super::super::{KernelError, io_error, log, probe, sys};
use crate::abi;
use crate::policy::Tables;
use crate::skel::{TlsSkel, TlsSkelBuilder};

/// The engine's maps that only packets need.
const NOT_HERE: [&str; 18] = [
    "buckets",
    "own_buckets",
    "held",
    "held_small",
    "held_large",
    "free_small",
    "free_large",
    "mend_small",
    "mend_large",
    "shares",
    "strangers",
    "work_scratch",
    "stash",
    "blank_conn",
    "blank_held",
    "berths",
    "free_berths",
    "next_berth",
];

/// Programs that are attached to places in files.
const PLACED: [&str; 6] = ["pt_enter", "pt_return", "pt_other", "pt_bio", "pt_forget", "pt_loaded"];

/// Loads the programs. They run nowhere yet. `many`: those for places are to be attached to many at once.
pub(super) fn load(
    tables: &Tables,
    own: abi::pg_tls_config,
    engine: &Loaded,
    many: bool,
) -> Result<TlsSkel<'static>, KernelError> {
    log::capture();
    let refused = |e: &libbpf_rs::Error| match log::refusal(&log::take()) {
        Some((program, reason)) => KernelError::Refused { program, reason },
        None => KernelError::failed("load the hooks for TLS", io_error(e)),
    };
    // Once an agent: the hooks last as long as it does.
    let object = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = TlsSkelBuilder::default().open(object).map_err(|e| refused(&e))?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        // In plaintext a TLS record is none.
        let config = abi::pg_config { tls: abi::PG_RUNG_NONE, ..tables.config };
        bytes_of_mut(&mut rodata.config).copy_from_slice(bytes_of(std::slice::from_ref(&config)));
        bytes_of_mut(&mut rodata.tls_config).copy_from_slice(bytes_of(std::slice::from_ref(&own)));
    }
    let sets = if tables.rates.is_empty() { 1 } else { abi::PG_BUCKET_SETS };
    let rates = u32::try_from(tables.rates.len()).unwrap_or(u32::MAX).max(1);
    for (map, count) in [(&mut open.maps.tls_buckets, sets), (&mut open.maps.tls_own_buckets, rates)] {
        map.set_max_entries(count).map_err(|e| refused(&e))?;
    }
    for mut program in open.open_object_mut().progs_mut().filter(|_| many) {
        if PLACED.iter().any(|name| program.name() == *name) {
            program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
        }
    }
    let shared = engine.shared.named();
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let engines = engine.tables.iter().find(|(it, _)| *it == name).map(|(_, map)| map);
        let engines =
            engines.or_else(|| shared.iter().find(|(it, _)| *it == name && *it != "rodata").map(|(_, map)| *map));
        match engines {
            Some(engines) => map.reuse_fd(engines.as_fd()).map_err(|e| refused(&e))?,
            None if NOT_HERE.contains(&name.as_str()) => map.set_autocreate(false).map_err(|e| refused(&e))?,
            None => {}
        }
    }
    let skel = open.load().map_err(|e| refused(&e))?;
    log::take();
    Ok(skel)
}

/// The verifier's count of instructions for each program, where the kernel says it; or why they do not load. There is no rule,
/// but the programs read both directions.
pub fn verified(rung: u32) -> Result<Vec<(String, u32)>, KernelError> {
    let mut tables = probe::empty_tables();
    tables.config.responses = 1;
    let engine = load::load(&tables)?;
    let own = abi::pg_tls_config { places: 1, rung, server: 1, reserved: 0 };
    let skel = load(&tables, own, &engine, false)?;
    let counts = skel.object().progs().filter_map(|program| {
        let count = sys::verified_instructions(program.as_fd()).ok()?;
        Some((program.name().to_string_lossy().into_owned(), count))
    });
    Ok(counts.collect())
}
