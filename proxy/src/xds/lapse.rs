//! When resources with a time to live are gone unless the server prolongs them. Pure; time is passed in.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_xds::ResourceType;

type Name = (ResourceType, Arc<str>);

/// The end of each life, for those that have one.
#[derive(Debug, Default)]
pub(super) struct Lapses {
    of: HashMap<Name, Instant>,
    by_time: BTreeSet<(Instant, Name)>,
}

impl Lapses {
    /// Notes when a resource is gone; `None`: not by itself.
    pub(super) fn set(&mut self, kind: ResourceType, name: &str, at: Option<Instant>) {
        let name: Name = (kind, name.into());
        let last = match at {
            Some(at) => self.of.insert(name.clone(), at),
            None => self.of.remove(&name),
        };
        if let Some(last) = last {
            self.by_time.remove(&(last, name.clone()));
        }
        if let Some(at) = at {
            self.by_time.insert((at, name));
        }
    }

    /// When the next one is gone.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that is over.
    pub(super) fn over(&mut self, now: Instant) -> Option<Name> {
        if self.next()? > now {
            return None;
        }
        let (_, name) = self.by_time.pop_first()?;
        self.of.remove(&name);
        Some(name)
    }
}

/// When a time to live ends that begins now; `None`: never.
///
/// # Errors
/// When it is not a length of time.
pub(super) fn end(ttl: Option<&prost_types::Duration>, now: Instant) -> Result<Option<Instant>, String> {
    let Some(ttl) = ttl else {
        return Ok(None);
    };
    match Duration::try_from(*ttl) {
        Ok(ttl) if !ttl.is_zero() => Ok(now.checked_add(ttl)),
        _ => Err("ttl: must be longer than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ResourceType = ResourceType::Endpoints;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_word_on_a_life_counts() {
        let (mut lapses, start) = (Lapses::default(), Instant::now());
        lapses.set(KIND, "a", Some(start + SECOND));
        lapses.set(KIND, "b", Some(start + SECOND * 2));
        lapses.set(KIND, "c", Some(start + SECOND * 2));
        assert_eq!(lapses.next(), Some(start + SECOND));
        assert_eq!(lapses.over(start), None);
        lapses.set(KIND, "a", Some(start + SECOND * 3));
        lapses.set(KIND, "b", None);
        assert_eq!(lapses.over(start + SECOND * 2), Some((KIND, "c".into())));
        assert_eq!(lapses.over(start + SECOND * 2), None);
        assert_eq!(lapses.over(start + SECOND * 3), Some((KIND, "a".into())));
        assert_eq!(lapses.next(), None);
        assert!(lapses.of.is_empty());
    }

    #[test]
    fn only_a_length_of_time_is_a_life() {
        let now = Instant::now();
        let of = |seconds, nanos| end(Some(&prost_types::Duration { seconds, nanos }), now);
        assert_eq!(end(None, now), Ok(None));
        assert_eq!(of(1, 0), Ok(Some(now + SECOND)));
        assert_eq!(of(i64::MAX, 0), Ok(None), "as good as never");
        for wrong in [of(0, 0), of(-1, 0), of(0, -1)] {
            assert!(wrong.is_err());
        }
    }
}
