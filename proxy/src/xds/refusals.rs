//! How long to hold back a refusal. There are servers that send again at once what was refused, for ever. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_xds::ResourceType;

/// The first pause, doubled from one repetition to the next.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(8);

/// The last refusal of each type, until something of it is taken again. `None` stands for types that are not known.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    last: BTreeMap<Option<ResourceType>, Last>,
}

#[derive(Debug)]
struct Last {
    reason: String,
    pause: Duration,
}

impl Refusals {
    /// How long to wait before a response is refused for `reason`; `None`: it is taken. What was not refused for the
    /// same reason just before is answered at once.
    pub(super) fn pause(&mut self, kind: Option<ResourceType>, reason: Option<&str>) -> Duration {
        let Some(reason) = reason else {
            self.last.remove(&kind);
            return Duration::ZERO;
        };
        match self.last.get_mut(&kind) {
            Some(last) if last.reason == reason => {
                last.pause = (last.pause * 2).clamp(FIRST, LONGEST);
                last.pause
            }
            _ => {
                let last = Last {
                    reason: reason.to_owned(),
                    pause: Duration::ZERO,
                };
                self.last.insert(kind, last);
                Duration::ZERO
            }
        }
    }
}

/// Refusals that wait to be sent: at most one of each type.
pub(super) struct Held<R>(BTreeMap<Option<ResourceType>, (Instant, R)>);

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R> Held<R> {
    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|(at, _)| *at).min()
    }

    /// Keeps one until it is due.
    pub(super) fn hold(&mut self, until: Instant, kind: Option<ResourceType>, request: R) {
        self.0.insert(kind, (until, request));
    }

    /// Takes the one of a type, which is due before any other answer of that type.
    pub(super) fn of(&mut self, kind: Option<ResourceType>) -> Option<R> {
        self.0.remove(&kind).map(|(_, request)| request)
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<R> {
        let (kind, _) = self.0.iter().find(|(_, (at, _))| *at <= now)?;
        let kind = *kind;
        self.of(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_refused_again_waits() {
        let mut refusals = Refusals::default();
        let kind = Some(ResourceType::Listener);
        let other = Some(ResourceType::Cluster);
        assert_eq!(refusals.pause(kind, Some("a")), Duration::ZERO);
        assert_eq!(refusals.pause(other, Some("a")), Duration::ZERO);
        assert_eq!(refusals.pause(kind, Some("a")), FIRST);
        assert_eq!(refusals.pause(kind, Some("a")), FIRST * 2);
        assert_eq!(refusals.pause(kind, Some("b")), Duration::ZERO);
        assert_eq!(refusals.pause(kind, Some("b")), FIRST);
        assert_eq!(refusals.pause(kind, None), Duration::ZERO);
        assert_eq!(refusals.pause(kind, Some("b")), Duration::ZERO);
        let pauses = (0..100).map(|_| refusals.pause(kind, Some("b")));
        assert_eq!(pauses.max(), Some(LONGEST));
    }

    #[test]
    fn what_is_held_is_given_when_it_is_due() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.hold(start + FIRST * 2, None, "b");
        held.hold(start + FIRST, Some(ResourceType::Route), "a");
        assert_eq!(held.next(), Some(start + FIRST));
        assert_eq!(held.due(start), None);
        assert_eq!(held.due(start + FIRST), Some("a"));
        assert_eq!(held.due(start + FIRST), None);
        assert_eq!(held.of(None), Some("b"));
        assert_eq!(held.next(), None);
    }
}
