//! The mesh against a real API server: `weir install`, two controllers with their own ServiceAccount's rights, webhooks that
//! the API server calls, tokens that it signs. Nothing runs in the pods; tests play the kubelet.
//!
//! One API server serves all tests. Where it, or etcd, is missing, the tests are reported as ignored, with the reason;
//! with `WEIR_NO_SKIP=1` they fail.

mod bad_input;
mod certificates;
mod client;
mod controller;
mod crds;
mod injection;
mod lifecycle;
mod outage;
mod pods;
mod replicas;
mod space;
mod status;
mod validation;
mod watches;
mod world;

use std::{env, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use tokio::{
    runtime::{Handle, Runtime},
    time::timeout,
};
use weir::local::programs;
use weir_testbed::Sandbox;
use world::World;

/// What a test comes to.
pub(crate) type Outcome = anyhow::Result<()>;

/// The longest that any test may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Tests at a time. Each mostly waits for others.
const AT_A_TIME: usize = 4;
/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

fn main() -> ExitCode {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if !Sandbox::entered() {
        let arguments = Arguments::from_args();
        if arguments.list {
            return libtest_mimic::run(&arguments, trials(&Err(String::new()))).exit_code();
        }
        if let Err(error) = programs::build() {
            return failed(&error);
        }
    }
    let found = weir_cluster::programs::find(weir_cluster::programs::API_SERVER);
    match found.and_then(|found| world::etcd(&found).map(|()| found)) {
        // The sandbox sees to it that everything ends with the test, however that ends.
        Ok(found) => match Sandbox::enter() {
            Ok(_) => run(async move || World::start(&found, true).await),
            Err(error) if error.is_forbidden() => run(async move || World::start(&found, false).await),
            Err(error) => failed(&error.into()),
        },
        Err(reason) => libtest_mimic::run(&Arguments::from_args(), trials(&Err(reason))).exit_code(),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("{error:#}");
    ExitCode::FAILURE
}

/// Runs the tests in the world that `start` makes.
fn run(start: impl AsyncFnOnce() -> anyhow::Result<World>) -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let world = match runtime.block_on(start()) {
        Ok(world) => Arc::new(world),
        Err(error) => return failed(&error),
    };
    let arguments = Arguments {
        test_threads: Arguments::from_args().test_threads.or(Some(AT_A_TIME)),
        ..Arguments::from_args()
    };
    let ready = Ok((world, runtime.handle().clone()));
    let conclusion = libtest_mimic::run(&arguments, trials(&ready));
    drop(ready);
    Conclusion::exit_code(&conclusion)
}

/// Where tests run, or why they cannot.
type Ready = Result<(Arc<World>, Handle), String>;

fn trials(ready: &Ready) -> Vec<Trial> {
    let mut tests = Tests {
        ready,
        trials: Vec::new(),
    };
    lifecycle::tests(&mut tests);
    crds::tests(&mut tests);
    injection::tests(&mut tests);
    validation::tests(&mut tests);
    watches::tests(&mut tests);
    certificates::tests(&mut tests);
    status::tests(&mut tests);
    bad_input::tests(&mut tests);
    replicas::tests(&mut tests);
    outage::tests(&mut tests);
    tests.trials
}

/// The tests, as they are collected.
pub(crate) struct Tests<'a> {
    ready: &'a Ready,
    trials: Vec<Trial>,
}

impl Tests<'_> {
    /// Adds a test that runs beside others.
    pub(crate) fn beside<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.trial(name, async move |world| {
            let _nobody_is_alone = world.beside().await;
            limited(&world, test(Arc::clone(&world))).await
        });
    }

    /// Adds a test that disturbs what all share: no other runs at the same time.
    pub(crate) fn alone<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.trial(name, async move |world| {
            let _alone = world.alone().await;
            limited(&world, test(Arc::clone(&world))).await
        });
    }

    fn trial(&mut self, name: &str, run: impl AsyncFnOnce(Arc<World>) -> Outcome + Send + 'static) {
        let trial = match self.ready.clone() {
            Ok((world, runtime)) => Trial::test(name, move || {
                let outcome = runtime.block_on(run(world));
                outcome.map_err(|error| Failed::from(format!("{error:#}")))
            }),
            Err(reason) => {
                if !reason.is_empty() {
                    eprintln!("{name} is skipped: {reason}");
                }
                let skip = env::var_os(NO_SKIP).is_none_or(|value| value.is_empty() || value == "0");
                Trial::test(name, || Err(Failed::from(reason))).with_ignored_flag(skip)
            }
        };
        self.trials.push(trial);
    }
}

/// A panic or a test without end becomes an error, told with the ends of the logs.
async fn limited(world: &World, test: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    let mut task = tokio::spawn(test);
    let outcome = match timeout(LIMIT, &mut task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(panic.into()),
        Err(_) => {
            task.abort();
            Err(anyhow::anyhow!("not done within {LIMIT:?}"))
        }
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(world.evidence().await)),
    }
}
