//! Lays out the release program: the functions that run at the start and for requests, named in `order.txt`, lie
//! together. The kernel brings code into memory by 64 KiB, so that what lies between them would be there, too.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf, process::Command};

const ORDER: &str = "order.txt";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ORDER}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    let known = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !known || !is("CARGO_CFG_TARGET_ARCH", "x86_64") || !is("PROFILE", "release") {
        return Ok(());
    }
    let mut script = String::from("SECTIONS { .text.used : {\n");
    for name in fs::read_to_string(ORDER)?.lines() {
        // As the compiler calls the section of a function: `.unlikely` if it is marked as cold, `.llvm` if it was
        // moved between units.
        writeln!(
            script,
            "*(.text.{name} .text.{name}.llvm.* .text.unlikely.{name} .text.unlikely.{name}.llvm.*)"
        )?;
    }
    script.push_str("} } INSERT BEFORE .text;\n");
    let path = PathBuf::from(env::var("OUT_DIR")?).join("order.ld");
    fs::write(&path, script)?;
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", path.display());
    if packs_relocations() {
        // A table that is read whole at the start: 8 KiB instead of 700.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Whether the C library here can unpack them: glibc can since 2.36, and an older one would not start the program.
fn packs_relocations() -> bool {
    let Ok(asked) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else {
        return false;
    };
    let answer = String::from_utf8_lossy(&asked.stdout);
    let version = answer
        .trim()
        .strip_prefix("glibc ")
        .and_then(|version| version.split_once('.'));
    version.is_some_and(|(major, minor)| match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => (2, 36) <= (major, minor),
        _ => false,
    })
}
