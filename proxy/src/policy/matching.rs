//! Conditions on strings and headers, evaluated.

use std::borrow::Cow;

use super::Request;
use crate::model::{HeaderMatcher, HeaderValueMatch, StringMatcher};

/// Whether a string meets a condition.
pub fn string_matches(matcher: &StringMatcher, value: &str) -> bool {
    match matcher {
        StringMatcher::Exact(wanted) => value == wanted,
        StringMatcher::ExactIgnoreCase(wanted) => value.eq_ignore_ascii_case(wanted),
        StringMatcher::Prefix { prefix, ignore_case } => starts_with(value, prefix, *ignore_case),
        StringMatcher::Suffix { suffix, ignore_case } => {
            let start = value.len().checked_sub(suffix.len());
            start.is_some_and(|start| same(&value.as_bytes()[start..], suffix.as_bytes(), *ignore_case))
        }
        StringMatcher::Contains {
            part,
            ignore_case: false,
        } => value.contains(part.as_str()),
        StringMatcher::Contains {
            part,
            ignore_case: true,
        } => {
            part.is_empty()
                || value
                    .as_bytes()
                    .windows(part.len())
                    .any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
        }
        StringMatcher::Regex(regex) => regex.is_match(value),
    }
}

/// Whether `value` starts with `prefix`.
pub(crate) fn starts_with(value: &str, prefix: &str, ignore_case: bool) -> bool {
    let start = value.as_bytes().get(..prefix.len());
    start.is_some_and(|start| same(start, prefix.as_bytes(), ignore_case))
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

/// Whether a request meets a condition on one of its headers. As in Envoy, an absent header meets no condition on
/// its value, not even an inverted one, unless it is to be read as empty.
pub fn header_matches(matcher: &HeaderMatcher, request: &Request<'_>) -> bool {
    let value = header(request, &matcher.name);
    if let HeaderValueMatch::Present(present) = matcher.value {
        let found = value.is_some() || matcher.missing_as_empty;
        return (found == present) != matcher.invert;
    }
    let value = match value {
        Some(value) => value,
        None if matcher.missing_as_empty => Cow::Borrowed(""),
        None => return false,
    };
    let holds = match &matcher.value {
        HeaderValueMatch::Present(_) => true,
        HeaderValueMatch::String(matcher) => string_matches(matcher, &value),
        HeaderValueMatch::Range(range) => value.parse::<i64>().is_ok_and(|value| range.contains(&value)),
    };
    holds != matcher.invert
}

/// The value of a header or pseudo-header; several values are joined with `,`.
fn header<'a>(request: &Request<'a>, name: &str) -> Option<Cow<'a, str>> {
    match name {
        ":method" => return Some(request.method.into()),
        ":path" => return Some(request.target.into()),
        ":scheme" => return Some(request.scheme.into()),
        ":authority" | "host" => return (!request.authority.is_empty()).then(|| request.authority.into()),
        _ => {}
    }
    let mut values = request.headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    let Some(second) = values.next() else {
        return Some(first);
    };
    let mut joined = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        joined.push(',');
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(joined.into())
}
