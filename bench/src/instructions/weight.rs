//! What the program weighs: its memory after a fixed run, and its size.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use super::{
    Figures,
    load::{Client, Kind},
    pair::Pair,
};

/// Connections of the fixed run.
const CONNECTIONS: u32 = 256;
/// Requests over each.
const REQUESTS: u32 = 40;

/// Measures a pair that serves HTTP/1.1, its connections still open, and the program file.
///
/// # Errors
/// When no request gets through, or the program is not an ELF file.
pub(super) fn measure(weir: &Path) -> anyhow::Result<Figures> {
    let pair = Pair::start(weir, Kind::Http1, false)?;
    let mut client = Client::connect(pair.target, Kind::Http1, CONNECTIONS)?;
    client.send(CONNECTIONS * REQUESTS)?;
    let program = fs::read(weir).with_context(|| format!("cannot read {}", weir.display()))?;
    Ok(Figures::from([
        ("resident_kib", pair.resident()? as f64),
        ("program_kib", loaded(&program)? as f64 / 1024.0),
    ]))
}

/// Bytes of a program that are loaded: its size without what only a debugger reads. `man 5 elf` has the format.
fn loaded(program: &[u8]) -> anyhow::Result<u64> {
    const LOAD: u64 = 1;
    ensure!(
        program.starts_with(b"\x7fELF\x02\x01"),
        "the program is not a 64-bit little-endian ELF file"
    );
    let headers = number(program, 32, 8)?;
    let (size, count) = (number(program, 54, 2)?, number(program, 56, 2)?);
    let mut loaded = 0_u64;
    for index in 0..count {
        let header = usize::try_from(headers.saturating_add(index * size))?;
        if number(program, header, 4)? == LOAD {
            let size = number(program, header.saturating_add(32), 8)?;
            loaded = loaded.saturating_add(size);
        }
    }
    ensure!(loaded > 0, "the program has nothing to load");
    Ok(loaded)
}

fn number(program: &[u8], at: usize, length: usize) -> anyhow::Result<u64> {
    let bytes = program.get(at..).and_then(|rest| rest.get(..length));
    let bytes = bytes.context("the program file ends too early")?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_program_is_what_is_loaded_of_it() {
        let path = std::env::current_exe().unwrap();
        let file = fs::read(path).unwrap();
        let size = loaded(&file).unwrap();
        assert!(size > 100_000 && size < file.len() as u64, "{size}");
        assert!(loaded(&file[..64]).is_err());
        assert!(loaded(b"#!/bin/sh").is_err());
    }
}
