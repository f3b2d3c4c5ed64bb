//! Port lists: parsing `80,443,8000-8100`, and splitting into the groups that `multiport` can hold.

use std::fmt;
use std::str::FromStr;

/// Slots one iptables `multiport` match offers; a single port takes one, a range two.
pub const MULTIPORT_SLOTS: usize = 15;

/// Ports `first` to `last`, both included, `first <= last`, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a port list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number from 1 to 65535, nor two of them joined by `-` or `:`.
    #[error("`{0}` is not a port: write a number from 1 to 65535, or a range such as 8000-8100")]
    Malformed(String),
    /// A range whose end lies before its start.
    #[error("range `{0}` ends before it starts: write the smaller port first")]
    Reversed(String),
}

impl PortRange {
    /// A single port. Port 0 cannot be dialled and yields `None`.
    pub fn single(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    /// The range `first..=last`; `None` when reversed or starting at 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Slots taken in a `multiport` match.
    pub fn slots(self) -> usize {
        if self.first == self.last { 1 } else { 2 }
    }
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let text = text.trim();
        let malformed = || PortError::Malformed(text.to_owned());
        let port = |part: &str| match part.trim().parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(malformed()),
        };
        let Some((first, last)) = text.split_once(['-', ':']) else {
            let port = port(text)?;
            return Self::single(port).ok_or_else(malformed);
        };
        Self::new(port(first)?, port(last)?).ok_or_else(|| PortError::Reversed(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Sorts the ranges and joins those that overlap or touch; the same ports remain.
pub fn merge(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(previous) if range.first <= previous.last.saturating_add(1) => {
                previous.last = previous.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Splits merged ranges, in order, into groups of at most [`MULTIPORT_SLOTS`] slots.
pub fn groups(ranges: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut groups: Vec<Vec<PortRange>> = Vec::new();
    let mut free = 0;
    for range in ranges {
        let slots = range.slots();
        match groups.last_mut() {
            Some(group) if slots <= free => group.push(*range),
            _ => {
                groups.push(vec![*range]);
                free = MULTIPORT_SLOTS;
            }
        }
        free -= slots;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<PortRange, PortError> {
        text.parse()
    }

    #[test]
    fn ports_and_ranges_parse() {
        assert_eq!(
            parse("443"),
            Ok(PortRange {
                first: 443,
                last: 443
            })
        );
        assert_eq!(
            parse(" 8000-8100 "),
            Ok(PortRange {
                first: 8000,
                last: 8100
            })
        );
        assert_eq!(
            parse("8000:8100"),
            Ok(PortRange {
                first: 8000,
                last: 8100
            })
        );
        assert_eq!(parse("2-1"), Err(PortError::Reversed("2-1".to_owned())));
        for bad in ["", "0", "0-5", "65536", "http", "1-", "-1", "1-2-3"] {
            assert_eq!(parse(bad), Err(PortError::Malformed(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn touching_ranges_are_joined() {
        let ranges = ["10-20", "21", "5-12", "65535", "65534-65535"].map(|text| text.parse().unwrap());
        let merged: Vec<String> = merge(ranges.to_vec()).iter().map(PortRange::to_string).collect();
        assert_eq!(merged, ["5-21", "65534-65535"]);
    }

    fn any_range() -> impl Strategy<Value = PortRange> {
        (1..=u16::MAX, prop_oneof![Just(0), 1..50_u16, any::<u16>()]).prop_map(|(first, length)| PortRange {
            first,
            last: first.saturating_add(length),
        })
    }

    proptest! {
        #[test]
        fn groups_cover_exactly_the_ports_asked_for(ranges in prop::collection::vec(any_range(), 0..80)) {
            let groups = groups(&merge(ranges.clone()));
            for group in &groups {
                prop_assert!(group.iter().map(|range| range.slots()).sum::<usize>() <= MULTIPORT_SLOTS);
                prop_assert!(!group.is_empty());
            }
            let marked = |ranges: &mut dyn Iterator<Item = &PortRange>| {
                let mut ports = vec![false; 1 << 16];
                ranges.for_each(|range| ports[usize::from(range.first)..=usize::from(range.last)].fill(true));
                ports
            };
            prop_assert!(marked(&mut ranges.iter()) == marked(&mut groups.iter().flatten()));
        }
    }
}
