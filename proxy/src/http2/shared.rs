//! A connection, as all who use it hold it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::state::{Role, State};

/// A connection, for all who use it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    closed: AtomicBool,
    quiet: AtomicBool,
    users: AtomicUsize,
}

impl Shared {
    pub(super) fn new(role: Role) -> Self {
        Self {
            state: Mutex::new(State::new(role)),
            closed: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            users: AtomicUsize::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether it takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the peer does not answer, and may be gone.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(super) fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    pub(super) fn enter(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// One user less. Without any no stream can begin, and the connection ends with the last there is.
    pub(super) fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = self.lock();
            state.going = true;
            state.wake_driver();
        }
    }
}
