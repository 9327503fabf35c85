//! RDS: `RouteConfiguration`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use http::{HeaderName, Method};

use super::Names;
use super::strict::{NOT_SUPPORTED, Path, Refused, boolean, bound, duration, named, required, uint32, unbounded};
use crate::route::{
    HeaderMatch, PathMatch, RetryOn, RetryPolicy, Route, RouteMatch, RouteTable, ValueMatch, VirtualHost, Weighted,
};

/// One route configuration.
pub(crate) fn table(
    mut given: pb::RouteConfiguration,
    at: &Path<'_>,
    names: &mut Names,
) -> Result<RouteTable, Refused> {
    let mut table = RouteTable { name: take(&mut given.name).into(), ..Default::default() };
    if !boolean(given.validate_clusters, false) {
        given.validate_clusters = None;
    }
    let at_hosts = at.field("virtual_hosts");
    for (index, host) in take(&mut given.virtual_hosts).into_iter().enumerate() {
        virtual_host(host, &at_hosts.index(index), names, &mut table)?;
    }
    at.rest(&given)?;
    table.suffixes.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
    table.prefixes.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
    Ok(table)
}

fn virtual_host(
    mut given: pb::VirtualHost,
    at: &Path<'_>,
    names: &mut Names,
    table: &mut RouteTable,
) -> Result<(), Refused> {
    let name = named(&mut given.name, &at.field("name"))?;
    let number = table.hosts.len() as u32;
    let at_domains = at.field("domains");
    let domains = take(&mut given.domains);
    if domains.is_empty() {
        return Err(at_domains.refuse("must not be empty"));
    }
    for (index, domain) in domains.into_iter().enumerate() {
        add_domain(table, &domain.to_ascii_lowercase(), number, &at_domains.index(index))?;
    }
    let at_routes = at.field("routes");
    let removed = header_names(take(&mut given.response_headers_to_remove), &at.field("response_headers_to_remove"))?;
    let routes = take(&mut given.routes).into_iter().enumerate();
    let routes = routes
        .map(|(index, one)| route(one, &at_routes.index(index), names, &removed).map(Arc::new))
        .collect::<Result<_, _>>()?;
    at.rest(&given)?;
    table.hosts.push(VirtualHost { name, routes });
    Ok(())
}

fn add_domain(table: &mut RouteTable, domain: &str, number: u32, at: &Path<'_>) -> Result<(), Refused> {
    let add = |list: &mut Vec<(Box<str>, u32)>, part: &str| {
        let new = list.iter().all(|(other, _)| **other != *part);
        list.push((part.into(), number));
        new
    };
    let new = match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(""), _) => table.any.replace(number).is_none(),
        (Some(suffix), None) if !suffix.contains('*') => add(&mut table.suffixes, suffix),
        (None, Some(prefix)) if !prefix.contains('*') => add(&mut table.prefixes, prefix),
        (None, None) if !domain.is_empty() && !domain.contains('*') => {
            table.exact.insert(domain.into(), number).is_none()
        }
        _ => return Err(at.refuse("must be a host, or have one * at its start or end")),
    };
    if new { Ok(()) } else { Err(at.refuse(format!("{domain:?} stands here for the second time"))) }
}

fn header_names(given: Vec<String>, at: &Path<'_>) -> Result<Arc<[HeaderName]>, Refused> {
    let name = |(index, name): (usize, String)| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| at.index(index).refuse(format!("{name:?} is not the name of a header")))
    };
    given.into_iter().enumerate().map(name).collect()
}

