//! Gives back memory that holds nothing but parts of the program.
//!
//! The kernel brings a program into memory as it runs, 64 KiB around each page that is touched, and leaves it there.
//! Most of that is what only the start needs: reading a configuration, making keys. What is needed again comes back
//! from the kernel's cache of files, at the price of a few faults.

use std::{
    ffi::c_void,
    fs::File,
    io::{self, BufRead, BufReader},
    ops::Range,
    ptr::{self, NonNull},
};

use nix::sys::mman::{MmapAdvise, madvise};

/// What the kernel tells of each mapping (proc(5)).
const MAPPINGS: &str = "/proc/self/smaps";

/// A mapping of the process, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    writable: bool,
    /// Octets in memory.
    resident: usize,
    /// Octets, there or swapped out, that are no part of a file, or not any more.
    changed: usize,
}

/// Gives back what of the program's code and constants is in memory, and says how many octets that was. What is used
/// again comes back by itself.
///
/// # Errors
/// When the kernel does not tell what is mapped, or does not take it back.
pub fn give_back() -> io::Result<usize> {
    let mut given = 0;
    for mapping in clean_parts(&program())? {
        take_back(mapping.addresses)?;
        given += mapping.resident;
    }
    Ok(given)
}

/// The parts of the program that are the same as in its file.
fn clean_parts(program: &Range<usize>) -> io::Result<Vec<Mapping>> {
    let mut mappings = mappings(BufReader::new(File::open(MAPPINGS)?), program.end)?;
    mappings.retain(|mapping| mapping.is_clean_part_of(program));
    Ok(mappings)
}

/// From the start of the program to the end of its code.
#[allow(unsafe_code, reason = "the linker says where the program lies by symbols")]
fn program() -> Range<usize> {
    // SAFETY: both are symbols that linkers define; only their addresses are taken.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    (&raw const __executable_start).addr()..(&raw const etext).addr()
}

#[allow(
    unsafe_code,
    reason = "nothing else has the kernel take back a part of the program"
)]
fn take_back(addresses: Range<usize>) -> io::Result<()> {
    let start = ptr::with_exposed_provenance_mut::<c_void>(addresses.start);
    let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is a mapping of the program's own file, which stays mapped as long as the program runs. It can
    // not be written to, and no page of it differs from the file: whoever reads it next gets the same from there.
    unsafe { madvise(start, addresses.len(), MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

impl Mapping {
    /// Whether it is within the program and the same as in its file.
    fn is_clean_part_of(&self, program: &Range<usize>) -> bool {
        let Range { start, end } = self.addresses;
        start >= program.start && start < program.end && end > start && !self.writable && self.changed == 0
    }
}

/// The mappings that the kernel tells of, up to an address: what lies beyond is not asked for.
fn mappings(told: impl BufRead, until: usize) -> io::Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in told.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if let Some(addresses) = addresses(first) {
            if addresses.start >= until {
                break;
            }
            mappings.push(Mapping {
                addresses,
                // What is not private is not only this process's to give back.
                writable: second.contains('w') || !second.ends_with('p'),
                ..Mapping::default()
            });
        } else if let Some(mapping) = mappings.last_mut() {
            let octets = || {
                second
                    .parse::<usize>()
                    .map_or(usize::MAX, |kilo| kilo.saturating_mul(1024))
            };
            match first {
                "Rss:" => mapping.resident = octets(),
                "Anonymous:" | "Swap:" => mapping.changed = mapping.changed.saturating_add(octets()),
                _ => {}
            }
        }
    }
    Ok(mappings)
}

fn addresses(word: &str) -> Option<Range<usize>> {
    let (start, end) = word.split_once('-')?;
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "\
5000-6000 r--p 00000000 fe:00 12 /weir-proxy
Size:                  4 kB
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
6000-9000 r-xp 00001000 fe:00 12 /weir-proxy
Rss:                   8 kB
Anonymous:             4 kB
9000-a000 rw-p 00004000 fe:00 12 /weir-proxy
Rss:                   4 kB
Anonymous:             0 kB
a000-b000 r--p 00005000 fe:00 12 /weir-proxy
Rss:                   0 kB
Anonymous:             0 kB
Swap:                  4 kB
7f00-8000 r--s 00000000 fe:00 13 /shared
Rss:                   4 kB
Anonymous:             0 kB
";

    fn of(told: &str) -> Vec<Mapping> {
        mappings(told.as_bytes(), usize::MAX).unwrap()
    }

    #[test]
    fn only_clean_parts_of_the_program_are_given_back() {
        let told = of(TOLD);
        let clean = |program| told.iter().map(move |mapping| mapping.is_clean_part_of(&program));
        assert_eq!(told.len(), 5);
        assert_eq!(told[0].resident, 4096);
        assert!(clean(0x5000..0xb000).eq([true, false, false, false, false]));
        assert!(clean(0x6000..0xb000).all(|clean| !clean));
        assert_eq!(mappings(TOLD.as_bytes(), 0x9000).unwrap(), told[..2]);
    }

    #[test]
    fn what_cannot_be_read_is_not_clean() {
        let told = of("5000-6000 r--p 0 fe:00 12 /weir-proxy\nAnonymous: many kB\n");
        assert!(!told[0].is_clean_part_of(&(0x5000..0x6000)));
        assert_eq!(of("nonsense\n\n5-\n-5 r--p\nx-y z\n"), []);
    }

    fn resident() -> usize {
        let parts = clean_parts(&program()).unwrap();
        parts.iter().map(|part| part.resident).sum()
    }

    #[test]
    fn the_program_goes_on_in_less_memory() {
        let before = resident();
        assert!(before > 0);
        assert!(give_back().unwrap() > 0);
        let after = resident();
        assert!(after < before, "{after} octets of {before} are left");
    }
}
