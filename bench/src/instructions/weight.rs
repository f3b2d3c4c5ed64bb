//! What the program weighs: its memory after a fixed run, and its size.

use std::path::Path;

use super::{
    Figures,
    load::{Client, Kind},
    pair::Pair,
};
use crate::program;

/// Connections of the fixed run.
const CONNECTIONS: u32 = 256;
/// Requests over each.
const REQUESTS: u32 = 40;

/// Measures a pair that serves HTTP/1.1, its connections still open, and the program file.
///
/// # Errors
/// When no request gets through, or the program is not an ELF file.
pub(super) fn measure(weir: &Path) -> anyhow::Result<Figures> {
    let pair = Pair::start(weir, Kind::Http1, 1, false)?;
    let mut client = Client::connect(pair.target, Kind::Http1, CONNECTIONS)?;
    client.send(CONNECTIONS * REQUESTS)?;
    Ok(Figures::from([
        ("resident_kib", pair.resident()? as f64),
        ("program_kib", program::size(weir)? as f64 / 1024.0),
    ]))
}
