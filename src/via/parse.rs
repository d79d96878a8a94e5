//! The grammar of `--via`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use percent_encoding::percent_decode_str;

use super::{Credentials, Endpoint, Hop, HopKind, Via};
use crate::destination::{Host, parse_port, printable};
use crate::nearest::nearest;
use crate::units::text::simplified;

/// RFC 1929 counts user and password in one byte each.
const MAX_CREDENTIAL: usize = 255;
/// The port that SOCKS is registered at.
const SOCKS_PORT: u16 = 1080;
/// The port of Tor's own default configuration.
const TOR_PORT: u16 = 9050;

/// Where browsers and curl look for an HTTPS proxy.
const HTTPS_PORT: u16 = 443;
/// Each hop adds a round trip and perhaps a layer of TLS; nobody has use for more.
const MAX_HOPS: usize = 8;

/// Every scheme with an authority behind it.
const SCHEMES: [(&str, HopKind); 7] = [
    ("socks5h", HopKind::Socks5),
    ("socks5", HopKind::Socks5),
    ("socks", HopKind::Socks5),
    ("http", HopKind::Http),
    ("tor", HopKind::Tor),
    ("socks4a", HopKind::Socks4a),
    ("https", HopKind::Https),
];

pub(super) fn via(specs: &[String]) -> Result<Via> {
    match specs {
        [] => bail!("no way out is given: use --via tor, --via socks5h://HOST:PORT or --via direct"),
        [only] if only == "direct" => Ok(Via::Direct),
        [only] if only == "none" => Ok(Via::None),
        _ if specs.iter().any(|spec| spec == "direct" || spec == "none") => {
            bail!("`direct` and `none` stand alone: give either one of them or upstreams to --via")
        }
        _ => chain(specs),
    }
}

fn chain(specs: &[String]) -> Result<Via> {
    ensure!(specs.len() <= MAX_HOPS, "{} upstreams are given: a chain has at most {MAX_HOPS} hops", specs.len());
    let hops = specs.iter().map(|spec| hop(spec)).collect::<Result<Vec<_>>>()?;
    for hop in hops.iter().skip(1) {
        // The hop before it would look for it on its own machine.
        match &hop.endpoint {
            Endpoint::Tcp { .. } => {}
            Endpoint::Unix(_) => {
                bail!("`{}` is a socket of this machine: put it first in the chain", shown(&hop.to_string()))
            }
            Endpoint::FindTor => {
                bail!("`tor` is this machine's Tor: put it first in the chain, or name another by tor://HOST:PORT")
            }
        }
    }
    Ok(Via::Chain(hops))
}

fn hop(spec: &str) -> Result<Hop> {
    ensure!(!spec.is_empty(), "--via is empty: use tor, socks5h://HOST:PORT, http://HOST:PORT or direct");
    ensure!(
        !spec.contains(|character: char| character.is_control() || character.is_whitespace()),
        "`{}` has a space or a control character in it: percent-encode it",
        shown(spec)
    );
    if spec == "tor" {
        return Ok(Hop { kind: HopKind::Tor, endpoint: Endpoint::FindTor, credentials: None });
    }
    if spec.starts_with('@') {
        bail!("`{}` in place of an upstream: a file cannot name another file", shown(spec));
    }
    for (scheme, kind, example) in
        [("tor:", HopKind::Tor, "tor:/run/tor/socks"), ("unix:", HopKind::Socks5, "unix:/run/proxy/socks")]
    {
        // `tor://` names a host.
        if let Some(path) = spec.strip_prefix(scheme).filter(|rest| kind != HopKind::Tor || !rest.starts_with("//")) {
            let is_path = path.starts_with('/') && !path.starts_with("//");
            ensure!(is_path, "`{}` needs an absolute path: {example}", shown(spec));
            let path = simplified(path)
                .with_context(|| format!("`{}` has a `..` in it: write the path without", shown(spec)))?;
            return Ok(Hop { kind, endpoint: Endpoint::Unix(path), credentials: None });
        }
    }
    let Some((scheme, rest)) = spec.split_once("://") else {
        return Err(no_scheme(spec));
    };
    let kind = kind(scheme)?;
    let (credentials, authority) = match rest.rsplit_once('@') {
        Some((credentials, authority)) => (Some(credentials), authority),
        None => (None, rest),
    };
    let credentials = credentials.map(|text| parse_credentials(text, kind)).transpose()?;
    Ok(Hop { kind, endpoint: parse_endpoint(scheme, kind, authority)?, credentials })
}

