//! What keeps the app in, by what is asked for and where it may go. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Result, bail};

use super::{ADDRESS, PORT, Supervisor};
use crate::cli::{Capture, LaunchArgs, WallKind};
use crate::filters::Filters;
use crate::host::Host;
use crate::network::{self, IpLists};
use crate::via::Via;

/// The wall that these rules and this way out take, and the rules completed by a canary.
pub(super) fn choose(
    asked: Option<WallKind>,
    supervisor: Supervisor,
    host: &Host,
    via: &Via,
    mut rules: IpLists,
    filters: &Filters,
) -> Result<(WallKind, IpLists)> {
    if supervisor != Supervisor::System {
        let or = match (host.booted, host.caller.is_root()) {
            (true, false) => ": use sudo appfw-run --uid USER …, or --system, which asks polkit",
            (true, true) => ": leave --standalone out",
            (false, _) => ", and no systemd is booted here",
        };
        if let Some(wall) = asked.filter(|wall| *wall != WallKind::Namespace) {
            let instead = if host.booted { "" } else { ": leave --wall out, and the launch gets the namespace wall" };
            bail!("--wall {} needs the system manager{or}{instead}", wall.as_str());
        }
        if !(rules.deny.is_empty() && rules.allow.is_empty()) {
            let instead = if host.booted { "" } else { ": use --via direct with --only or --block" };
            bail!("IP rules (--allow, --deny) need the system manager{or}{instead}");
        }
        return Ok((WallKind::Namespace, rules));
    }
    let plain = *via == Via::None;
    if !plain {
        let wall = asked.unwrap_or(WallKind::Strict);
        if !rules.deny.is_empty() {
            bail!(
                "--deny adds nothing here: behind a forwarder everything else is denied; plain rules go with --via none"
            );
        }
        if wall != WallKind::Address && !rules.allow.is_empty() {
            bail!("--allow needs --wall address: in the {} wall the app reaches the forwarder alone", wall.as_str());
        }
        canary(&rules)?;
        return Ok((wall, rules));
    }
    // With filters alone the address wall is to be asked for: what they let through is out of sight here.
    let by_filters = asked == Some(WallKind::Address) && !filters.is_empty();
    if rules.deny.is_empty() && rules.allow.is_empty() && !by_filters {
        if asked == Some(WallKind::Address) {
            bail!(
                "--wall address with --via none needs rules: --deny NET or --egress-filter PATH, or leave --wall out for no network whatever"
            );
        }
        return Ok((asked.unwrap_or(WallKind::Strict), rules));
    }
    if rules.deny.is_empty() && !rules.allow.is_empty() {
        bail!("allows alone restrict nothing: add --deny any");
    }
    if let Some(wall @ (WallKind::Strict | WallKind::Namespace)) = asked {
        bail!("--allow and --deny need --wall address: the {} wall has no other network to allow", wall.as_str());
    }
    let canary = canary(&rules)?;
    if rules.passes(IpAddr::V4(canary)) {
        rules.deny.push(network::host(canary));
    }
    Ok((WallKind::Address, rules))
}

/// What is captured: every connection, where the wall can. What a captured datagram's answer would be sent by
/// is a raw socket, which no socket unit makes: here they are refused at once, and QUIC falls back to TCP.
pub(super) fn capture(args: &LaunchArgs, wall: WallKind, supervisor: Supervisor, via: &Via) -> Result<Capture> {
    match (wall, via) {
        (WallKind::Namespace, Via::None) if args.capture => {
            bail!("--capture leads connections to the forwarder, and --via none has none")
        }
        (WallKind::Namespace, Via::None) => Ok(Capture::Off),
        (WallKind::Namespace, _) if args.no_capture => Ok(Capture::Off),
        // Answers to datagrams are sent by a raw socket, which a socket unit cannot make.
        (WallKind::Namespace, _) if supervisor != Supervisor::System && via.carries_datagrams() => {
            Ok(Capture::Datagrams)
        }
        (WallKind::Namespace, _) => Ok(Capture::Streams),
        _ if args.capture => {
            bail!(
                "--capture needs --wall namespace: the IP filter of the {} wall drops what is captured",
                wall.as_str()
            )
        }
        _ => Ok(Capture::Off),
    }
}

/// The address by which the proof will show that the filter is in force.
fn canary(rules: &IpLists) -> Result<Ipv4Addr> {
    match rules.free_canary() {
        Some(canary) => Ok(canary),
        None => bail!(
            "--allow covers every documentation network (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24), by which the wall is proven; allow less"
        ),
    }
}

/// `--address`, or the fixed one of a namespace, or 0.0.0.0 for one yet to be reserved.
pub(super) fn address(asked: Option<&str>, wall: WallKind, via: &Via) -> Result<SocketAddrV4> {
    let Some(word) = asked else {
        return Ok(match wall {
            WallKind::Address if *via != Via::None => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT),
            _ => ADDRESS,
        });
    };
    if wall != WallKind::Address || *via == Via::None {
        bail!("--address goes with --wall address and a forwarder: in a namespace it is always {}", ADDRESS.ip());
    }
    parse_address(word)
}

/// A forwarder's address in the address wall.
pub(crate) fn parse_address(word: &str) -> Result<SocketAddrV4> {
    let address =
        word.parse::<SocketAddrV4>().or_else(|_| word.parse::<Ipv4Addr>().map(|ip| SocketAddrV4::new(ip, PORT)));
    match address {
        Ok(address) if address.ip().is_loopback() && address.port() != 0 => Ok(address),
        _ => bail!("--address {word:?}: takes an address of 127.0.0.0/8 and a port, such as 127.100.90.50:1080"),
    }
}
