//! The scenario from its beginning to its end.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};

use super::{
    Options,
    board::Board,
    controller::{Controller, Start},
    holding::{Holding, Names},
    layout::Layout,
    provider::Provider,
    report::{Churn, Figures, Memory, Serving},
    sidecar::{Counts, Fleet, Sidecar},
    wire,
};
use crate::{pin::Cores, program};

/// How long all sidecars may take to be served.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a change may take.
const LONGEST_CHANGE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Of the time of changes, so much is spent before without any.
const IDLE_PART: u32 = 6;

/// A run under way.
struct Run<'a> {
    options: &'a Options,
    layout: Layout,
    provider: Provider,
    /// Of the pods.
    uids: Vec<String>,
    controller: Controller,
    fleet: Arc<Fleet>,
    /// Whether the first endpoint of each service is ready.
    ready: Vec<bool>,
    /// Of each service.
    subscribers: Vec<usize>,
    next_service: usize,
}

/// Runs everything and returns the figures.
pub(super) async fn run(options: &Options, cores: Cores) -> anyhow::Result<Figures> {
    let directory = tempfile::tempdir()?;
    let layout = options.used();
    eprintln!("writing {} services and {} pods", layout.services, layout.pods);
    let provider = Provider::start(options.provider, directory.path()).await?;
    let uids = provider.add(&layout).await?;
    let started = Instant::now();
    let mut controller = start(options, cores, directory.path(), &provider)?;
    controller.ready().await?;
    let loaded = started.elapsed();
    let alone = controller.usage()?;

    let fleet = Arc::new(Fleet {
        address: controller.xds,
        board: Board::new(layout.services)?,
        bytes: Arc::new(wire::Bytes::default()),
        counts: Counts::default(),
        cuts: watch::Sender::new(0),
        served: watch::Sender::new(0),
        last_failure: watch::Sender::new(None),
    });
    let mut run = Run {
        options,
        ready: vec![true; layout.services],
        subscribers: (0..layout.services)
            .map(|service| layout.users_of(service).1)
            .collect(),
        next_service: 0,
        layout,
        provider,
        uids,
        controller,
        fleet,
    };
    let sidecars = run.sidecars().await?;
    eprintln!("connecting {} sidecars", sidecars.len());
    let arrival = run
        .serve(|| {
            sidecars
                .into_iter()
                .for_each(|sidecar| drop(tokio::spawn(sidecar.run())))
        })
        .await?;
    let connected = run.controller.usage()?;
    let idle = run.idle().await?;
    eprintln!("changing endpoints");
    let churn = run.churn().await?;
    eprintln!("cutting every connection");
    let fleet = run.fleet.clone();
    let storm = run.serve(|| fleet.cuts.send_modify(|cuts| *cuts += 1)).await?;
    let last = run.controller.usage()?;
    eprintln!("killing the controller, and starting another");
    let restart = run.restart().await?;
    let memory = Memory::new(
        alone,
        connected,
        last,
        options.sidecars,
        run.controller.is_bounded(),
    );
    let grown = match options.growth {
        1 => None,
        _ => Some(run.grow().await?),
    };
    Ok(Figures {
        provider: run.provider.kind(),
        loaded_s: loaded.as_secs_f64(),
        memory,
        arrival,
        idle_cpu: idle,
        churn,
        storm,
        restart,
        grown,
    })
}

fn start(
    options: &Options,
    cores: Cores,
    directory: &Path,
    provider: &Provider,
) -> anyhow::Result<Controller> {
    let program = program::of_weir(options.controller.as_deref(), "weir-controller")?;
    Controller::start(Start {
        program: &program,
        arguments: provider.arguments(),
        environment: provider.environment(),
        log: options
            .log
            .clone()
            .unwrap_or_else(|| directory.join("controller.log")),
        cores,
        memory: options.targets.memory_bytes(),
    })
}

