//! Where the access log's lines go: to stdout, by a thread of their own, since whoever reads that may be slow. Lines
//! wait a moment for others, so that many are written at once.

use std::{
    io::{self, Write},
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// How long a line waits for others.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of lines that wait no longer.
const MANY: usize = 64 * 1024;
/// Bytes of lines that wait at most; beyond, lines are dropped, since no request waits for its line.
const MOST: usize = 1024 * 1024;
/// How long the end of the proxy waits for lines that no one reads.
const PARTING: Duration = Duration::from_secs(1);

/// Where lines go. The thread begins with the first one, and ends when no one has this any more. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Ends>);

#[derive(Debug)]
struct Ends {
    shared: Arc<Shared>,
    begun: Once,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    changed: Condvar,
    pause: Duration,
}

/// Lines on their way.
#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    dropped: u64,
    /// Those that wait do so for others.
    pausing: bool,
    /// Some are being written.
    writing: bool,
    /// Those that wait do not wait for others.
    hurried: bool,
    /// No more of them come.
    ended: bool,
    /// They cannot be written.
    lost: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::pausing(PAUSE)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.lines.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

impl AccessLog {
    fn pausing(pause: Duration) -> Self {
        let shared = Arc::new(Shared {
            lines: Mutex::default(),
            changed: Condvar::new(),
            pause,
        });
        let begun = Once::new();
        Self(Arc::new(Ends { shared, begun }))
    }

    /// Has lines go to `out`, unless they go elsewhere already.
    fn begin(&self, out: impl Write + Send + 'static) {
        let Ends { shared, begun } = &*self.0;
        begun.call_once(|| {
            let writer = shared.clone();
            let begun = thread::Builder::new()
                .name("access-log".to_owned())
                .spawn(move || writer.write_all(out));
            if let Err(error) = begun {
                tracing::warn!(%error, "no thread for the access log; it is not written");
                shared.lines.lock().lost = true;
            }
        });
    }

    /// Writes a line, soon.
    pub(super) fn write(&self, line: &[u8]) {
        self.begin(io::stdout());
        let shared = &self.0.shared;
        let mut lines = shared.lines.lock();
        let before = lines.waiting.len();
        let after = before + line.len();
        if lines.lost {
            return;
        }
        if after > MOST {
            lines.dropped += 1;
            return;
        }
        lines.waiting.extend_from_slice(line);
        if before == 0 || lines.pausing && after >= MANY {
            shared.changed.notify_all();
        }
    }

    /// Waits until what was logged is written, but not for long. Blocks its thread.
    pub fn flush(&self) {
        let shared = &self.0.shared;
        let mut lines = shared.lines.lock();
        lines.hurried = true;
        shared.changed.notify_all();
        let unwritten = |lines: &mut Lines| !lines.lost && (lines.writing || !lines.waiting.is_empty());
        if shared
            .changed
            .wait_while_for(&mut lines, unwritten, PARTING)
            .timed_out()
        {
            tracing::warn!("the last lines of the access log are lost: stdout is read too slowly");
        }
        lines.hurried = false;
    }
}

impl Shared {
    fn write_all(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        while let Some(dropped) = self.take(&mut batch) {
            let written = out.write_all(&batch).and_then(|()| out.flush());
            let mut lines = self.lines.lock();
            lines.writing = false;
            if written.is_err() {
                lines.lost = true;
                lines.waiting = Vec::new();
            }
            drop(lines);
            self.changed.notify_all();
            if let Err(error) = written {
                tracing::warn!(%error, "stdout cannot be written to; the access log ends here");
                return;
            }
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "access log lines were dropped: stdout is read too slowly"
                );
            }
        }
    }

    /// Waits for lines, and takes them. Gives how many were dropped meanwhile; `None`: no more come.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        batch.clear();
        batch.shrink_to(MANY);
        let mut lines = self.lines.lock();
        let none = |lines: &mut Lines| lines.waiting.is_empty() && !lines.ended;
        self.changed.wait_while(&mut lines, none);
        let few = |lines: &mut Lines| lines.waiting.len() < MANY && !lines.hurried && !lines.ended;
        lines.pausing = true;
        self.changed.wait_while_for(&mut lines, few, self.pause);
        lines.pausing = false;
        if lines.waiting.is_empty() {
            return None;
        }
        std::mem::swap(batch, &mut lines.waiting);
        lines.writing = true;
        Some(std::mem::take(&mut lines.dropped))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    pub(in crate::http) const SOON: Duration = Duration::from_secs(10);
    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(3600);

    /// Gives what is written to whoever reads it.
    struct Out(Sender<Vec<u8>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(bytes.to_vec());
            sent.map(|()| bytes.len())
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log, and what is written of it.
    pub(in crate::http) fn log(pause: Duration) -> (AccessLog, Receiver<Vec<u8>>) {
        let (sender, written) = channel();
        let log = AccessLog::pausing(pause);
        log.begin(Out(sender));
        (log, written)
    }

    #[test]
    fn a_line_is_written_soon() {
        let (log, written) = log(PAUSE);
        for line in [b"a\n", b"b\n"] {
            log.write(line);
            assert_eq!(written.recv_timeout(SOON).unwrap(), line);
        }
    }

    #[test]
    fn lines_are_written_together_once_they_are_many() {
        let (log, written) = log(LONG);
        let line = [b'x'; 1024];
        for _ in 1..MANY / line.len() {
            log.write(&line);
        }
        while !log.0.shared.lines.lock().pausing {
            thread::yield_now();
        }
        assert!(written.try_recv().is_err());
        log.write(&line);
        assert_eq!(written.recv_timeout(SOON).unwrap().len(), MANY);
    }

    #[test]
    fn the_last_lines_are_written_at_the_end() {
        let (log, written) = log(LONG);
        log.flush();
        log.write(b"one\n");
        log.flush();
        assert_eq!(written.try_recv().unwrap(), b"one\n");
        log.write(b"last\n");
        drop(log);
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"last\n");
        assert!(written.recv_timeout(SOON).is_err(), "its thread goes on");
    }

    /// A reader that is stuck.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Their memory is bounded, and no request waits.
    #[test]
    fn lines_that_no_one_reads_are_dropped() {
        let (reader, stuck) = channel();
        let log = AccessLog::default();
        log.begin(Stuck(stuck));
        let line = [b'x'; 1024];
        for _ in 0..4 * MOST / line.len() {
            log.write(&line);
        }
        let lines = log.0.shared.lines.lock();
        assert!(lines.waiting.len() <= MOST);
        assert!(lines.dropped > 0);
        drop(lines);
        log.flush();
        drop(reader);
    }

    #[test]
    fn no_one_waits_for_lines_that_cannot_be_written() {
        let (log, written) = log(LONG);
        drop(written);
        log.write(b"lost\n");
        log.flush();
        assert!(log.0.shared.lines.lock().lost);
        log.write(b"lost, too\n");
        assert!(log.0.shared.lines.lock().waiting.is_empty());
    }
}