fn kind(scheme: &str) -> Result<HopKind> {
    let lower = scheme.to_ascii_lowercase();
    if lower == "socks4" {
        bail!("`socks4://` carries no names, so they would be resolved here: use socks4a://HOST:PORT");
    }
    match SCHEMES.iter().find(|(known, _)| *known == lower) {
        Some((_, kind)) => Ok(*kind),
        None => Err(match nearest(&lower, schemes()) {
            Some(near) => anyhow!("`{}://` is no scheme: did you mean {near}://HOST:PORT?", shown(scheme)),
            None => anyhow!("`{}://` is no scheme: use socks5h://HOST:PORT", shown(scheme)),
        }),
    }
}

fn parse_endpoint(scheme: &str, kind: HopKind, authority: &str) -> Result<Endpoint> {
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if let Some(at) = authority.find(['/', '?', '#']) {
        bail!("`{}` has something after its port: use {scheme}://HOST:PORT", shown(&authority[at..]));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    ensure!(!host.is_empty(), "the upstream's host is empty: use {scheme}://HOST:PORT");
    if host.contains(':') && !host.starts_with('[') {
        bail!("`{}` is ambiguous: put an IPv6 address in brackets, {scheme}://[HOST]:PORT", shown(authority));
    }
    let host: Host = host.parse()?;
    let port = match (port, kind) {
        (Some(port), _) => parse_port(port)?,
        (None, HopKind::Socks5 | HopKind::Socks4a) => SOCKS_PORT,
        (None, HopKind::Https) => HTTPS_PORT,
        (None, HopKind::Tor) => TOR_PORT,
        // 3128, 8080, 1080 and 80 are all somebody's default, so none is ours.
        (None, HopKind::Http) => bail!("http://{host} needs a port, for example http://{host}:3128"),
    };
    Ok(Endpoint::Tcp { host, port })
}

fn parse_credentials(text: &str, kind: HopKind) -> Result<Credentials> {
    if kind == HopKind::Tor {
        bail!("tor:// takes no user and password: they would choose the circuit, which each launch has for itself");
    }
    if kind == HopKind::Socks4a && text.contains(':') {
        bail!("socks4a:// takes a user id and no password: write socks4a://USER@HOST:PORT, or use socks5h://");
    }
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    // None of these messages may quote what it is about.
    let decoded = |text: &str| -> Result<String> {
        let decoded = percent_decode_str(text).decode_utf8();
        let decoded = decoded.map_err(|_| anyhow!("the user or password is not UTF-8 once percent-decoded"))?;
        ensure!(decoded.len() <= MAX_CREDENTIAL, "the user or password is longer than {MAX_CREDENTIAL} bytes");
        ensure!(!decoded.contains(char::is_control), "the user or password has a control character in it");
        Ok(decoded.into_owned())
    };
    let credentials = Credentials { user: decoded(user)?, password: decoded(password)? };
    ensure!(!credentials.user.is_empty(), "the user before the @ is empty: write USER:PASSWORD@HOST:PORT");
    ensure!(
        !matches!(kind, HopKind::Http | HopKind::Https) || !credentials.user.contains(':'),
        "the user has a colon in it, which HTTP's Basic authentication cannot carry"
    );
    Ok(credentials)
}

fn no_scheme(spec: &str) -> anyhow::Error {
    if spec.contains(':') {
        let slashes = spec.split_once(":/").map(|(scheme, _)| scheme);
        return match slashes.and_then(|scheme| nearest(scheme, schemes())) {
            Some(near) => anyhow!("`{}` lacks a slash: did you mean {near}://HOST:PORT?", shown(spec)),
            None => anyhow!("`{}` does not say how to speak to it: use socks5h://HOST:PORT", shown(spec)),
        };
    }
    match ["tor", "direct", "none"].into_iter().find(|word| strsim::damerau_levenshtein(word, spec) == 1) {
        Some(word) => anyhow!("`{}` is no way out: did you mean {word}?", shown(spec)),
        None => anyhow!("`{}` is no way out: use tor, direct, none or socks5h://HOST:PORT", shown(spec)),
    }
}

/// A piece of a specification, fit for a message: without what may be a user and a password.
fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, after)) if !before.is_empty() => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            printable(&format!("{scheme}***@{after}"))
        }
        _ => printable(text),
    }
}

fn schemes() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|(known, _)| *known)
}
