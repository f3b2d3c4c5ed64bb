//! Whose turn it is when more waits than a connection takes.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use super::{
    super::state::{Role, State},
    *,
};

/// How much may wait to be written.
const ROOM: usize = 64 * 1024;

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A connection that is full, and so many streams that wait to write so much each.
struct Full {
    state: State,
    driver: Arc<Count>,
    streams: Vec<(u32, Arc<Count>)>,
}

impl Full {
    fn new(streams: u32, wanted: usize) -> Self {
        let mut state = State::new(Role::Client);
        (state.send_window, state.initial_window) = (1 << 30, 1 << 30);
        let driver = Arc::<Count>::default();
        let filling = 1;
        state.open(filling);
        assert!(state.write(filling, &[0; 2 * ROOM], false) < ROOM);
        assert!(state.out.len() <= ROOM, "{}", state.out.len());
        let streams = (0..streams).map(|number| {
            let (id, count) = (2 * number + 3, Arc::<Count>::default());
            state.open(id);
            let waker = Waker::from(count.clone());
            assert!(state.poll_over(id, &Context::from_waker(&waker)).is_pending());
            assert_eq!(state.write(id, &vec![0; wanted], false), 0);
            (id, count)
        });
        let streams = streams.collect();
        state.fail(filling, Error::Closed);
        state.register(&Waker::from(driver.clone()));
        Self {
            state,
            driver,
            streams,
        }
    }

    /// Writes out what waits, and says who is woken.
    fn drain(&mut self) -> Vec<u32> {
        self.state.out.clear();
        self.state.wake_waiting();
        let woken = self.streams.iter().filter(|(_, count)| count.take() > 0);
        woken.map(|(id, _)| *id).collect()
    }
}

#[test]
fn those_are_woken_for_whom_there_is_room() {
    let mut full = Full::new(5, ROOM / 4);
    assert_eq!(full.drain(), [3, 5, 7, 9]);
    assert_eq!(full.drain(), [11]);
    assert!(full.drain().is_empty());
}

#[test]
fn whoever_still_has_too_much_waits_for_the_next_turn() {
    let mut full = Full::new(2, 2 * ROOM);
    assert_eq!(full.drain(), [3]);
    let writer = Waker::from(full.streams[0].1.clone());
    assert!(
        full.state
            .poll_over(3, &Context::from_waker(&writer))
            .is_pending()
    );
    assert!(full.state.write(3, &[0; 2 * ROOM], false) > 0);
    assert_eq!(full.drain(), [5]);
    assert_eq!(full.drain(), [3]);
}

/// They may have given up.
#[test]
fn those_who_write_nothing_keep_no_one_from_it() {
    let mut full = Full::new(3, ROOM);
    full.state.fail(3, Error::Closed);
    assert_eq!(full.streams[0].1.take(), 1);
    assert_eq!(full.drain(), [5], "whose stream has failed takes no one's turn");
    assert!(full.driver.take() > 0, "no one asks again");
    assert_eq!(full.drain(), [7]);
}

/// No one is woken in vain as long as the peer lets nothing through.
#[test]
fn a_closed_window_wakes_no_one() {
    let mut full = Full::new(2, ROOM);
    let window = std::mem::take(&mut full.state.send_window);
    assert!(full.drain().is_empty());
    assert_eq!(full.driver.take(), 0);
    full.state.send_window = window;
    assert_eq!(full.drain(), [3]);
}
