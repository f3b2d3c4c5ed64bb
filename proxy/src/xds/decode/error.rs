//! Why a resource is refused, and where in it.

use std::fmt;

/// Why a resource is refused: `lds "inbound": filter_chains[2].filters[0]: <reason>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Innermost first.
    path: Vec<String>,
    reason: String,
}

impl DecodeError {
    /// An error with no place yet.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            reason: reason.into(),
        }
    }

    /// A setting that would be lost.
    pub(super) fn unsupported(field: &str) -> Self {
        Self::new(format!(
            "{field} is not supported, and is too important to leave out"
        ))
    }

    /// Says where it is: a field, or an element such as `filters[0]`. Call from the inside out.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.path.push(place.into());
        self
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in self.path.iter().rev().enumerate() {
            match index {
                0 => {}
                1 if self.path.last().is_some_and(|first| first.contains('"')) => f.write_str(": ")?,
                _ => f.write_str(".")?,
            }
            f.write_str(place)?;
        }
        if !self.path.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Adds the place to an error.
pub(super) trait At<T> {
    /// A field.
    fn at(self, place: &str) -> Result<T, DecodeError>;
    /// An element of a repeated field.
    fn at_index(self, place: &str, index: usize) -> Result<T, DecodeError>;
}

impl<T> At<T> for Result<T, DecodeError> {
    fn at(self, place: &str) -> Result<T, DecodeError> {
        self.map_err(|error| error.at(place))
    }

    fn at_index(self, place: &str, index: usize) -> Result<T, DecodeError> {
        self.map_err(|error| error.at(format!("{place}[{index}]")))
    }
}

/// Decodes each element of a repeated field.
pub(super) fn each<S, T>(
    place: &str,
    items: impl IntoIterator<Item = S>,
    mut decode: impl FnMut(S) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| decode(item).at_index(place, index))
        .collect()
}

/// Refuses the resource when a setting is there that must not be left out.
pub(super) fn refuse<'a>(set: impl IntoIterator<Item = (&'a str, bool)>) -> Result<(), DecodeError> {
    match set.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(DecodeError::unsupported(field)),
        None => Ok(()),
    }
}
