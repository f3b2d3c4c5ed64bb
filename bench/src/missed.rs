//! Targets that were missed.

use anyhow::ensure;

/// Says which ones.
///
/// # Errors
/// With `check`, when there are any.
pub(crate) fn tell(missed: &[String], check: bool) -> anyhow::Result<()> {
    for target in missed {
        eprintln!("missed: {target}");
    }
    ensure!(
        !check || missed.is_empty(),
        "{} targets were missed",
        missed.len()
    );
    Ok(())
}
