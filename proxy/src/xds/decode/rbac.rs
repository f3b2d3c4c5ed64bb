//! Authorization rules.

use weir_xds::envoy::config::rbac::v3::{
    self as proto, permission::Rule, principal::Identifier, rbac::Action as ProtoAction,
};

use super::{
    DecodeError,
    error::{At, each, refuse},
    field::{cidr, port},
    matcher,
};
use crate::model::{Action, Permission, Policy, Principal, Rbac};

/// Deeper rules are refused, so that evaluation is bounded.
const MAX_DEPTH: usize = 32;

/// A rule set.
pub(super) fn rules(rbac: &proto::Rbac) -> Result<Rbac, DecodeError> {
    let action = match ProtoAction::try_from(rbac.action) {
        Ok(ProtoAction::Allow) => Action::Allow,
        Ok(ProtoAction::Deny) => Action::Deny,
        Ok(ProtoAction::Log) => Action::Log,
        Err(_) => return Err(DecodeError::unsupported("this action")),
    };
    let policies = rbac
        .policies
        .iter()
        .map(|(name, policy)| self::policy(name, policy).at(&format!("policies[{name:?}]")))
        .collect::<Result<_, _>>()?;
    Ok(Rbac { action, policies })
}

fn policy(name: &str, policy: &proto::Policy) -> Result<Policy, DecodeError> {
    refuse([
        ("condition", !policy.condition.is_empty()),
        ("checked_condition", !policy.checked_condition.is_empty()),
    ])?;
    if policy.permissions.is_empty() || policy.principals.is_empty() {
        return Err(DecodeError::new(
            "a policy needs at least one permission and one principal",
        ));
    }
    Ok(Policy {
        name: name.to_owned(),
        permissions: each("permissions", &policy.permissions, |rule| permission(rule, 0))?,
        principals: each("principals", &policy.principals, |id| principal(id, 0))?,
    })
}

fn deeper(depth: usize) -> Result<usize, DecodeError> {
    if depth >= MAX_DEPTH {
        return Err(DecodeError::new(format!(
            "rules are nested more than {MAX_DEPTH} deep"
        )));
    }
    Ok(depth + 1)
}

fn set<S, T>(
    place: &str,
    items: &[S],
    decode: impl FnMut(&S) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    if items.is_empty() {
        return Err(DecodeError::new("must not be empty")).at(place);
    }
    each(place, items, decode)
}

fn permission(permission: &proto::Permission, depth: usize) -> Result<Permission, DecodeError> {
    let depth = deeper(depth)?;
    let nested = |rule: &proto::Permission| self::permission(rule, depth);
    Ok(match &permission.rule {
        Some(Rule::Any(any)) => Permission::Any(*any),
        Some(Rule::AndRules(rules)) => Permission::All(set("and_rules", &rules.rules, nested)?),
        Some(Rule::OrRules(rules)) => Permission::OneOf(set("or_rules", &rules.rules, nested)?),
        Some(Rule::NotRule(rule)) => Permission::Not(Box::new(nested(rule).at("not_rule")?)),
        Some(Rule::Header(header)) => Permission::Header(matcher::header(header).at("header")?),
        Some(Rule::UrlPath(path)) => Permission::Path(matcher::path(path).at("url_path")?),
        Some(Rule::DestinationIp(range)) => Permission::DestinationIp(cidr(range).at("destination_ip")?),
        Some(Rule::DestinationPort(number)) => {
            Permission::DestinationPort(port(*number).at("destination_port")?)
        }
        Some(Rule::DestinationPortRange(range)) => {
            match (u32::try_from(range.start), u32::try_from(range.end)) {
                (Ok(start), Ok(end)) if start < end && end <= 65_536 => {
                    Permission::DestinationPorts(start, end)
                }
                _ => return Err(DecodeError::new("not a range of ports")).at("destination_port_range"),
            }
        }
        Some(Rule::RequestedServerName(name)) => {
            Permission::ServerName(matcher::string(name).at("requested_server_name")?)
        }
        Some(Rule::Metadata(_)) => return Err(DecodeError::unsupported("metadata")),
        Some(Rule::Matcher(_)) => return Err(DecodeError::unsupported("matcher")),
        Some(Rule::UriTemplate(_)) => return Err(DecodeError::unsupported("uri_template")),
        Some(Rule::SourcedMetadata(_)) => return Err(DecodeError::unsupported("sourced_metadata")),
        None => {
            return Err(DecodeError::new(
                "a permission needs a rule that this proxy knows",
            ));
        }
    })
}

fn principal(principal: &proto::Principal, depth: usize) -> Result<Principal, DecodeError> {
    let depth = deeper(depth)?;
    let nested = |id: &proto::Principal| self::principal(id, depth);
    Ok(match &principal.identifier {
        Some(Identifier::Any(any)) => Principal::Any(*any),
        Some(Identifier::AndIds(ids)) => Principal::All(set("and_ids", &ids.ids, nested)?),
        Some(Identifier::OrIds(ids)) => Principal::OneOf(set("or_ids", &ids.ids, nested)?),
        Some(Identifier::NotId(id)) => Principal::Not(Box::new(nested(id).at("not_id")?)),
        Some(Identifier::Authenticated(authenticated)) => Principal::Authenticated(
            authenticated
                .principal_name
                .as_ref()
                .map(matcher::string)
                .transpose()
                .at("authenticated.principal_name")?,
        ),
        Some(
            Identifier::SourceIp(range) | Identifier::DirectRemoteIp(range) | Identifier::RemoteIp(range),
        ) => Principal::SourceIp(cidr(range).at("source_ip")?),
        Some(Identifier::Header(header)) => Principal::Header(matcher::header(header).at("header")?),
        Some(Identifier::UrlPath(path)) => Principal::Path(matcher::path(path).at("url_path")?),
        Some(Identifier::Metadata(_)) => return Err(DecodeError::unsupported("metadata")),
        Some(Identifier::FilterState(_)) => return Err(DecodeError::unsupported("filter_state")),
        Some(Identifier::SourcedMetadata(_)) => return Err(DecodeError::unsupported("sourced_metadata")),
        Some(Identifier::Custom(_)) => return Err(DecodeError::unsupported("custom")),
        None => {
            return Err(DecodeError::new(
                "a principal needs an identifier that this proxy knows",
            ));
        }
    })
}
