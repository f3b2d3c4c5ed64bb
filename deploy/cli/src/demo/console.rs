//! What the demo says: text for a person, JSON for a machine.

use std::{
    io::{IsTerminal, Write, stdout},
    path::Path,
    time::Duration,
};

use serde_json::json;

use super::{
    phases::Phase,
    table::{self, Edge},
};

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Standard output.
pub(crate) struct Console {
    json: bool,
    terminal: bool,
    /// Lines of the last table, to be drawn over.
    drawn: usize,
}

impl Console {
    /// For text or JSON.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: !json && stdout().is_terminal(),
            drawn: 0,
        }
    }

    /// How often the table is shown.
    pub(crate) fn refresh(&self) -> Duration {
        Duration::from_secs(if self.terminal { 1 } else { 5 })
    }

    pub(crate) fn beginning(&self, directory: &Path) {
        if self.json {
            self.line(&json!({ "event": "starting", "manifests": directory }).to_string());
        } else {
            self.line(&format!(
                "Starting the mesh and the bookstore from {}",
                directory.display()
            ));
        }
    }

    pub(crate) fn started(&self, took: Duration) {
        if self.json {
            self.line(&json!({ "event": "started", "seconds": took.as_secs_f64() }).to_string());
        } else {
            self.line(&format!("Every pod is ready after {:.1} s\n", took.as_secs_f64()));
        }
    }

    pub(crate) fn phase_begins(&self, index: usize, phase: &Phase) {
        if self.terminal {
            print!("     {} {}", index + 1, phase.title);
            let _ = stdout().flush();
        }
    }

    pub(crate) fn phase_ended(
        &self,
        index: usize,
        phase: &Phase,
        outcome: &anyhow::Result<String>,
        took: Duration,
    ) {
        let number = index + 1;
        let seconds = took.as_secs_f64();
        let (ok, detail) = match outcome {
            Ok(seen) => (true, seen.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        if self.json {
            let name = phase.name;
            let line =
                json!({ "phase": number, "name": name, "ok": ok, "detail": detail, "seconds": seconds });
            return self.line(&line.to_string());
        }
        let mark = self.paint(if ok { GREEN } else { RED }, if ok { "ok  " } else { "FAIL" });
        if self.terminal {
            print!("\r\x1b[K");
        }
        self.line(&format!("{mark} {number} {}", phase.title));
        self.line(&format!("       {detail} ({seconds:.1} s)"));
    }

    /// What may explain a failure.
    pub(crate) fn evidence(&self, text: &str) {
        eprintln!("\n{text}");
    }

    pub(crate) fn what_next(&self, directory: &Path) {
        if self.json {
            return;
        }
        let directory = directory.display();
        self.line(&format!(
            "\n{}\n\
             - {directory}/split.yaml: change the weights and see the split follow\n\
             - {directory}/allow-bookthief.yaml: delete it and see the thief denied\n\
             - {directory}/bookstore.yaml: set replicas to 3 and see the load shared\n\
             - break a file: the error is shown here and the last good state stays in force\n\
             Ctrl-C ends the demo and leaves nothing behind.\n",
            self.paint(BOLD, "The mesh keeps running. Try:")
        ));
    }

    /// What the controller warned of; it stays above the table.
    pub(crate) fn warnings(&mut self, warnings: &[String]) {
        for warning in warnings {
            if self.json {
                self.line(&json!({ "event": "warning", "text": warning }).to_string());
            } else {
                self.erase();
                self.line(&format!("{} {warning}\n", self.paint(RED, "!")));
            }
        }
    }

    fn erase(&mut self) {
        if self.terminal && self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        self.drawn = 0;
    }

    /// The live table, drawn over the last one on a terminal.
    pub(crate) fn table(&mut self, edges: &[Edge]) {
        if self.json {
            for edge in edges {
                self.line(&json!({
                    "event": "edge", "from": edge.from, "to": edge.to, "rps": edge.rate, "success": edge.success, "mtls": edge.mtls.text(),
                    "p50_ms": edge.p50, "p99_ms": edge.p99, "denied_per_second": edge.denied, "share": edge.share,
                }).to_string());
            }
            return;
        }
        let text = table::render(edges);
        self.erase();
        self.drawn = text.lines().count();
        print!("{text}");
        let _ = stdout().flush();
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.terminal {
            true => format!("{colour}{text}{PLAIN}"),
            false => text.to_owned(),
        }
    }

    /// A reader that went away is no reason to panic: the outcome is in the exit status.
    fn line(&self, text: &str) {
        let _ = writeln!(stdout(), "{text}");
    }
}
