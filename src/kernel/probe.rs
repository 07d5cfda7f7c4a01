//! What this kernel really offers.
