//! What the start takes, up to the first answer.

use std::path::Path;

use super::{Figures, load::Kind, pair::Pair};

/// Measures a pair for HTTP/1.1, from nothing to its first answer, the handshake between the two included.
///
/// # Errors
/// When no request gets through.
pub(super) fn measure(weir: &Path) -> anyhow::Result<Figures> {
    let mut pair = Pair::start(weir, Kind::Http1, 1, true)?;
    pair.mark("started")?;
    let mut figures = pair.figures(1)?;
    // How often it is asked before it answers is up to the machine.
    figures.remove("syscalls");
    Ok(figures)
}
