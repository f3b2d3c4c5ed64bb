//! Cuts a file into its documents.

use std::borrow::Cow;

/// The documents of a file: the line each starts on (from 1) and its text. The items of a `List` written in block
/// style are documents of their own, at their own lines and columns.
#[must_use]
pub fn split(text: &str) -> Vec<(u32, Cow<'_, str>)> {
    let mut documents = Vec::new();
    for (line, document) in at_markers(text) {
        match items(document) {
            Some(items) => documents.extend(
                items
                    .into_iter()
                    .map(|(offset, item)| (line + offset, Cow::Owned(item))),
            ),
            None => documents.push((line, Cow::Borrowed(document))),
        }
    }
    documents
}

fn at_markers(text: &str) -> Vec<(u32, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (line, number) in text.split_inclusive('\n').zip(1_u32..) {
        let marker = line.strip_prefix("---");
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
            && offset > start
        {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, number);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, text)| {
        text.lines().any(|line| {
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            !line.is_empty() && !line.starts_with('#') && line != "..."
        })
    });
    documents
}

/// The items of a List, each with the number of lines before it. A blank stands in for the dash, so that columns stay
/// what they are in the file. `None`: not a List, or not in block style.
fn items(document: &str) -> Option<Vec<(u32, String)>> {
    if !document.lines().any(|line| line.trim_end() == "kind: List") {
        return None;
    }
    let mut items: Vec<(u32, String)> = Vec::new();
    let mut dash = None;
    let lines = document.split_inclusive('\n').zip(0..);
    for (line, number) in lines.skip_while(|(line, _)| line.trim_end() != "items:").skip(1) {
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let begins = content.starts_with("- ") || content.trim_end() == "-";
        if begins && indent == *dash.get_or_insert(indent) {
            let blank = " ".repeat(indent + 1);
            items.push((number, blank + &content[1..]));
        } else if let Some((_, item)) = items.last_mut() {
            let nothing = content.trim_end().is_empty() || content.starts_with('#');
            if !nothing && dash.is_some_and(|dash| indent <= dash) {
                break;
            }
            item.push_str(line);
        }
    }
    (!items.is_empty()).then_some(items)
}
