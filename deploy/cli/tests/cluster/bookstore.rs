//! The bookstore.

use crate::Tests;

/// Adds the tests.
pub(crate) fn tests(_tests: &mut Tests<'_>) {}
