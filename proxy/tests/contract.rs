//! The tables of `weir-xds` say what becomes of every field; this holds them to what the decoder does.
//!
//! With `WEIR_WRITE_FIELDS` set, the tables are written anew, with the notes that are there.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "contract/probe.rs"]
mod probe;
#[path = "contract/samples.rs"]
mod samples;

use std::{collections::BTreeMap, fmt::Write as _};

use probe::Table;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../control-plane/xds/FIELDS.md");
/// What comes before the tables.
const FIRST_TABLE: &str = "\n## `";

fn render(table: &Table, notes: &BTreeMap<(String, String), String>) -> String {
    let mut text = String::new();
    for (message, fields) in table {
        let _ = writeln!(text, "\n## `{message}`\n");
        if fields.is_empty() {
            text.push_str("No fields.\n");
            continue;
        }
        text.push_str("| field | number | treatment | note |\n|---|---|---|---|\n");
        for (name, probed) in fields {
            let note = notes
                .get(&(message.clone(), name.clone()))
                .map_or("", String::as_str);
            let (number, words) = (probed.number, probed.words());
            let row = format!("| `{name}` | {number} | {words} | {note}");
            let _ = writeln!(text, "{} |", row.trim_end());
        }
    }
    text
}

/// The last column of each row.
fn notes(text: &str) -> BTreeMap<(String, String), String> {
    let mut message = String::new();
    let mut notes = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## `") {
            name.trim_end_matches('`').clone_into(&mut message);
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, name, _, _, note, _] = cells[..] {
            notes.insert(
                (message.clone(), name.trim_matches('`').to_owned()),
                note.to_owned(),
            );
        }
    }
    notes
}

#[test]
fn every_field_is_treated_as_the_documentation_says() {
    let documented = std::fs::read_to_string(PATH).unwrap();
    let start = documented.find(FIRST_TABLE).unwrap_or(documented.len());
    let (before, tables) = documented.split_at(start);
    let actual = render(&probe::all(), &notes(tables));
    if std::env::var_os("WEIR_WRITE_FIELDS").is_some() {
        std::fs::write(PATH, format!("{before}{actual}")).unwrap();
        return;
    }
    let (documented, actual): (Vec<_>, Vec<_>) = (tables.lines().collect(), actual.lines().collect());
    let only = |left: &[&str], right: &[&str]| -> Vec<String> {
        left.iter()
            .filter(|line| !right.contains(line))
            .map(|line| (*line).to_owned())
            .collect()
    };
    let (wrong, right) = (only(&documented, &actual), only(&actual, &documented));
    assert!(
        documented == actual,
        "FIELDS.md says\n{}\nbut the decoder does\n{}\nSet WEIR_WRITE_FIELDS=1 to write it anew.",
        wrong.join("\n"),
        right.join("\n")
    );
}
