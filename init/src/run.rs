//! Applies, removes or prints the rules, and says so.

use std::path::Path;
use std::process::ExitCode;

use weir_init::backend::{self, Backend, Choice};
use weir_init::redirect::Redirect;
use weir_init::rules::{Family, RuleSet, rules};
use weir_init::verify::verify;

use crate::args::Args;

const APPLY_FAILED: u8 = 1;
const USAGE: u8 = 2;
const VERIFY_FAILED: u8 = 3;

/// Complains about the arguments.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("weir-init: {message}");
    ExitCode::from(USAGE)
}

/// Does what `args` ask for with a validated redirect.
pub(crate) fn run(args: &Args, redirect: &Redirect) -> ExitCode {
    if args.cleanup {
        return match cleanup(args.backend) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(APPLY_FAILED, &error),
        };
    }
    let sets: Vec<RuleSet> = families()
        .into_iter()
        .map(|family| rules(redirect, family))
        .collect();
    let backend = match apply(args, &sets) {
        Ok(backend) => backend,
        Err(error) => return fail(APPLY_FAILED, &error),
    };
    if args.dry_run || args.no_verify {
        return ExitCode::SUCCESS;
    }
    for set in &sets {
        match verify(&backend, redirect, set) {
            Ok(proof) => println!("{}: {proof}", set.family),
            Err(error) => return fail(VERIFY_FAILED, &error),
        }
    }
    ExitCode::SUCCESS
}

fn cleanup(choice: Choice) -> Result<(), backend::Error> {
    for backend in Backend::select_all(choice)? {
        for family in families() {
            backend.cleanup(family)?;
            println!("{family}: no rules left ({})", backend.name(family));
        }
    }
    Ok(())
}

fn apply(args: &Args, sets: &[RuleSet]) -> Result<Backend, backend::Error> {
    let backend = Backend::select(args.backend)?;
    for set in sets {
        let (family, name) = (set.family, backend.name(set.family));
        if args.dry_run {
            println!("# {family}, by {name}\n{}", backend.render(set));
        } else if !args.verify_only {
            backend.apply(set)?;
            println!("{family}: {} rules in force ({name})", set.rules.len());
        }
    }
    Ok(backend)
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("weir-init: {error}");
    ExitCode::from(code)
}

/// The families this kernel speaks.
fn families() -> Vec<Family> {
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || ipv6)
        .collect()
}
