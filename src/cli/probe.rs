//! `protocg probe`: what this kernel offers.

use super::exit::{Exit, Failure};

/// Probes.
pub fn probe(_json: bool) -> Result<Exit, Failure> {
    Ok(Exit::Ok)
}
