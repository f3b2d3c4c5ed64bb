//! `weir demo` as a person or a pipeline runs it: what it prints, who may run it, and what it leaves behind.
//!
//! Where the machine forbids namespaces to somebody, the tests of theirs are reported as ignored, with the reason;
//! with `WEIR_NO_SKIP=1` they fail.

mod envoy;
mod json;
mod leaves_nothing;
mod programs;
mod run;
mod unprivileged;

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// What a test comes to.
pub(crate) type Outcome = anyhow::Result<()>;

/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = weir::local::programs::build()
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    // Each is a whole mesh at work.
    arguments.test_threads.get_or_insert(1);
    let wanted = |name: &str| {
        arguments
            .filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    let mut trials = Vec::new();
    let mut add = |name: &str, needed: fn() -> Result<(), String>, test: fn() -> Outcome| {
        let needed = match arguments.list || !wanted(name) {
            true => Ok(()),
            false => needed(),
        };
        trials.push(trial(name, needed, test));
    };
    add(
        "demo_json::each_line_is_an_object_and_the_exit_code_0",
        run::possible,
        json::holds,
    );
    add(
        "demo_json::a_sidecar_that_fails_is_told_and_the_exit_code_1",
        run::possible,
        json::broken,
    );
    add("envoy::beside_every_pod", envoy::possible, envoy::everywhere);
    add(
        "envoy::beside_weir_proxies_with_state_of_the_world",
        envoy::possible,
        envoy::mixed,
    );
    add(
        "envoy::what_is_none_is_told_before_anything_starts",
        run::possible,
        envoy::wrong,
    );
    add(
        "leaves_nothing::after_kill_9",
        run::possible,
        leaves_nothing::after_kill,
    );
    add(
        "unprivileged::one_user_id_is_enough",
        unprivileged::single_possible,
        unprivileged::single,
    );
    add(
        "unprivileged::subordinate_ids_are_used",
        unprivileged::range_possible,
        unprivileged::range,
    );
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, needed: Result<(), String>, test: fn() -> Outcome) -> Trial {
    match needed {
        Ok(()) => Trial::test(name, move || {
            test().map_err(|error| Failed::from(format!("{error:#}")))
        }),
        Err(reason) => {
            eprintln!("{name} is skipped: {reason}");
            let skip = env::var_os(NO_SKIP).is_none_or(|value| value.is_empty() || value == "0");
            Trial::test(name, || Err(Failed::from(reason))).with_ignored_flag(skip)
        }
    }
}
