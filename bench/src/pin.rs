//! Which core does what.

use std::{num::NonZeroUsize, thread};

use anyhow::anyhow;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// The cores of a run. With fewer than two nothing is pinned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cores {
    /// Load and server.
    pub(crate) load: Option<usize>,
    /// The proxies.
    pub(crate) proxies: Option<usize>,
}

impl Cores {
    /// Load and server on core 0, the proxies on core 1, so that a rate is what one core does for the pair.
    pub(crate) fn choose() -> Self {
        match thread::available_parallelism().map(NonZeroUsize::get) {
            Ok(count) if count >= 2 => Self {
                load: Some(0),
                proxies: Some(1),
            },
            _ => Self::default(),
        }
    }
}

/// Runs `work` on a thread of its own, on one core when given; processes that it starts stay there.
///
/// # Errors
/// When it panics.
pub(crate) fn on<T: Send>(core: Option<usize>, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let run = || {
        this_thread(core);
        work()
    };
    thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow!("a pinned thread panicked"))
}

/// Pins the calling thread; threads and processes that it starts inherit that.
pub(crate) fn this_thread(core: Option<usize>) {
    if let Some(core) = core {
        let mut set = CpuSet::new();
        // Where pinning is not allowed the figures only scatter more.
        let _ = set
            .set(core)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    }
}