fn route(
    mut given: pb::Route,
    at: &Path<'_>,
    names: &mut Names,
    removed_response_headers: &Arc<[HeaderName]>,
) -> Result<Route, Refused> {
    let matches = route_match(required(given.r#match.take(), &at.field("match"))?, &at.field("match"))?;
    let name = take(&mut given.name).into();
    let Some(Action::Route(action)) = given.action.take_if(|action| matches!(action, Action::Route(_))) else {
        at.rest(&given)?;
        return Err(at.field("route").refuse("required"));
    };
    at.rest(&given)?;
    let route = route_action(action, name, matches, &at.field("route"), names)?;
    Ok(Route { removed_response_headers: removed_response_headers.clone(), ..route })
}

fn route_action(
    mut given: pb::RouteAction,
    name: Arc<str>,
    matches: RouteMatch,
    at: &Path<'_>,
    names: &mut Names,
) -> Result<Route, Refused> {
    let at_retry = at.field("retry_policy");
    let upgrades = upgrades(take(&mut given.upgrade_configs), &at.field("upgrade_configs"))?;
    let connect = matches.path == PathMatch::Connect;
    if upgrades.connect != connect {
        let problem = "a connect_config and a connect_matcher only work together";
        return Err(at.field("upgrade_configs").refuse(problem));
    }
    unbounded(given.idle_timeout.take(), &at.field("idle_timeout"))?;
    let route = Route {
        name,
        matches,
        clusters: clusters(&mut given, at, names)?,
        timeout: bound(given.timeout.take(), Duration::from_secs(15), &at.field("timeout"))?,
        retry: given.retry_policy.take().map(|policy| retry(policy, &at_retry)).transpose()?.flatten(),
        websocket: upgrades.websocket,
        removed_response_headers: Arc::default(),
    };
    at.rest(&given)?;
    Ok(route)
}

#[derive(Default)]
struct Upgrades {
    websocket: Option<bool>,
    connect: bool,
}

fn upgrades(given: Vec<UpgradeConfig>, at: &Path<'_>) -> Result<Upgrades, Refused> {
    let mut upgrades = Upgrades::default();
    for (index, mut upgrade) in given.into_iter().enumerate() {
        let at = &at.index(index);
        let enabled = boolean(upgrade.enabled.take(), true);
        match &*take(&mut upgrade.upgrade_type).to_ascii_lowercase() {
            "websocket" => upgrades.websocket = Some(enabled),
            "connect" => {
                if !enabled {
                    return Err(at.field("enabled").refuse("must be true"));
                }
                let config = required(upgrade.connect_config.take(), &at.field("connect_config"))?;
                at.field("connect_config").rest(&config)?;
                upgrades.connect = true;
            }
            _ => return Err(at.field("upgrade_type").refuse(NOT_SUPPORTED)),
        }
        at.rest(&upgrade)?;
    }
    Ok(upgrades)
}

fn clusters(given: &mut pb::RouteAction, at: &Path<'_>, names: &mut Names) -> Result<Weighted, Refused> {
    match given.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(mut name)) => {
            let name = named(&mut name, &at.field("cluster"))?;
            Ok(Weighted { clusters: vec![Arc::new(names.cluster(&name))], cumulative: vec![1] })
        }
        Some(ClusterSpecifier::WeightedClusters(given)) => weighted(given, &at.field("weighted_clusters"), names),
        None => Err(at.field("cluster").refuse("required")),
        other => {
            at.rest(&pb::RouteAction { cluster_specifier: other, ..Default::default() })?;
            Err(at.refuse(NOT_SUPPORTED))
        }
    }
}

#[allow(deprecated)] // older control planes still send total_weight
fn weighted(mut given: pb::WeightedCluster, at: &Path<'_>, names: &mut Names) -> Result<Weighted, Refused> {
    let at_clusters = at.field("clusters");
    let mut weighted = Weighted { clusters: Vec::new(), cumulative: Vec::new() };
    let mut total = 0_u64;
    for (index, mut cluster) in take(&mut given.clusters).into_iter().enumerate() {
        let at = &at_clusters.index(index);
        let name = named(&mut cluster.name, &at.field("name"))?;
        total += u64::from(required(uint32(cluster.weight.take()), &at.field("weight"))?);
        at.rest(&cluster)?;
        weighted.clusters.push(Arc::new(names.cluster(&name)));
        weighted.cumulative.push(total);
    }
    if !(1..=u64::from(u32::MAX)).contains(&total) {
        return Err(at_clusters.refuse("the sum of the weights must be 1 to 4294967295"));
    }
    if uint32(given.total_weight.take()).is_some_and(|stated| u64::from(stated) != total) {
        return Err(at.field("total_weight").refuse(format!("is not the sum of the weights, {total}")));
    }
    at.rest(&given)?;
    Ok(weighted)
}

