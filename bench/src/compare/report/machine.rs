//! Where and when it was measured: figures without that are worth little.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// The machine, and the time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Year, month and day, UTC.
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    /// Congestion control of the pods' connections.
    pub(crate) congestion: String,
}

impl Machine {
    /// This one, now, its connections controlled so. What the system does not say is `unknown`.
    pub(crate) fn this(congestion: &str) -> Self {
        let unknown = || "unknown".to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            date: now.map_or_else(|_| unknown(), |now| date(now.as_secs() / 86_400)),
            kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            cpu: cpu(&cpuinfo).unwrap_or_else(unknown),
            cores: cores(),
            congestion: congestion.to_owned(),
        }
    }
}

/// The first core's name, with its generation where that is told: behind a hypervisor, many share one name.
fn cpu(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
    };
    let name = field("model name")?;
    Some(match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name.to_owned(),
    })
}

/// All that are online, not only those that this thread may use.
fn cores() -> usize {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)
}

/// Days since 1970 as a date of the Gregorian calendar, counted from March so that the leap day is a year's last.
fn date(days: u64) -> String {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{of_month:02}", year + era * 400 + next)
}

#[cfg(test)]
mod tests {
    use super::{cpu, date};

    #[test]
    fn a_core_has_a_name_and_a_generation() {
        let told =
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n";
        assert_eq!(cpu(told).unwrap(), "AMD EPYC (family 26, model 2)");
        assert_eq!(cpu("model name : Neoverse\n").unwrap(), "Neoverse");
        assert_eq!(cpu("processor : 0\n"), None);
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_778), "2026-11-21");
    }
}
