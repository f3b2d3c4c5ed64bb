//! The images of the mesh: which program is in each, and who runs it.

use std::path::Path;

use crate::Image;

/// The version that the manifests name.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// An image with one program in it, of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Name of the image, and of the program.
    pub name: &'static str,
    /// Its tag.
    pub tag: &'static str,
    /// User and group that it runs as.
    pub user: &'static str,
    /// The most that the program may take, in MiB, where that is promised.
    pub limit: Option<u64>,
}

/// Every image: the mesh's, and the bookstore's.
pub const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "weir-controller",
        tag: TAG,
        user: "65532:65532",
        limit: Some(32),
    },
    Recipe {
        name: "weir-proxy",
        tag: TAG,
        user: "1500:1500",
        limit: Some(16),
    },
    Recipe {
        name: "weir-init",
        tag: TAG,
        user: "0:0",
        limit: Some(4),
    },
    Recipe {
        name: "weir-bookstore",
        tag: "latest",
        user: "65532:65532",
        limit: None,
    },
];

impl Recipe {
    /// The image with this program in it, and the libraries that it is linked with.
    ///
    /// # Errors
    /// When a library is missing.
    pub fn pack(&self, program: &Path) -> anyhow::Result<Image> {
        let place = format!("/usr/local/bin/{}", self.name);
        Image::new(format!("{}:{}", self.name, self.tag))
            .user(self.user)
            .entrypoint(&[&place])
            .program(program, &place)
    }
}