fn route_match(mut given: pb::RouteMatch, at: &Path<'_>) -> Result<RouteMatch, Refused> {
    let path = match given.path_specifier.take() {
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.into()),
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') {
                return Err(at.field("path_separated_prefix").refuse("must start with / and not end with it"));
            }
            PathMatch::Segments(prefix.into())
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        None => return Err(at.refuse("one of path, prefix, path_separated_prefix and connect_matcher is required")),
        other => {
            let left = pb::RouteMatch { path_specifier: other, ..Default::default() };
            at.rest(&left)?;
            return Err(at.refuse(NOT_SUPPORTED));
        }
    };
    if boolean(given.case_sensitive, true) {
        given.case_sensitive = None;
    }
    let mut matches = RouteMatch { path, method: None, headers: Vec::new() };
    let at_headers = at.field("headers");
    for (index, header) in take(&mut given.headers).into_iter().enumerate() {
        let at = &at_headers.index(index);
        if header.name != ":method" {
            matches.headers.push(header_match(header, at)?);
        } else if matches.method.replace(method_match(header, at)?).is_some() {
            return Err(at.refuse("only one matcher of :method is supported by this proxy"));
        }
    }
    at.rest(&given)?;
    Ok(matches)
}

fn method_match(mut given: pb::HeaderMatcher, at: &Path<'_>) -> Result<Method, Refused> {
    given.name.clear();
    let value = value_match(&mut given, at)?;
    at.rest(&given)?;
    match value {
        ValueMatch::Exact(method) => {
            Method::from_bytes(method.as_bytes()).map_err(|_| at.refuse(format!("{method:?} is not a method")))
        }
        _ => Err(at.refuse("of :method only an exact match is supported by this proxy")),
    }
}

fn header_match(mut given: pb::HeaderMatcher, at: &Path<'_>) -> Result<HeaderMatch, Refused> {
    let name = take(&mut given.name);
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| at.field("name").refuse(format!("{name:?} is not the name of a header that can be matched")))?;
    let value = value_match(&mut given, at)?;
    let invert = take(&mut given.invert_match);
    at.rest(&given)?;
    Ok(HeaderMatch { name, value, invert })
}

#[allow(deprecated)] // older control planes still send exact_match and its like
fn value_match(given: &mut pb::HeaderMatcher, at: &Path<'_>) -> Result<ValueMatch, Refused> {
    match given.header_match_specifier.take() {
        None => Ok(ValueMatch::Present(true)),
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => Ok(ValueMatch::Present(wanted)),
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => string_match(matcher, &at.field("string_match")),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => Ok(ValueMatch::Exact(text.into())),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => Ok(ValueMatch::Prefix(text.into())),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => Ok(ValueMatch::Suffix(text.into())),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => Ok(ValueMatch::Contains(text.into())),
        other => {
            at.rest(&pb::HeaderMatcher { header_match_specifier: other, ..Default::default() })?;
            Err(at.refuse(NOT_SUPPORTED))
        }
    }
}

