//! Who resolves the app's names. Pure.

use anyhow::{Result, bail};

use super::Resolver;
use crate::cli::WallKind;
use crate::destination::{Destination, Pattern, Rules, inside_address};
use crate::dns::Dns;
use crate::network::IpLists;
use crate::via::Via;

/// How the forwarder answers DNS.
pub(super) fn of_forwarder(
    asked: Option<&str>,
    wall: WallKind,
    via: &Via,
    rules: &Rules,
    allowed: &[Pattern],
) -> Result<(Dns, Resolver)> {
    let has_rules = !rules.is_empty();
    if wall == WallKind::Address {
        if let Some(dns) = asked
            && dns.parse::<Dns>()? != Dns::Off
        {
            bail!(
                "--dns {dns} needs --wall strict: in the address wall a program that gets an address and passes the proxy by hangs for two minutes, where without one it fails at once"
            );
        }
        return Ok((Dns::Off, Resolver::Off));
    }
    let dns = asked.map_or_else(|| Ok(Dns::default_for(via, has_rules)), str::parse)?;
    dns.check(via, has_rules)?;
    if let Dns::Tcp(resolver) = dns {
        let destination = Destination::from_ip(resolver.ip(), resolver.port())?;
        if let Some(why) = inside_address(resolver.ip(), &[])
            && !allowed.iter().any(|allowed| allowed.matches(&destination))
        {
            bail!("--dns {dns}: the resolver is inside ({why}); --allow-destination {destination} opens it");
        }
    }
    Ok((dns, if dns == Dns::Off { Resolver::Off } else { Resolver::Forwarder }))
}

/// Whose resolver the app has without a forwarder: with plain rules the host's, unless they deny all.
pub(super) fn without_forwarder(asked: Option<&str>, wall: WallKind, rules: &IpLists) -> Result<(Dns, Resolver)> {
    let resolver = match asked.map(str::parse).transpose()? {
        None if wall == WallKind::Address && !rules.denies_any() => Resolver::Host,
        Some(Dns::Host) if wall == WallKind::Address => Resolver::Host,
        None | Some(Dns::Off) => Resolver::Off,
        Some(Dns::Host) => {
            bail!("--dns host has no network to go with: --via none without --deny leaves none whatever")
        }
        Some(dns) => bail!("--dns {dns} is the forwarder's, and --via none has none; use --dns host or --dns off"),
    };
    Ok((Dns::Off, resolver))
}
