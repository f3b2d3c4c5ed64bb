//! The mesh's promises, each tried end to end: pods as network namespaces, injected and redirected, their sidecars
//! fed by the controller from a directory of manifests.
//!
//! One mesh serves all tests; each has a namespace of its own in it. Where the machine forbids namespaces, or lacks
//! a program that a test needs, the test is reported as ignored, with the reason; with `WEIR_NO_SKIP=1` it fails.

mod authorize;
mod bad_input;
mod bad_proxy;
mod client;
mod credentials;
mod detect;
mod drain;
mod exposition;
mod grpc;
mod headless;
mod http;
mod ipv6;
mod load;
mod manifest;
mod mariadb;
mod metrics;
mod mtls;
mod on_demand;
mod redirect;
mod restart;
mod rotate;
mod scene;
mod self_call;
mod server;
mod server_first;
mod split;
mod tls;
mod websocket;
mod world;

use std::{env, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use tokio::{
    runtime::Handle,
    task::JoinError,
    time::{error::Elapsed, timeout},
};
use weir::local::programs;
use weir_testbed::Sandbox;
use world::World;

/// What a test comes to.
pub(crate) type Outcome = anyhow::Result<()>;

/// The longest that any test may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Tests at a time. Each mostly waits for others.
const AT_A_TIME: usize = 4;
/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

fn main() -> ExitCode {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    let built = match Sandbox::entered() || Arguments::from_args().list {
        true => Ok(()),
        false => programs::build(),
    };
    if let Err(error) = built {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    if !Sandbox::entered() && Arguments::from_args().list {
        return libtest_mimic::run(&Arguments::from_args(), trials(&Err(String::new()))).exit_code();
    }
    let world = match Sandbox::enter() {
        Ok(sandbox) => return in_sandbox(sandbox),
        Err(error) if error.is_forbidden() => Err(error.to_string()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials(&world)).exit_code()
}

fn in_sandbox(sandbox: Sandbox) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let world = match runtime.block_on(World::start(sandbox)) {
        Ok(world) => Arc::new(world),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    runtime.spawn(world.end_on_signal());
    let arguments = Arguments {
        test_threads: Arguments::from_args().test_threads.or(Some(AT_A_TIME)),
        ..Arguments::from_args()
    };
    let ready = Ok((Arc::clone(&world), runtime.handle().clone()));
    let conclusion = libtest_mimic::run(&arguments, trials(&ready));
    drop(ready);
    if let Some(world) = Arc::into_inner(world) {
        runtime.block_on(world.end());
    }
    Conclusion::exit_code(&conclusion)
}

/// Where tests run, or why they cannot.
type Ready = Result<(Arc<World>, Handle), String>;

fn trials(ready: &Ready) -> Vec<Trial> {
    let mut tests = Tests {
        ready,
        trials: Vec::new(),
    };
    redirect::tests(&mut tests);
    detect::tests(&mut tests);
    server_first::tests(&mut tests);
    mariadb::tests(&mut tests);
    websocket::tests(&mut tests);
    http::tests(&mut tests);
    grpc::tests(&mut tests);
    split::tests(&mut tests);
    authorize::tests(&mut tests);
    self_call::tests(&mut tests);
    ipv6::tests(&mut tests);
    headless::tests(&mut tests);
    mtls::tests(&mut tests);
    rotate::tests(&mut tests);
    drain::tests(&mut tests);
    restart::tests(&mut tests);
    on_demand::tests(&mut tests);
    metrics::tests(&mut tests);
    bad_input::tests(&mut tests);
    bad_proxy::tests(&mut tests);
    tests.trials
}

/// The tests, as they are collected.
pub(crate) struct Tests<'a> {
    ready: &'a Ready,
    trials: Vec<Trial>,
}

impl Tests<'_> {
    /// Adds a test.
    pub(crate) fn add<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.add_if(name, Ok(()), |world, ()| test(world));
    }

    /// Adds a test that needs what may not be there; an error says what, and how to come by it.
    pub(crate) fn add_if<T: Send + 'static, F>(
        &mut self,
        name: &str,
        needed: Result<T, String>,
        test: impl FnOnce(Arc<World>, T) -> F + Send + 'static,
    ) where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let run = |world: Arc<World>, needed| async move {
            let _calm = world.calm.read().await;
            timeout(LIMIT, tokio::spawn(test(Arc::clone(&world), needed))).await
        };
        self.trial(name, needed, run);
    }

    /// Adds a test that disturbs what the others stand on: none runs at the same time.
    pub(crate) fn add_alone<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let run = |world: Arc<World>, ()| async move {
            let _alone = world.calm.write().await;
            timeout(LIMIT, tokio::spawn(test(Arc::clone(&world)))).await
        };
        self.trial(name, Ok(()), run);
    }

    fn trial<T: Send + 'static, F>(
        &mut self,
        name: &str,
        needed: Result<T, String>,
        run: impl FnOnce(Arc<World>, T) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<Result<Outcome, JoinError>, Elapsed>>,
    {
        let trial = match (self.ready.clone(), needed) {
            (Ok((world, runtime)), Ok(needed)) => {
                Trial::test(name, move || match runtime.block_on(run(world, needed)) {
                    Ok(Ok(outcome)) => outcome.map_err(|error| Failed::from(format!("{error:#}"))),
                    Ok(Err(panic)) => Err(Failed::from(panic)),
                    Err(_) => Err(Failed::from(format!("not done within {LIMIT:?}"))),
                })
            }
            (Err(reason), _) | (_, Err(reason)) => {
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
