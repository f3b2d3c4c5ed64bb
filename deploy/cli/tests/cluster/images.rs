//! The images of the mesh and its demo, packed from the programs of this build.

use std::{path::Path, process::Command};

use anyhow::Context;
use weir::local::programs;
use weir_images::{Image, mesh::RECIPES};

/// Packs them; `scratch` takes copies of the programs without what only a debugger reads, a third of the size.
pub(crate) fn pack(scratch: &Path) -> anyhow::Result<Vec<Image>> {
    let programs = programs::locate()?;
    RECIPES
        .iter()
        .map(|recipe| {
            let built = programs
                .get(recipe.name)
                .with_context(|| format!("{} is not built", recipe.name))?;
            let stripped = scratch.join(recipe.name);
            let strip = Command::new("strip").arg("-o").arg(&stripped).arg(built).status();
            let program = match strip {
                Ok(status) if status.success() => &stripped,
                _ => built,
            };
            recipe.pack(program)
        })
        .collect()
}
