//! The mesh in a real cluster: installed with `weir install`, its pods injected by the API server's call of the webhook,
//! run by a kubelet, reached through kube-proxy.
//!
//! One cluster serves all tests: a node that is started for them ([`weir_cluster::Node`]), or the cluster that
//! KUBECONFIG names when WEIR_TEST_CLUSTER=1 says that it may be used. Where the machine cannot run a node, the tests
//! are reported as ignored, with the reason; with `WEIR_NO_SKIP=1` they fail.

mod basics;
mod bookstore;
mod cases;
mod images;
mod scene;
mod world;

use std::{env, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use tokio::{
    runtime::{Handle, Runtime},
    time::timeout,
};
use weir::local::programs;
use weir_testbed::{EnterError, Sandbox};
use world::{Mode, World};

/// What a test comes to.
pub(crate) type Outcome = anyhow::Result<()>;

/// The longest that any test may take.
const LIMIT: Duration = Duration::from_secs(240);
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
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    if let Some(kubeconfig) = given() {
        return run(async move || World::of(&kubeconfig).await);
    }
    let found = weir_cluster::programs::find(weir_cluster::programs::NODE);
    let entered = found.and_then(|found| match Sandbox::enter_as_root() {
        Ok(sandbox) => Ok(Ok((sandbox, found))),
        Err(error) if error.is_forbidden() => Err(error.to_string()),
        Err(error) => Ok(Err(error)),
    });
    match entered {
        Ok(Ok((sandbox, found))) => run(async move || World::start(&sandbox, &found).await),
        Ok(Err(error)) => failed(&EnterError::into(error)),
        Err(reason) => libtest_mimic::run(&Arguments::from_args(), trials(&Err(reason))).exit_code(),
    }
}

/// The kubeconfig of a cluster that the user gives to the tests.
fn given() -> Option<PathBuf> {
    env::var_os("WEIR_TEST_CLUSTER").filter(|value| value == "1")?;
    env::var_os("KUBECONFIG").map(PathBuf::from)
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
    let begun = async {
        let world = Arc::new(start().await?);
        world.install().await?;
        anyhow::Ok(world)
    };
    let world = match runtime.block_on(begun) {
        Ok(world) => world,
        Err(error) => return failed(&error),
    };
    let arguments = Arguments {
        test_threads: Arguments::from_args().test_threads.or(Some(AT_A_TIME)),
        ..Arguments::from_args()
    };
    let ready = Ok((Arc::clone(&world), runtime.handle().clone()));
    let conclusion = libtest_mimic::run(&arguments, trials(&ready));
    drop(ready);
    runtime.block_on(world.end());
    Conclusion::exit_code(&conclusion)
}

/// Where tests run, or why they cannot.
type Ready = Result<(Arc<World>, Handle), String>;

fn trials(ready: &Ready) -> Vec<Trial> {
    let mut tests = Tests {
        ready,
        trials: Vec::new(),
    };
    basics::tests(&mut tests);
    bookstore::tests(&mut tests);
    cases::tests(&mut tests);
    // Those of a mode together, or they wait for each other.
    tests.trials.sort_by_key(|(turn, _)| *turn);
    tests.trials.into_iter().map(|(_, trial)| trial).collect()
}

/// The tests, as they are collected.
pub(crate) struct Tests<'a> {
    ready: &'a Ready,
    trials: Vec<(Turn, Trial)>,
}

/// When a test is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// While policy is enforced.
    Enforcing,
    /// While the mesh is permissive.
    Permissive,
    /// Beside no other.
    Alone,
}

impl Tests<'_> {
    /// Adds a test that runs while the mesh is permissive, beside others.
    pub(crate) fn permissive<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.in_mode(name, Mode::Permissive, test);
    }

    /// Adds a test that runs while the mesh enforces policy, beside others.
    pub(crate) fn enforcing<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.in_mode(name, Mode::Enforcing, test);
    }

    fn in_mode<F>(&mut self, name: &str, mode: Mode, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let turn = match mode {
            Mode::Permissive => Turn::Permissive,
            _ => Turn::Enforcing,
        };
        self.trial(name, turn, async move |world| {
            let _holds = world.mode(mode).await?;
            limited(test(Arc::clone(&world))).await
        });
    }

    /// Adds a test that changes MeshConfig or the control plane: no other runs at the same time.
    pub(crate) fn alone<F>(&mut self, name: &str, test: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.trial(name, Turn::Alone, async move |world| {
            let _alone = world.alone().await;
            limited(test(Arc::clone(&world))).await
        });
    }

    fn trial(
        &mut self,
        name: &str,
        turn: Turn,
        run: impl AsyncFnOnce(Arc<World>) -> Outcome + Send + 'static,
    ) {
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
        self.trials.push((turn, trial));
    }
}

/// A panic or a test without end becomes an error.
async fn limited(test: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    let mut task = tokio::spawn(test);
    match timeout(LIMIT, &mut task).await {
        Ok(ended) => ended?,
        Err(_) => {
            task.abort();
            anyhow::bail!("not done within {LIMIT:?}")
        }
    }
}
