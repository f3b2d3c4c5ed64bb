//! Which names of a peer satisfy what is expected of it.

use super::PeerIdentity;
use crate::{model::StringMatcher, policy::string_matches};

/// Whether a URI or DNS SAN satisfies one of the matchers. DNS names are matched as given and in lower case.
pub(super) fn any_matches(identity: &PeerIdentity, wanted: &[StringMatcher]) -> bool {
    let fits = |name: &str| wanted.iter().any(|matcher| string_matches(matcher, name));
    identity.uris.iter().any(|uri| fits(uri))
        || identity
            .dns
            .iter()
            .any(|name| fits(name) || fits(&name.to_ascii_lowercase()))
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
