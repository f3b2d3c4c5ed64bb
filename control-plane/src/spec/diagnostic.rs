//! What is wrong with an object, where, and what to do.

use std::{fmt, sync::Arc};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object, or the named part of it, is not in force.
    Error,
    /// The object is in force, though probably not as meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Something wrong with an object, in a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file; empty for an object of a cluster.
    pub file: Arc<str>,
    /// Line, from 1; 0 for an object of a cluster.
    pub line: u32,
    /// Column, from 1; 0 for an object of a cluster.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// `Kind namespace/name`; empty where the text could not be read that far.
    pub object: String,
    /// Path of the field, such as `spec.backends[1].service`; empty: the whole object.
    pub field: String,
    /// What is wrong and what follows from it.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if !self.file.is_empty() {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

/// Something wrong with a field, before it is known where the object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Path of the field.
    pub field: String,
    /// What is wrong and what follows from it.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// The object is not in force because of `field`.
    pub fn error(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field: field.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// The object is in force, but `field` is probably not meant so.
    pub fn warning(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(field, message, remedy)
        }
    }
}
