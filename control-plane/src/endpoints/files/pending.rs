//! Files that changed and wait to be read.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};

/// How long nothing must have happened to a file that may not be whole.
const QUIET: Duration = Duration::from_millis(20);
/// A file that is written without pause is read all the same.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// Events that are taken in before files are read.
const AT_ONCE: usize = 4096;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Whoever wrote these files is done.
    Whole(Vec<PathBuf>),
    /// Something happens to these.
    Changed(Vec<PathBuf>),
    /// Events were lost, or there is no telling what changed.
    Anything,
    /// The provider is gone.
    Stop,
}

impl Event {
    /// `None`: nothing that matters.
    pub(super) fn of(event: notify::Result<notify::Event>) -> Option<Self> {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            _ => return Some(Self::Anything),
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Self::Whole(event.paths)),
            // Both halves of it come on their own too.
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
            _ => Some(Self::Changed(event.paths)),
        }
    }
}

/// Files and when each of them is to be read.
#[derive(Debug, Default)]
pub(super) struct Pending {
    files: HashMap<PathBuf, Wait>,
    /// Everything is to be looked at.
    anything: bool,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    first: Instant,
    due: Instant,
}

impl Pending {
    /// Waits for events until the first file is due, at most `until`, and takes in all that are there. `None`: stop.
    pub(super) fn wait(&mut self, events: &Receiver<Event>, until: Instant) -> Option<()> {
        let first = self.files.values().map(|wait| wait.due).min();
        let until = first.map_or(until, |first| first.min(until));
        let mut next = match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Some(()),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        for _ in 0..AT_ONCE {
            self.take(next, Instant::now())?;
            match events.try_recv() {
                Ok(event) => next = event,
                Err(_) => return Some(()),
            }
        }
        self.take(next, Instant::now())
    }

    fn take(&mut self, event: Event, now: Instant) -> Option<()> {
        match event {
            Event::Whole(paths) => paths.into_iter().for_each(|path| {
                let wait = Wait { first: now, due: now };
                self.files.insert(path, wait);
            }),
            Event::Changed(paths) => paths.iter().for_each(|path| self.hold(path, now)),
            Event::Anything => self.anything = true,
            Event::Stop => return None,
        }
        Some(())
    }

    /// The file is to be read when it has been left alone.
    fn hold(&mut self, path: &Path, now: Instant) {
        let first = self.files.get(path).map_or(now, |wait| wait.first);
        let due = (now + QUIET).min(first + LONGEST_WAIT);
        self.files.insert(path.to_owned(), Wait { first, due });
    }

    /// The file was not whole after all.
    pub(super) fn again(&mut self, path: &Path) {
        self.hold(path, Instant::now());
    }

    /// Everything is to be looked at.
    pub(super) fn anything(&mut self) {
        self.anything = true;
    }

    /// Whether everything is to be looked at.
    pub(super) fn take_anything(&mut self) -> bool {
        std::mem::take(&mut self.anything)
    }

    /// The files that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PathBuf> {
        self.files
            .extract_if(|_, wait| wait.due <= now)
            .map(|(path, _)| path)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(pending: &mut Pending, at: Instant) -> usize {
        pending.due(at).len()
    }

    #[test]
    fn a_file_is_read_when_it_is_whole() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let changed = || Event::Changed(vec!["a".into()]);
        let whole = || Event::Whole(vec!["a".into()]);
        pending.take(changed(), start);
        assert_eq!(due(&mut pending, start), 0);
        pending.take(whole(), start);
        assert_eq!(due(&mut pending, start), 1);
        assert_eq!(due(&mut pending, start + LONGEST_WAIT), 0);
        // Written anew before it was read.
        pending.take(whole(), start);
        pending.take(changed(), start);
        assert_eq!(due(&mut pending, start), 0);
        assert_eq!(due(&mut pending, start + QUIET), 1);
    }

    #[test]
    fn a_file_that_is_written_without_pause_is_read_all_the_same() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let mut now = start;
        while due(&mut pending, now) == 0 {
            pending.take(Event::Changed(vec!["a".into()]), now);
            now += QUIET / 2;
            assert!(now <= start + LONGEST_WAIT + QUIET);
        }
    }
}
