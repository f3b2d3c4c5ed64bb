//! What was found, in sections, for people and for programs.

use std::fmt;

use serde_json::{Value, json};
use weir_controller::spec::{Diagnostic, Severity};

/// Everything found.
#[derive(Debug, Default)]
pub(super) struct Report {
    sections: Vec<Section>,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Section {
    title: &'static str,
    /// What is so, in a few words.
    notes: Vec<String>,
    problems: Vec<Problem>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    /// `Kind namespace/name`.
    pub(super) object: String,
    /// What is wrong.
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: String,
}

impl Section {
    pub(super) fn new(title: &'static str) -> Self {
        Self {
            title,
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Says what is so.
    pub(super) fn note(&mut self, note: impl fmt::Display) {
        self.notes.push(note.to_string());
    }

    /// Something does not work because of `object`.
    pub(super) fn error(
        &mut self,
        object: impl fmt::Display,
        message: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        self.add(Severity::Error, object, message, remedy);
    }

    /// Something is probably not meant so.
    pub(super) fn warning(
        &mut self,
        object: impl fmt::Display,
        message: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        self.add(Severity::Warning, object, message, remedy);
    }

    fn add(
        &mut self,
        severity: Severity,
        object: impl fmt::Display,
        message: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        self.problems.push(Problem {
            severity,
            object: object.to_string(),
            message: message.to_string(),
            remedy: remedy.to_string(),
        });
    }

    /// Something the control plane finds, too.
    pub(super) fn diagnostic(&mut self, found: &Diagnostic) {
        let message = match found.field.is_empty() {
            true => found.message.clone(),
            false => format!("{}: {}", found.field, found.message),
        };
        self.add(found.severity, &found.object, message, &found.remedy);
    }

    /// The first thing found.
    pub(super) fn first(&self) -> String {
        let first = self.problems.first();
        first.map_or_else(String::new, |it| format!("{}; {}", it.message, it.remedy))
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|it| it.severity == severity).count()
    }

    fn state(&self) -> &'static str {
        match self.problems.first().map(|worst| worst.severity) {
            None => "ok",
            Some(Severity::Warning) => "warning",
            Some(Severity::Error) => "error",
        }
    }
}

impl Report {
    pub(super) fn add(&mut self, mut section: Section) {
        section.problems.sort();
        section.problems.dedup();
        self.sections.push(section);
    }

    /// How many errors there are.
    pub(super) fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    fn count(&self, severity: Severity) -> usize {
        self.sections.iter().map(|section| section.count(severity)).sum()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let problem = |it: &Problem| {
            json!({
                "severity": it.severity.to_string(),
                "object": it.object,
                "message": it.message,
                "remedy": it.remedy,
            })
        };
        let section = |it: &Section| {
            json!({
                "title": it.title,
                "state": it.state(),
                "notes": it.notes,
                "findings": it.problems.iter().map(problem).collect::<Vec<_>>(),
            })
        };
        json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            write!(f, "{:<8} {}", section.state(), section.title)?;
            match section.notes.is_empty() {
                true => writeln!(f)?,
                false => writeln!(f, ": {}", section.notes.join(", "))?,
            }
            for problem in &section.problems {
                writeln!(f, "  {problem}")?;
            }
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        match (errors, warnings) {
            (0, 0) => writeln!(f, "Nothing is wrong."),
            _ => writeln!(f, "{}, {}", many(errors, "error"), many(warnings, "warning")),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}; {}",
            self.severity, self.object, self.message, self.remedy
        )
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn many(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
