//! Applies, removes or prints the rules, and says so.

use std::fs;
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
    let sets: Vec<RuleSet> = families()
        .into_iter()
        .map(|family| rules(redirect, family))
        .collect();
    if args.dry_run {
        sets.iter()
            .for_each(|set| println!("# {}\n{}", set.family, backend::preview(args.backend, set)));
        return ExitCode::SUCCESS;
    }
    let done = if args.cleanup {
        cleanup(args.backend)
    } else {
        apply_and_verify(args, redirect, sets)
    };
    done.map_or_else(|failure| failure, |()| ExitCode::SUCCESS)
}

fn cleanup(choice: Choice) -> Result<(), ExitCode> {
    for backend in Backend::select_all(choice).map_err(not_applied)? {
        for family in families() {
            backend.cleanup(family).map_err(not_applied)?;
            println!("{family}: no rules left ({})", backend.name(family));
        }
    }
    Ok(())
}

fn apply_and_verify(args: &Args, redirect: &Redirect, mut sets: Vec<RuleSet>) -> Result<(), ExitCode> {
    let backend = Backend::select(args.backend).map_err(not_applied)?;
    if !args.verify_only {
        sets = apply(&backend, sets).map_err(not_applied)?;
    }
    if args.no_verify {
        return Ok(());
    }
    for set in &sets {
        let proof = verify(&backend, redirect, set).map_err(|error| fail(VERIFY_FAILED, &error))?;
        println!("{}: {proof}", set.family);
    }
    Ok(())
}

/// Applies the sets and returns those that are in force.
fn apply(backend: &Backend, sets: Vec<RuleSet>) -> Result<Vec<RuleSet>, backend::Error> {
    let mut in_force = Vec::new();
    for set in sets {
        let name = backend.name(set.family);
        match backend.apply(&set) {
            Ok(()) => {
                println!("{}: {} rules in force ({name})", set.family, set.rules.len());
                in_force.push(set);
            }
            // Many kernels have IPv6 without its nat; a pod without an IPv6 address needs neither.
            Err(error) if set.family == Family::V6 && !has_ipv6_address() => {
                eprintln!(
                    "weir-init: {}: not redirected, and no address needs it: {error}",
                    set.family
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(in_force)
}

fn not_applied(error: backend::Error) -> ExitCode {
    fail(APPLY_FAILED, &error)
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

/// Whether an interface has an IPv6 address that others can reach; when in doubt, yes.
fn has_ipv6_address() -> bool {
    const GLOBAL: &str = "00";
    let Ok(table) = fs::read_to_string("/proc/net/if_inet6") else {
        return true;
    };
    table
        .lines()
        .any(|line| line.split_whitespace().nth(3) == Some(GLOBAL))
}
