//! Matchers on strings and headers, after `envoy.type.matcher.v3` and `envoy.config.route.v3.HeaderMatcher`.

use std::{fmt, ops::Range};

/// An RE2-style expression: classes such as `\d` are ASCII.
#[derive(Clone)]
pub struct Regex(regex::bytes::Regex);

impl Regex {
    /// Compiles an expression, anchored at both ends as Envoy's `safe_regex` is.
    ///
    /// # Errors
    /// When the expression is not valid or too large once compiled.
    pub fn new(pattern: &str) -> Result<Self, regex::Error> {
        // Alone first, so that a stray parenthesis cannot end the group below.
        Self::compile(pattern)?;
        Self::compile(&format!("^(?:{pattern})$"))
    }

    /// Compiles an expression that is searched for, for [`PathRewrite::Regex`](super::PathRewrite::Regex).
    ///
    /// # Errors
    /// When the expression is not valid or too large once compiled.
    pub fn search(pattern: &str) -> Result<Self, regex::Error> {
        Self::compile(pattern)
    }

    fn compile(pattern: &str) -> Result<Self, regex::Error> {
        regex::bytes::RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(1 << 20)
            .build()
            .map(Self)
    }

    /// Whether the whole of `input` matches; for [`Regex::search`], whether any of it does.
    pub fn is_match(&self, input: &str) -> bool {
        self.0.is_match(input.as_bytes())
    }

    /// `input` with every match replaced; `\1` in `substitution` stands for the first group, `\0` for the match.
    pub fn replace_all(&self, input: &str, substitution: &str) -> String {
        let replaced = self
            .0
            .replace_all(input.as_bytes(), |captures: &regex::bytes::Captures<'_>| {
                let mut text = Vec::new();
                let mut rest = substitution.as_bytes();
                while let Some((&byte, after)) = rest.split_first() {
                    rest = after;
                    match (byte, after.split_first()) {
                        (b'\\', Some((&digit, after))) if digit.is_ascii_digit() => {
                            let group = captures.get(usize::from(digit - b'0'));
                            text.extend_from_slice(group.map_or(&[], |group| group.as_bytes()));
                            rest = after;
                        }
                        (b'\\', Some((b'\\', after))) => {
                            text.push(b'\\');
                            rest = after;
                        }
                        _ => text.push(byte),
                    }
                }
                text
            });
        String::from_utf8_lossy(&replaced).into_owned()
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
