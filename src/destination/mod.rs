//! What the app may ask the forwarder for: names, addresses, and which of them are inside.
//!
//! Everything here is pure. Every spelling of an address becomes the address at the door, so that
//! no later step can be fooled by `0x7f.1` or a trailing dot.

mod inside;
mod nearest;
mod pattern;
mod rules;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

pub use inside::{carried, inside_address, inside_name};
pub use pattern::Pattern;
pub use rules::{Judgement, Refusal, Rules};

/// The longest name DNS can carry, written out (RFC 1035, 255 octets on the wire).
const MAX_NAME: usize = 253;
/// The longest label DNS can carry.
const MAX_LABEL: usize = 63;
/// The longest text that is looked at: four bytes for each character of the longest name.
const MAX_TEXT: usize = 4 * MAX_NAME;

/// A host as the app named it: normalised, and never both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: lower case, ASCII, without a trailing dot.
    Name(String),
    /// An address, whatever spelling it came in.
    Ip(IpAddr),
}

impl Host {
    /// Whether this is this host's loopback, by address or by one of the names that lead nowhere else
    /// (RFC 6761, 6.3).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            bail!("`{}` is longer than the {MAX_NAME} bytes a name can have", printable(text));
        }
        // A scope (`%eth0`) can only matter for link-local addresses; it plays no part in judging.
        let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let unscoped = bare.unwrap_or(text).split('%').next().unwrap_or_default();
        if let Ok(address) = unscoped.parse::<Ipv6Addr>() {
            return Ok(Host::Ip(address.into()));
        }
        if bare.is_some() {
            bail!("`{}` is not an IPv6 address", printable(text));
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            // IDNA also folds look-alikes such as full-width digits, so it comes before judging.
            idna::domain_to_ascii(text)
                .with_context(|| format!("`{}` is not a valid international name", printable(text)))?
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if let Some(address) = parse_ipv4(name) {
            return Ok(Host::Ip(address.into()));
        }
        check_name(name)?;
        Ok(Host::Name(name.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Where a connection shall go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port; 0 only in a question about the host, never in a connection.
    pub port: u16,
}

impl Destination {
    /// A destination from a host and a port, both as the app wrote them.
    pub fn new(host: &str, port: u16) -> Result<Self> {
        let host: Host = host.parse()?;
        if port == 0 {
            bail!("{host} was asked for at port 0, which nothing can listen on");
        }
        Ok(Self { host, port })
    }

    /// A destination from an address.
    pub fn from_ip(address: IpAddr, port: u16) -> Result<Self> {
        Self::new(&address.to_string(), port)
    }

    /// Parses `HOST:PORT` or, given a default port, `HOST`.
    ///
    /// An IPv6 address may come without brackets: Qt and Telegram write `CONNECT 2001:db8::a:443`,
    /// where the last colon stands before the port.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match (port, default_port) {
            (Some(""), Some(port)) | (None, Some(port)) => port,
            (Some(port), _) => parse_port(port)?,
            (None, None) => bail!("`{}` lacks a port: write HOST:PORT", printable(text)),
        };
        Self::new(host, port)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => write!(f, "{}", self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

/// Parses a port; `u16::from_str` would also take `+80`.
pub(crate) fn parse_port(text: &str) -> Result<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => bail!("`{}` is not a port: use a number from 1 to 65535", printable(text)),
    }
}

/// Text of unknown origin, fit for one line of a message or a log.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Every spelling that libc's `inet_aton` takes for an address: one to four parts, each decimal,
/// octal (`0177`) or hexadecimal (`0x7f`), the last one filling what is left.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = Vec::with_capacity(4);
    for part in text.split('.') {
        let (digits, radix) = match part.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&part[2..], 16),
            [b'0', _, ..] => (&part[1..], 8),
            _ => (part, 10),
        };
        // `from_str_radix` would take a sign.
        if parts.len() == 4 || !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
            return None;
        }
        parts.push(u32::from_str_radix(digits, radix).ok()?);
    }
    let (last, leading) = parts.split_last()?;
    let room = 32 - 8 * leading.len() as u32;
    if u64::from(*last) >= 1 << room || leading.iter().any(|part| *part > 255) {
        return None;
    }
    let mut address = *last;
    for (index, part) in leading.iter().enumerate() {
        address |= part << (24 - 8 * index);
    }
    Some(address.into())
}

/// Whether a normalised `name` is an onion service's. Tor finds those and no resolver does, which would only learn of
/// them (RFC 7686, 2).
pub fn is_onion(name: &str) -> bool {
    name == "onion" || name.ends_with(".onion")
}

fn check_name(name: &str) -> Result<()> {
    let shown = || printable(name);
    if name.is_empty() {
        bail!("the host is empty: write HOST:PORT");
    }
    if name.len() > MAX_NAME {
        bail!("`{}` is longer than the {MAX_NAME} bytes a name can have", shown());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            bail!("`{}` has a label that is empty or longer than {MAX_LABEL} bytes", shown());
        }
        // Names are sent on in other protocols' headers, so nothing that could end one passes.
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            bail!("`{}` has a character that no host name has", shown());
        }
    }
    // As WHATWG URL has it: what ends in a number is an address or nothing. `127.0.0.08` is no
    // address to libc, but some resolver further on may think otherwise.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").unwrap_or("-");
    if last.bytes().all(|byte| byte.is_ascii_digit()) || hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("`{}` ends in a number but is not an address", shown());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
