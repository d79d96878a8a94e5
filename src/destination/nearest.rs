//! The pattern that was most likely meant by what is none. Only for messages.

use ipnet::IpNet;

use super::pattern::parse;
use super::{Host, Pattern};
use crate::network;

/// The nearest pattern to `text`, if one is near.
pub(super) fn pattern(text: &str) -> Option<Pattern> {
    let text = text.trim();
    let guesses = [from_url(text), from_network(text), from_wildcard(text), from_ports(text), from_address(text)];
    guesses.into_iter().flatten().find_map(|guess| parse(&guess))
}

/// `https://me@a.test/x`, and `a.test/x`.
fn from_url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(match scheme.to_ascii_lowercase().as_str() {
        "http" if !has_port => format!("{host}:80"),
        "https" if !has_port => format!("{host}:443"),
        // A prefix that is none stays for the others to guess at.
        "" if rest.split_once('/').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit())) => None?,
        _ => host.to_owned(),
    })
}

/// `10.0.0/24`, `10.1.2.3/8`, and `10.`
fn from_network(text: &str) -> Option<String> {
    let (host, ports) = match text.split_once(':') {
        Some((host, ports)) if !ports.contains(':') => (host, format!(":{ports}")),
        _ => (text, String::new()),
    };
    let bare = host.trim_matches(['[', ']']);
    let near = match bare.parse::<IpNet>() {
        Ok(net) => net.trunc().to_string(),
        Err(_) if bare.contains(['.', ':', '/']) => network::nearest(bare)?,
        Err(_) => return None,
    };
    Some(near + &ports)
}

/// `*`, `.a.test` and `*a.test`, as other programs write them.
fn from_wildcard(text: &str) -> Option<String> {
    match text.strip_prefix('*').unwrap_or(text) {
        "" if !text.is_empty() => Some("any".to_owned()),
        ports if ports.starts_with(':') => Some(format!("any{ports}")),
        rest if rest.len() < text.len() || rest.starts_with('.') => Some(format!("*.{}", rest.trim_start_matches('.'))),
        _ => None,
    }
}

/// `a.test:`, `a.test:*`, and `a.test:90-80`.
fn from_ports(text: &str) -> Option<String> {
    let (host, ports) = text.rsplit_once(':')?;
    match ports.split_once('-') {
        Some((from, to)) => Some(format!("{host}:{to}-{from}")),
        None if matches!(ports, "" | "*") => Some(host.to_owned()),
        None => None,
    }
}

/// `0x7f000001` as the address that it is, `[a.test]:80` as the name in it.
fn from_address(text: &str) -> Option<String> {
    let (host, ports) = text.split_once([':', ']']).unwrap_or((text, ""));
    let host = host.trim_start_matches('[').parse::<Host>().ok()?;
    let ports = ports.trim_start_matches(':');
    Some(if ports.is_empty() { host.to_string() } else { format!("{host}:{ports}") })
}
