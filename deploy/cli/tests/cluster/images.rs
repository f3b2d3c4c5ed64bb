//! The images of the mesh and its demo, packed from the programs of this build.

use std::{path::Path, process::Command};

use anyhow::Context;
use weir::local::programs;
use weir_images::Image;

/// The version that the manifests name.
const TAG: &str = env!("CARGO_PKG_VERSION");
/// Each program, the tag of its image, and the user that it runs as.
const IMAGES: [(&str, &str, &str); 4] = [
    ("weir-controller", TAG, "65532:65532"),
    ("weir-proxy", TAG, "1500:1500"),
    ("weir-init", TAG, "0:0"),
    ("weir-bookstore", "latest", "65532:65532"),
];

/// Packs them; `scratch` takes copies of the programs without what only a debugger reads, a third of the size.
pub(crate) fn pack(scratch: &Path) -> anyhow::Result<Vec<Image>> {
    let programs = programs::locate()?;
    IMAGES
        .iter()
        .map(|(name, tag, user)| {
            let built = programs
                .get(*name)
                .with_context(|| format!("{name} is not built"))?;
            let stripped = scratch.join(name);
            let strip = Command::new("strip").arg("-o").arg(&stripped).arg(built).status();
            let program = match strip {
                Ok(status) if status.success() => &stripped,
                _ => built,
            };
            let place = format!("/usr/local/bin/{name}");
            let image = Image::new(format!("{name}:{tag}"))
                .user(user)
                .entrypoint(&[&place]);
            image.program(program, &place)
        })
        .collect()
}
