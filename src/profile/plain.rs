//! Rules without a forwarder. `--via none` alone is no network whatever, and any rule makes of it the host's network less
//! what the rules deny: so rules count only from where it is said, or above. Pure.

use anyhow::{Result, bail};

use super::applied::Applied;
use super::sheet::Sheet;
use crate::cli::{LaunchArgs, WallKind};
use crate::dns::Dns;
use crate::network::{self, IpLists};

/// Whether a key of a profile or the configuration says nothing under `--via none`, which has no forwarder: what it opens
/// there is not open, and what it keeps out is out.
pub(super) fn is_moot(key: &str, args: &LaunchArgs) -> bool {
    match key {
        "allow-destination" | "isolate" | "env-scheme" | "log-destinations" | "address" => true,
        // Beside another wall it is a contradiction, wherever the program may go.
        "capture" => args.capture && matches!(args.wall, None | Some(WallKind::Namespace)),
        "only" | "block" => !leaves_open(args),
        "dns" => {
            let dns = args.dns.as_deref().map(str::parse);
            matches!(dns, Some(Ok(Dns::Synthetic | Dns::Tcp(_)))) && !leaves_open(args)
        }
        _ => false,
    }
}

/// Whether a command line with `--via none` has rules, and these leave open what they don't name.
fn leaves_open(args: &LaunchArgs) -> bool {
    let has_rules = !(args.deny.is_empty() && args.allow.is_empty()) || args.wall == Some(WallKind::Address);
    let denies_any =
        network::parse_list("--deny", &args.deny).is_ok_and(|deny| IpLists { allow: Vec::new(), deny }.denies_any());
    has_rules && !denies_any
}

/// Judges a command line with `--via none`, completed by `sheets`, the highest first.
///
/// # Errors
/// Who said `--via none` meant no network whatever, and a lower place's key would open one.
pub(super) fn refuse_opened(args: &LaunchArgs, sheets: &[&Sheet], applied: &Applied) -> Result<()> {
    let has_filters = !(args.ingress_filter.is_empty() && args.egress_filter.is_empty());
    let (key, instead) = match args.wall {
        _ if !args.deny.is_empty() => ("deny", "--deny any"),
        Some(WallKind::Address) if has_filters => ("wall", "--wall strict"),
        _ => return Ok(()),
    };
    let is_meant = is_said("deny", args, sheets)
        || is_said("wall", args, sheets) && ["ingress-filter", "egress-filter"].iter().any(|key| is_said(key, args, sheets))
        // Nothing is open but what is said to be.
        || is_said("allow", args, sheets) && args.deny.iter().any(|network| network == "any");
    match applied.taken.get(key) {
        Some(entry) if !is_meant => bail!(
            "{key} = {} (from {}) would leave all else open under --via none, which is no network whatever without it: say {instead} as well, or take {key} out there",
            entry.value,
            applied.places(entry)
        ),
        _ => Ok(()),
    }
}

/// Whether a key is said where the way out is, or above.
fn is_said(key: &str, args: &LaunchArgs, sheets: &[&Sheet]) -> bool {
    if args.given.get(key).is_some() {
        return true;
    }
    let says_via = |sheet: &&Sheet| sheet.entries.contains_key("via");
    let above = match args.given.get("via") {
        Some(_) => 0,
        None => sheets.iter().position(says_via).map_or(0, |place| place + 1),
    };
    sheets[..above].iter().any(|sheet| sheet.entries.contains_key(key))
}
