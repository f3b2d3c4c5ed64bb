//! The query of a page.

use http::{StatusCode, request::Parts};
use regex::{Regex, RegexBuilder};

use super::{Page, text};

/// Longest expression taken, in bytes.
const LONGEST: usize = 256;
/// Largest compiled expression, in bytes.
const LARGEST: usize = 64 << 10;

/// The value of a parameter, decoded; `None` when it is not there or is not text.
pub(super) fn parameter(request: &Parts, name: &str) -> Option<String> {
    let pairs = request.uri.query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| decoded(value))
}

/// Whether a parameter is there, with a value or without.
pub(super) fn has(request: &Parts, name: &str) -> bool {
    let query = request.uri.query().unwrap_or_default();
    query
        .split('&')
        .any(|pair| pair.split_once('=').map_or(pair, |(key, _)| key) == name)
}

/// The expression that a parameter holds; it may match anywhere.
///
/// # Errors
/// A page that says why the expression is not usable.
pub(super) fn expression(request: &Parts, name: &str) -> Result<Option<Regex>, Box<Page>> {
    let Some(pattern) = parameter(request, name).filter(|pattern| !pattern.is_empty()) else {
        return Ok(None);
    };
    let wrong = |why: String| Box::new(text(StatusCode::BAD_REQUEST, format!("{name}: {why}")));
    if pattern.len() > LONGEST {
        return Err(wrong(format!(
            "the expression is longer than {LONGEST} bytes: give a shorter one"
        )));
    }
    RegexBuilder::new(&pattern)
        .size_limit(LARGEST)
        .build()
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut out = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> Parts {
        http::Request::get(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn parameters_are_decoded() {
        let request = request("/stats?usedonly&filter=a%5Cd%2B+b&empty=&bad=%zz&cut=%2");
        assert_eq!(parameter(&request, "filter").as_deref(), Some("a\\d+ b"));
        assert_eq!(parameter(&request, "empty").as_deref(), Some(""));
        assert_eq!(parameter(&request, "bad"), None);
        assert_eq!(parameter(&request, "cut"), None);
        assert!(has(&request, "usedonly") && has(&request, "empty") && !has(&request, "used"));
    }

    #[test]
    fn expressions_are_bounded() {
        assert!(
            expression(&request("/stats?filter=^a"), "filter")
                .unwrap()
                .unwrap()
                .is_match("ab")
        );
        assert!(expression(&request("/stats"), "filter").unwrap().is_none());
        for wrong in [
            "%28".to_owned(),
            "a".repeat(300),
            "%28a%7B99%7D%29%7B99%7D%7B99%7D".to_owned(),
        ] {
            assert!(
                expression(&request(&format!("/stats?filter={wrong}")), "filter").is_err(),
                "{wrong}"
            );
        }
    }
}
