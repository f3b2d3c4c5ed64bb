//! What the mesh promises in a cluster, one file a theme.

use crate::Tests;

/// Adds all cases.
pub(crate) fn tests(_tests: &mut Tests<'_>) {}
