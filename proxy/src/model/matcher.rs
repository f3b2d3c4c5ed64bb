//! Matchers on strings and headers, after `envoy.type.matcher.v3` and `envoy.config.route.v3.HeaderMatcher`.

use std::{fmt, ops::Range};

/// An RE2-style expression that must match the whole input.
#[derive(Clone)]
pub struct Regex(regex::Regex);

impl Regex {
    /// Compiles an expression, anchored at both ends as Envoy's `safe_regex` is.
    ///
    /// # Errors
    /// When the expression is not valid or too large once compiled.
    pub fn new(pattern: &str) -> Result<Self, regex::Error> {
        regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
            .unicode(false)
            .size_limit(1 << 20)
            .build()
            .map(Self)
    }

    /// Whether the whole of `input` matches.
    pub fn is_match(&self, input: &str) -> bool {
        self.0.is_match(input)
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// A condition on a string.
#[derive(Clone, Debug, PartialEq)]
pub enum StringMatcher {
    /// Equal.
    Exact(String),
    /// Equal, ASCII case ignored.
    ExactIgnoreCase(String),
    /// Starts with.
    Prefix {
        /// The wanted start.
        prefix: String,
        /// Whether ASCII case is ignored.
        ignore_case: bool,
    },
    /// Ends with.
    Suffix {
        /// The wanted end.
        suffix: String,
        /// Whether ASCII case is ignored.
        ignore_case: bool,
    },
    /// Contains.
    Contains {
        /// The wanted part.
        part: String,
        /// Whether ASCII case is ignored.
        ignore_case: bool,
    },
    /// Matches as a whole.
    Regex(Regex),
}

/// A condition on a request header; pseudo-headers (`:method`, `:path`, `:authority`, `:scheme`) included.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatcher {
    /// Lower-case name.
    pub name: String,
    /// What its value must be.
    pub value: HeaderValueMatch,
    /// The matcher holds when the condition does not.
    pub invert: bool,
    /// An absent header is read as the empty string instead of not matching.
    pub missing_as_empty: bool,
}

/// The condition of a [`HeaderMatcher`]; several values of one header are joined with `,` before they are matched.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValueMatch {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// The value as a string.
    String(StringMatcher),
    /// The value as a decimal integer in a half-open range.
    Range(Range<i64>),
}
