//! Other programs on the machine: waited for before a measurement, and reported with it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};

/// Per cent of a core that others may take.
pub(crate) const ALLOWED: f64 = 10.0;
/// How long is looked before one says that it is quiet.
const LOOK: Duration = Duration::from_millis(200);
/// `/proc/stat` counts in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Waits until others take no more than [`ALLOWED`], but no longer than `patience`.
///
/// # Errors
/// When the system does not say.
pub(crate) fn wait(patience: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut told = false;
    while begin.elapsed() < patience {
        let foreign = Foreign::begin(Duration::ZERO)?;
        thread::sleep(LOOK);
        let percent = foreign.end(Duration::ZERO)?;
        if percent <= ALLOWED {
            return Ok(());
        }
        if !told {
            eprintln!("  waiting: other programs take {percent:.0} % of a core");
            told = true;
        }
    }
    Ok(())
}

/// Watches what others take, from its beginning to its end.
pub(crate) struct Foreign {
    begin: Instant,
    busy: Duration,
    own: Duration,
}

impl Foreign {
    /// Begins; `sidecars` is the CPU time that they have used so far.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn begin(sidecars: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            begin: Instant::now(),
            busy: busy()?,
            own: own()? + sidecars,
        })
    }

    /// Per cent of a core that others have used since the beginning.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn end(self, sidecars: Duration) -> anyhow::Result<f64> {
        let used = busy()?.saturating_sub(self.busy);
        let own = (own()? + sidecars).saturating_sub(self.own);
        let foreign = used.saturating_sub(own);
        Ok(100.0 * foreign.as_secs_f64() / self.begin.elapsed().as_secs_f64())
    }
}

/// CPU time of this process and its threads.
fn own() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

/// CPU time that all cores together were busy, or taken away by the machine underneath.
fn busy() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    ticks(line)
        .map(|ticks| TICK * ticks)
        .context("/proc/stat does not begin with the CPU time")
}

/// All but idle and waiting for disks, of `user nice system idle iowait irq softirq steal`.
fn ticks(line: &str) -> Option<u32> {
    let fields: Vec<u32> = line
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let total: u32 = fields.iter().sum();
    Some(total - fields.get(3)? - fields.get(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_work() {
        assert_eq!(ticks("cpu  10 1 5 1000 50 2 3 4 0 0"), Some(25));
        assert_eq!(ticks("cpu0 10 1 5 1000 50 2 3 4 0 0"), None);
        assert_eq!(ticks("cpu  10 1"), None);
    }

    #[test]
    fn own_work_is_not_foreign() {
        let mut foreign = Foreign::begin(Duration::ZERO).unwrap();
        foreign.own = Duration::ZERO;
        foreign.busy = busy().unwrap();
        assert_eq!(foreign.end(Duration::from_secs(3600)).unwrap(), 0.0);
    }
}
