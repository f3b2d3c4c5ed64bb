//! From what was found about an object to its condition. Pure.

use std::collections::HashMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    catalog::Snapshot,
    endpoints::Revision,
    spec::{Diagnostic, Key, Severity},
};

const TYPE: &str = "Accepted";
/// The API server takes 32 KiB; nobody reads so much.
const MESSAGE: usize = 4096;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Whether it is in force.
    pub(super) in_force: bool,
    /// One word for it.
    pub(super) reason: &'static str,
    /// Every finding with its field and remedy, a line each.
    pub(super) message: String,
}

/// What became of every policy object of the cluster.
pub(super) fn judge(snapshot: &Snapshot) -> Vec<(Key, Accepted)> {
    let mut findings: HashMap<&str, Vec<&Diagnostic>> = HashMap::new();
    for diagnostic in &*snapshot.diagnostics {
        findings.entry(&diagnostic.object).or_default().push(diagnostic);
    }
    let judged = snapshot.policies.keys().map(|key| {
        let found = findings.get(key.to_string().as_str());
        (
            key.clone(),
            Accepted::from_findings(found.map_or(&[][..], Vec::as_slice)),
        )
    });
    judged.collect()
}

impl Accepted {
    fn from_findings(findings: &[&Diagnostic]) -> Self {
        let in_force = findings.iter().all(|finding| finding.severity != Severity::Error);
        let reason = match (in_force, findings.is_empty()) {
            (false, _) => "Invalid",
            (true, false) => "AcceptedWithWarnings",
            (true, true) => "Accepted",
        };
        let lines: Vec<_> = findings.iter().map(|finding| line(finding)).collect();
        let mut message = match findings.is_empty() {
            true => "in force".to_owned(),
            false => lines.join("\n"),
        };
        shorten(&mut message, MESSAGE);
        Self {
            in_force,
            reason,
            message,
        }
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.reason == "Accepted"
    }

    fn status(&self) -> &'static str {
        if self.in_force { "True" } else { "False" }
    }

    /// Whether the object's status says it already, about its present generation.
    pub(super) fn is_said_by(&self, revision: &Revision) -> bool {
        revision.accepted.as_ref().is_some_and(|said| {
            said.status == self.status()
                && said.reason == self.reason
                && said.message == self.message
                && said.observed_generation == Some(revision.generation)
        })
    }

    /// The condition to write about this revision.
    pub(super) fn condition(&self, revision: &Revision) -> Condition {
        let last = revision
            .accepted
            .as_ref()
            .filter(|last| last.status == self.status());
        let since = last.map(|last| last.last_transition_time.clone());
        Condition {
            type_: TYPE.to_owned(),
            status: self.status().to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            observed_generation: Some(revision.generation),
            last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
        }
    }
}

fn line(finding: &Diagnostic) -> String {
    let Diagnostic {
        field,
        message,
        remedy,
        ..
    } = finding;
    match field.as_str() {
        "" => format!("{message}; {remedy}"),
        field => format!("{field}: {message}; {remedy}"),
    }
}

/// Cuts a text to so many bytes, at a whole character.
pub(super) fn shorten(text: &mut String, limit: usize) {
    const CUT: &str = "…";
    if text.len() > limit {
        let mut end = limit.saturating_sub(CUT.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Diagnostic {
        Diagnostic {
            severity,
            file: "".into(),
            line: 0,
            column: 0,
            object: "TrafficTarget shop/a".to_owned(),
            field: "spec.rules[0]".to_owned(),
            message: "names nothing".to_owned(),
            remedy: "name a route".to_owned(),
        }
    }

    fn revision(accepted: Option<Condition>) -> Revision {
        Revision {
            api_version: "access.smi-spec.io/v1alpha3",
            plural: "traffictargets",
            uid: "u".to_owned(),
            generation: 2,
            accepted,
        }
    }

    #[test]
    fn an_error_is_not_in_force_and_a_warning_is() {
        let error = Accepted::from_findings(&[&finding(Severity::Error), &finding(Severity::Warning)]);
        assert!(!error.in_force);
        assert_eq!(error.reason, "Invalid");
        assert_eq!(
            error.message.lines().next(),
            Some("spec.rules[0]: names nothing; name a route")
        );
        let warning = Accepted::from_findings(&[&finding(Severity::Warning)]);
        assert!(warning.in_force && !warning.is_clean());
        assert!(Accepted::from_findings(&[]).is_clean());
    }

    #[test]
    fn what_is_said_about_an_older_generation_is_said_again() {
        let accepted = Accepted::from_findings(&[]);
        let mut said = accepted.condition(&revision(None));
        assert!(accepted.is_said_by(&revision(Some(said.clone()))));
        said.observed_generation = Some(1);
        assert!(!accepted.is_said_by(&revision(Some(said))));
    }

    #[test]
    fn the_time_is_that_of_the_last_change_of_status() {
        let invalid = Accepted::from_findings(&[&finding(Severity::Error)]);
        let mut said = invalid.condition(&revision(None));
        said.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        said.message = "another".to_owned();
        let kept = invalid.condition(&revision(Some(said.clone())));
        assert_eq!(kept.last_transition_time, said.last_transition_time);
        let mended = Accepted::from_findings(&[]).condition(&revision(Some(said.clone())));
        assert_ne!(mended.last_transition_time, said.last_transition_time);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut text = "ä".repeat(40);
        shorten(&mut text, 20);
        assert!(text.len() <= 20 && text.ends_with('…'));
    }
}