fn string_match(mut given: StringMatcher, at: &Path<'_>) -> Result<ValueMatch, Refused> {
    let value = match given.match_pattern.take() {
        Some(MatchPattern::Exact(text)) => ValueMatch::Exact(text.into()),
        Some(MatchPattern::Prefix(text)) => ValueMatch::Prefix(text.into()),
        Some(MatchPattern::Suffix(text)) => ValueMatch::Suffix(text.into()),
        Some(MatchPattern::Contains(text)) => ValueMatch::Contains(text.into()),
        None => return Err(at.refuse("one of exact, prefix, suffix and contains is required")),
        other => {
            at.rest(&StringMatcher { match_pattern: other, ..Default::default() })?;
            return Err(at.refuse(NOT_SUPPORTED));
        }
    };
    at.rest(&given)?;
    Ok(value)
}

/// `None` when it asks for no retry at all.
fn retry(mut given: pb::RetryPolicy, at: &Path<'_>) -> Result<Option<RetryPolicy>, Refused> {
    let at_on = at.field("retry_on");
    let mut on = RetryOn::default();
    for condition in take(&mut given.retry_on).split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        match condition {
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "reset-before-request" => on.reset_before_request = true,
            "retriable-headers" => on.retriable_headers = true,
            _ => return Err(at_on.refuse(format!("`{}` is {NOT_SUPPORTED}", condition.escape_debug()))),
        }
    }
    let at_retriable = at.field("retriable_headers");
    let retriable = take(&mut given.retriable_headers).into_iter().enumerate();
    let retriable_headers =
        retriable.map(|(index, one)| header_match(one, &at_retriable.index(index))).collect::<Result<Vec<_>, _>>()?;
    if on.retriable_headers == retriable_headers.is_empty() {
        return Err(at_retriable.refuse("goes with `retriable-headers` in retry_on"));
    }
    let (base_interval, max_interval) = back_off(given.retry_back_off.take(), &at.field("retry_back_off"))?;
    let at_hosts = at.field("retry_host_predicate");
    let mut avoid_previous_hosts = false;
    for (index, mut predicate) in take(&mut given.retry_host_predicate).into_iter().enumerate() {
        let at = &at_hosts.index(index);
        predicate.name.clear(); // the type says what it is
        let at_config = at.field("typed_config");
        let Some(retry_host_predicate::ConfigType::TypedConfig(config)) = predicate.config_type.take() else {
            return Err(at_config.refuse("required"));
        };
        at_config
            .any(&config, |previous: PreviousHostsPredicate, at| at.rest(&previous))?
            .ok_or_else(|| at_config.refuse_type(&config))?;
        at.rest(&predicate)?;
        avoid_previous_hosts = true;
    }
    given.host_selection_retry_max_attempts = 0; // a bound for hosts picked in vain; ours are picked among the others
    unbounded(given.per_try_timeout.take(), &at.field("per_try_timeout"))?;
    let policy = RetryPolicy {
        on,
        num_retries: uint32(given.num_retries.take()).unwrap_or(1),
        base_interval,
        max_interval,
        avoid_previous_hosts,
        retriable_headers,
    };
    at.rest(&given)?;
    Ok((policy.on != RetryOn::default() && policy.num_retries > 0).then_some(policy))
}

fn back_off(given: Option<pb::retry_policy::RetryBackOff>, at: &Path<'_>) -> Result<(Duration, Duration), Refused> {
    let mut given = given.unwrap_or_default();
    let base = duration(given.base_interval.take(), &at.field("base_interval"))?.unwrap_or(Duration::from_millis(25));
    let max =
        duration(given.max_interval.take(), &at.field("max_interval"))?.unwrap_or_else(|| base.saturating_mul(10));
    at.rest(&given)?;
    if base.is_zero() || max < base {
        return Err(at.refuse("base_interval must be more than zero and max_interval no less than it"));
    }
    Ok((base, max))
}

/// Only for tests: a table as if it had come from RDS.
#[cfg(test)]
pub(crate) fn table_for_test(given: pb::RouteConfiguration) -> Result<RouteTable, Refused> {
    table(given, &Path::root::<pb::RouteConfiguration>(), &mut Names::default())
}
