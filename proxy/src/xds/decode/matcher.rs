//! Conditions on strings and headers.

use weir_xds::envoy::{
    config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier as Specifier},
    r#type::matcher::v3::{
        PathMatcher, RegexMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
    },
};

use super::{DecodeError, error::At};
use crate::model;

/// A condition on a string.
pub(super) fn string(matcher: &StringMatcher) -> Result<model::StringMatcher, DecodeError> {
    let ignore_case = matcher.ignore_case;
    Ok(match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) if ignore_case => model::StringMatcher::ExactIgnoreCase(text.clone()),
        Some(MatchPattern::Exact(text)) => model::StringMatcher::Exact(text.clone()),
        Some(MatchPattern::Prefix(text)) => model::StringMatcher::Prefix {
            prefix: not_empty(text).at("prefix")?,
            ignore_case,
        },
        Some(MatchPattern::Suffix(text)) => model::StringMatcher::Suffix {
            suffix: not_empty(text).at("suffix")?,
            ignore_case,
        },
        Some(MatchPattern::Contains(text)) => model::StringMatcher::Contains {
            part: not_empty(text).at("contains")?,
            ignore_case,
        },
        Some(MatchPattern::SafeRegex(_)) if ignore_case => {
            return Err(DecodeError::new(
                "ignore_case has no effect on safe_regex: write (?i) in it",
            ));
        }
        Some(MatchPattern::SafeRegex(matcher)) => {
            model::StringMatcher::Regex(regex(matcher).at("safe_regex")?)
        }
        None => {
            return Err(DecodeError::new(
                "a string matcher needs a pattern that this proxy knows",
            ));
        }
    })
}

fn not_empty(text: &str) -> Result<String, DecodeError> {
    if text.is_empty() {
        return Err(DecodeError::new("must not be empty"));
    }
    Ok(text.to_owned())
}

/// An expression that must match the whole.
pub(super) fn regex(matcher: &RegexMatcher) -> Result<model::Regex, DecodeError> {
    if matcher.regex.is_empty() {
        return Err(DecodeError::new("regex must not be empty"));
    }
    model::Regex::new(&matcher.regex)
        .map_err(|error| DecodeError::new(format!("{:?} is not a usable expression: {error}", matcher.regex)))
}

/// A condition on the path.
pub(super) fn path(matcher: &PathMatcher) -> Result<model::StringMatcher, DecodeError> {
    match &matcher.rule {
        Some(path_matcher::Rule::Path(path)) => string(path).at("path"),
        None => Err(DecodeError::new("path is missing")),
    }
}

/// A condition on a header. The forms that Envoy deprecated mean what they meant.
pub(super) fn header(matcher: &HeaderMatcher) -> Result<model::HeaderMatcher, DecodeError> {
    let name = matcher.name.to_ascii_lowercase();
    if name.is_empty() {
        return Err(DecodeError::new("a header matcher needs a name"));
    }
    let of = |pattern: MatchPattern| {
        string(&StringMatcher {
            ignore_case: false,
            match_pattern: Some(pattern),
        })
        .map(model::HeaderValueMatch::String)
    };
    let value = match &matcher.header_match_specifier {
        None => Ok(model::HeaderValueMatch::Present(true)),
        Some(Specifier::PresentMatch(present)) => Ok(model::HeaderValueMatch::Present(*present)),
        Some(Specifier::RangeMatch(range)) => Ok(model::HeaderValueMatch::Range(range.start..range.end)),
        Some(Specifier::StringMatch(matcher)) => string(matcher)
            .at("string_match")
            .map(model::HeaderValueMatch::String),
        Some(Specifier::ExactMatch(text)) if text.is_empty() => Ok(model::HeaderValueMatch::Present(true)),
        Some(Specifier::ExactMatch(text)) => of(MatchPattern::Exact(text.clone())),
        Some(Specifier::PrefixMatch(text)) => of(MatchPattern::Prefix(text.clone())),
        Some(Specifier::SuffixMatch(text)) => of(MatchPattern::Suffix(text.clone())),
        Some(Specifier::ContainsMatch(text)) => of(MatchPattern::Contains(text.clone())),
        Some(Specifier::SafeRegexMatch(matcher)) => of(MatchPattern::SafeRegex(matcher.clone())),
    };
    Ok(model::HeaderMatcher {
        value: value.at(&name)?,
        name,
        invert: matcher.invert_match,
        missing_as_empty: matcher.treat_missing_header_as_empty,
    })
}
