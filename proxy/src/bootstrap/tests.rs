//! The forms a bootstrap may have.