impl Run<'_> {
    async fn sidecars(&self) -> anyhow::Result<Vec<Sidecar>> {
        let identities = self.provider.identities().await?;
        let names = Names::new(&self.layout);
        let sidecar = |(pod, uid): (usize, &String)| {
            Ok(Sidecar {
                fleet: self.fleet.clone(),
                uid: uid.clone(),
                tls: identities.sidecar(&self.layout, pod, uid)?,
                holding: Holding::new(&self.layout, &names, self.layout.app_of_pod(pod)),
            })
        };
        self.uids.iter().enumerate().map(sidecar).collect()
    }

    /// Begins something after which every sidecar has to be served anew, and waits until all are.
    async fn serve(&mut self, begin: impl FnOnce()) -> anyhow::Result<Serving> {
        let before = (self.controller.usage()?, self.seen().await?);
        self.fleet.served.send_replace(0);
        let started = Instant::now();
        begin();
        self.all_served(started).await?;
        let took = started.elapsed();
        let after = (self.controller.usage()?, self.seen().await?);
        let last_failure = self.fleet.last_failure.send_replace(None);
        let cpu_s = after.0.cpu - before.0.cpu;
        Ok(Serving::new(took, cpu_s, &after.1.since(&before.1), last_failure))
    }

    /// Kills the controller and starts another one, which knows nothing of the sidecars.
    async fn restart(&mut self) -> anyhow::Result<Serving> {
        let before = self.seen().await?.of_sidecars();
        self.fleet.served.send_replace(0);
        let started = Instant::now();
        self.controller.replace()?;
        self.all_served(started).await?;
        let took = started.elapsed();
        let after = (self.controller.usage()?, self.seen().await?);
        let last_failure = self.fleet.last_failure.send_replace(None);
        Ok(Serving::new(
            took,
            after.0.cpu,
            &after.1.since(&before),
            last_failure,
        ))
    }

    async fn all_served(&mut self, started: Instant) -> anyhow::Result<()> {
        let mut served = self.fleet.served.subscribe();
        let all = self.options.sidecars;
        while *served.borrow_and_update() < all {
            // A look at the process now and then; most of the time this waits for the count.
            let count = served.wait_for(|served| *served >= all);
            if timeout_at(Instant::now() + LOOK_AGAIN, count).await.is_ok() {
                break;
            }
            self.controller.alive()?;
            let failure = self.fleet.last_failure.borrow().clone();
            ensure!(
                started.elapsed() < PATIENCE,
                "{} of {all} sidecars are served after {PATIENCE:?}; the last failure: {failure:?}",
                *self.fleet.served.borrow()
            );
        }
        Ok(())
    }

    /// CPU seconds in a second in which nothing happens.
    async fn idle(&mut self) -> anyhow::Result<f64> {
        let before = self.controller.usage()?;
        let started = Instant::now();
        // Not a wait for something: what is measured is the passing of time.
        let time = Duration::from_secs(self.options.seconds as u64) / IDLE_PART;
        tokio::time::sleep(time).await;
        let after = self.controller.usage()?;
        Ok((after.cpu - before.cpu) / started.elapsed().as_secs_f64())
    }

    /// Changes endpoints at the rate asked for.
    async fn churn(&mut self) -> anyhow::Result<Churn> {
        self.fleet.board.take();
        let before = (self.controller.usage()?, self.seen().await?);
        let started = Instant::now();
        let rate = u32::try_from(self.options.changes)?;
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut changes = 0;
        for _ in 0..self.options.changes * self.options.seconds {
            ticks.tick().await;
            changes += usize::from(self.change().await?);
        }
        let lost = self.fleet.board.settled(LONGEST_CHANGE).await;
        let seconds = started.elapsed().as_secs_f64();
        self.controller.alive()?;
        let after = (self.controller.usage()?, self.seen().await?);
        Ok(Churn::new(
            (changes, lost, seconds),
            after.0.cpu - before.0.cpu,
            &after.1.since(&before.1),
            &self.fleet.board.take(),
        ))
    }

    /// Changes the next service that has subscribers; `false`: its last change is on its way still.
    async fn change(&mut self) -> anyhow::Result<bool> {
        for _ in 0..self.layout.services {
            let service = self.next_service;
            self.next_service = (service + 1) % self.layout.services;
            let subscribers = self.subscribers.get(service).copied().unwrap_or(0);
            let Some(ready) = self.ready.get_mut(service).filter(|_| subscribers > 0) else {
                continue;
            };
            let pods = self.layout.pods_of(self.layout.app_of_service(service)).len();
            let endpoints = if *ready { pods - 1 } else { pods };
            if !self.fleet.board.begin(service, endpoints, subscribers) {
                return Ok(false);
            }
            *ready = !*ready;
            self.provider.change(&self.layout, service, *ready).await?;
            return Ok(true);
        }
        anyhow::bail!("no service has users")
    }

    /// Adds services that nobody uses, and changes endpoints of the others again.
    async fn grow(&mut self) -> anyhow::Result<Churn> {
        let unrelated = self.options.unrelated();
        eprintln!("adding {} services that nobody uses", unrelated.services);
        self.controller.unbind()?;
        self.provider.add(&unrelated).await?;
        // What is written later is read no earlier: once this change has arrived, the controller knows the rest.
        self.change().await?;
        let lost = self.fleet.board.settled(PATIENCE).await;
        ensure!(
            lost == 0,
            "the controller did not take in {} more services in {PATIENCE:?}",
            unrelated.services
        );
        self.churn().await.context("after adding services")
    }

    async fn seen(&self) -> anyhow::Result<Seen> {
        let counts = &self.fleet.counts;
        let bytes = &self.fleet.bytes;
        let refused = self.controller.metric("weir_xds_refused_total").await?;
        let handshakes = self
            .controller
            .metric("weir_xds_tls_handshakes_failed_total")
            .await?;
        Ok(Seen {
            refused: refused + handshakes,
            failures: counts.failures.load(Ordering::Relaxed),
            resources: counts.resources.load(Ordering::Relaxed),
            resent: counts.resent.load(Ordering::Relaxed),
            bytes: bytes.received.load(Ordering::Relaxed) + bytes.sent.load(Ordering::Relaxed),
        })
    }
}

/// Counts so far.
pub(super) struct Seen {
    pub(super) refused: f64,
    pub(super) failures: u64,
    pub(super) resources: u64,
    pub(super) resent: u64,
    pub(super) bytes: u64,
}

impl Seen {
    /// Without what a controller counted that is no more.
    fn of_sidecars(self) -> Self {
        Self { refused: 0.0, ..self }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            refused: self.refused - before.refused,
            failures: self.failures - before.failures,
            resources: self.resources - before.resources,
            resent: self.resent - before.resent,
            bytes: self.bytes - before.bytes,
        }
    }
}
