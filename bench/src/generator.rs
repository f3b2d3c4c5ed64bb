//! The load generator by itself, to hold it against another one, such as wrk or h2load, on the same server.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::time::{ClockId, clock_gettime};

use crate::{
    application::Application,
    compare::{self, Plan, Scenario},
    pin::{self, Cores},
};

/// What is asked for on the command line.
#[derive(Args)]
pub(crate) struct Serve {
    /// What for: a scenario of the comparison.
    scenario: String,
    /// Where to listen.
    #[arg(default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// What is asked for on the command line.
#[derive(Args)]
pub(crate) struct Load {
    /// A scenario of the comparison.
    scenario: String,
    /// Where its application is.
    #[arg(default_value = "127.0.0.1:8080")]
    target: SocketAddr,
    /// For how long it counts.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// Serves as the application of a comparison does, until the process ends; on a core other than the load's.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn serve(options: &Serve) -> anyhow::Result<()> {
    let scenario = scenario(&options.scenario)?;
    let listener = TcpListener::bind(options.listen);
    let listener = listener.with_context(|| format!("cannot listen on {}", options.listen))?;
    let application = Application::start(listener, scenario.protocol.served(), Cores::choose().proxies)?;
    println!("serving on {}", application.address());
    loop {
        std::thread::park();
    }
}

/// Puts the load of a scenario on a server, and says what it took.
///
/// # Errors
/// When an answer is not what it should be.
pub(crate) fn load(options: &Load) -> anyhow::Result<()> {
    let scenario = scenario(&options.scenario)?;
    ensure!(options.seconds > 0.0, "--seconds must be positive");
    pin::this_thread(Cores::choose().load);
    let marks = Mutex::new(Vec::new());
    let mark = || {
        if let (Ok(mut marks), Ok(used)) = (marks.lock(), clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)) {
            marks.push(Duration::from(used));
        }
    };
    let time = Duration::try_from_secs_f64(options.seconds)?;
    let plan = Plan {
        warm: time / 5,
        time,
        mark: &mark,
    };
    let outcome = compare::put(options.target, scenario, &plan)?;
    let marks = marks.lock().map(|marks| marks.clone()).unwrap_or_default();
    let [before, after] = marks[..] else {
        bail!("the CPU time of this process could not be read");
    };
    let (elapsed, cpu) = (outcome.elapsed.as_secs_f64(), (after - before).as_secs_f64());
    let micros = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{:.0} requests/s, {:.1} MB/s, p50 {:.0} us, p99 {:.0} us; the load took {:.2} us of CPU for each, {:.0} % of a core",
        outcome.count as f64 / elapsed,
        outcome.bytes as f64 / elapsed / 1e6,
        micros(0.5),
        micros(0.99),
        cpu * 1e6 / outcome.count.max(1) as f64,
        100.0 * cpu / elapsed,
    );
    Ok(())
}

fn scenario(name: &str) -> anyhow::Result<&'static Scenario> {
    let chosen = compare::chosen(&[name.to_owned()])?;
    chosen.into_iter().next().context("there is no such scenario")
}
