//! Applies, removes or prints the rules, and says so.

use std::process::ExitCode;

use weir_init::iptables::{self, Program, Saved, Variant, apply_text};
use weir_init::redirect::Redirect;
use weir_init::rules::{Family, RuleSet, rules};

use crate::args::{Args, Backend};

const APPLY_FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Complains about the arguments.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("weir-init: {message}");
    ExitCode::from(USAGE)
}

/// Does what `args` ask for with a validated redirect.
pub(crate) fn run(args: &Args, redirect: &Redirect) -> ExitCode {
    let sets: Vec<RuleSet> = families()
        .into_iter()
        .map(|family| rules(redirect, family))
        .collect();
    if args.dry_run {
        for set in &sets {
            println!("# {}\n{}", set.family, apply_text(set, &Saved::default()));
        }
        return ExitCode::SUCCESS;
    }
    match apply(args, &sets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-init: {error}");
            ExitCode::from(APPLY_FAILED)
        }
    }
}

fn apply(args: &Args, sets: &[RuleSet]) -> Result<(), iptables::Error> {
    let program = program(args.backend)?;
    for set in sets {
        let name = program.restore_name(set.family);
        if args.cleanup {
            let found = program.cleanup(set.family)?;
            println!(
                "{}: {} ({name})",
                set.family,
                if found {
                    "rules removed"
                } else {
                    "nothing to remove"
                }
            );
        } else {
            program.apply(set)?;
            println!("{}: {} rules applied ({name})", set.family, set.rules.len());
        }
    }
    Ok(())
}

fn program(backend: Backend) -> Result<Program, iptables::Error> {
    iptables::detect(match backend {
        Backend::IptablesNft => Some(Variant::Nft),
        Backend::IptablesLegacy => Some(Variant::Legacy),
        Backend::Auto | Backend::Nftables => None,
    })
}

/// The families this kernel speaks.
fn families() -> Vec<Family> {
    let ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || ipv6)
        .collect()
}
