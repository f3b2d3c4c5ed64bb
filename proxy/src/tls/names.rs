//! Which names of a peer satisfy what is expected of it.

use super::PeerIdentity;
use crate::model::StringMatcher;

/// Whether a URI or DNS SAN satisfies one of the matchers; DNS names are compared without regard to case.
pub(super) fn any_matches(identity: &PeerIdentity, wanted: &[StringMatcher]) -> bool {
    let uris = identity.uris.iter().map(|uri| (uri.as_str(), false));
    let dns = identity.dns.iter().map(|name| (name.as_str(), true));
    let mut names = uris.chain(dns);
    names.any(|(name, is_dns)| wanted.iter().any(|matcher| matches(matcher, name, is_dns)))
}

/// The matchers for a message.
pub(super) fn describe(wanted: &[StringMatcher]) -> String {
    let mut texts: Vec<_> = wanted.iter().take(4).map(text).collect();
    if wanted.len() > texts.len() {
        texts.push(format!("{} more", wanted.len() - texts.len()));
    }
    texts.join(" or ")
}

fn text(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(value) | StringMatcher::ExactIgnoreCase(value) => value.clone(),
        StringMatcher::Prefix { prefix, .. } => format!("{prefix}..."),
        StringMatcher::Suffix { suffix, .. } => format!("...{suffix}"),
        StringMatcher::Contains { part, .. } => format!("...{part}..."),
        StringMatcher::Regex(regex) => format!("{regex:?}"),
    }
}

fn matches(matcher: &StringMatcher, name: &str, caseless: bool) -> bool {
    let fold = |text: &str| text.to_ascii_lowercase();
    match matcher {
        StringMatcher::Exact(value) if caseless => value.eq_ignore_ascii_case(name),
        StringMatcher::Exact(value) => value == name,
        StringMatcher::ExactIgnoreCase(value) => value.eq_ignore_ascii_case(name),
        StringMatcher::Prefix { prefix, ignore_case } if caseless || *ignore_case => {
            fold(name).starts_with(&fold(prefix))
        }
        StringMatcher::Prefix { prefix, .. } => name.starts_with(prefix),
        StringMatcher::Suffix { suffix, ignore_case } if caseless || *ignore_case => {
            fold(name).ends_with(&fold(suffix))
        }
        StringMatcher::Suffix { suffix, .. } => name.ends_with(suffix),
        StringMatcher::Contains { part, ignore_case } if caseless || *ignore_case => {
            fold(name).contains(&fold(part))
        }
        StringMatcher::Contains { part, .. } => name.contains(part),
        StringMatcher::Regex(regex) => regex.is_match(name),
    }
}
