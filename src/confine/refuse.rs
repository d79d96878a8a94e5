//! Services that cannot be confined, each with its reason: a wall that does not hold is none.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::service::Service;
use super::{name_of, paths, unit_file};
use crate::buses::Buses;
use crate::confinement::OPENING;
use crate::installed;
use crate::manager::{Kind, Manager};
use crate::name::SLICE;
use crate::network;
use crate::units::{LINKERS, PRIVATE_TMP, TOR};

/// Where systemd's generators put units, and where transient ones are: no file of a package's or the user's.
const GENERATED: [&str; 2] = ["/systemd/generator", "/systemd/transient"];

/// The system bus.
const BUS: [&str; 3] = ["dbus.socket", "dbus.service", "dbus-broker.service"];

/// What comes before it in a boot.
const BEFORE_THE_BUS: [&str; 3] = ["sysinit.target", "basic.target", "sockets.target"];

/// The name of a service as the user may write it: in full.
///
/// # Errors
/// It is no service, or a template.
pub fn full_name(word: &str) -> Result<String> {
    const TYPES: [&str; 10] =
        ["socket", "target", "timer", "path", "slice", "scope", "mount", "automount", "swap", "device"];
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let name = match word.rsplit_once('.') {
        Some((_, "service")) => word.to_owned(),
        Some((_, kind)) if TYPES.contains(&kind) => bail!("{word} is a {kind}, and services alone can be confined"),
        _ => format!("{word}.service"),
    };
    // systemd.unit(5): 255 characters in all.
    if !name.chars().all(is_plain) || name.len() > 255 || name.starts_with(['.', '@']) {
        bail!("{word:?} is no name of a service; systemctl list-units --type=service lists them");
    }
    if name.ends_with("@.service") {
        let template = name.trim_end_matches(".service");
        bail!("{name} is a template, of which nothing runs: confine an instance of it, such as {template}NAME.service");
    }
    Ok(name)
}

/// # Errors
/// There is no such service, or none that would run.
pub fn refuse_missing(service: &Service) -> Result<()> {
    let Service { name, .. } = service;
    match service.load_state.as_str() {
        "loaded" => Ok(()),
        "not-found" => bail!("there is no service {name}; systemctl list-unit-files --type=service lists them"),
        "masked" => bail!("{name} is masked, so it never runs: systemctl unmask {name} first"),
        other => bail!("systemd could not load {name} ({other}); see systemctl status {name}"),
    }
}

/// What systemd holds of a service that is confined is in part what our drop-in repeats: of what has changed below
/// that, nothing would be seen, and a new drop-in would hide that it has.
///
/// # Errors
/// Another of its files is newer than the drop-in; what stands in the place of that isn't ours.
pub fn refuse_changed(service: &Service, own: &Path) -> Result<()> {
    let changed = installed::find(own)?.and_then(|_| service.newer(own));
    match changed {
        Some(file) => bail!(
            "{0} has changed since it was confined ({file} is newer than its drop-in), and goes on by its old commands: appfw unconfine {0}, then confine it again",
            service.name
        ),
        None => Ok(()),
    }
}

/// Looks at the service as it is now; `appfw` is what proves its wall.
///
/// # Errors
/// The reason why this service cannot be confined so.
pub fn refuse(service: &Service, buses: &Buses, appfw: &Path) -> Result<()> {
    let Service { name, .. } = service;
    refuse_missing(service)?;
    if service.slice == SLICE || name.starts_with("appfw-") {
        bail!("{name} is a unit of appfw's own, which has its wall already");
    }
    // systemd.unit(5): a drop-in for `a-.service` is one for each `a-b.service`.
    if name.ends_with("-.service") && !name.contains('@') {
        bail!(
            "{name} ends in a dash, so that its drop-ins are also those of every service whose name begins with {0}, which would be confined with it: give it another name, such as {1}.service",
            name.trim_end_matches(".service"),
            name.trim_end_matches("-.service")
        );
    }
    if let Some(fragment) = &service.fragment
        && fragment.starts_with("/run")
        && GENERATED.iter().any(|place| fragment.to_string_lossy().contains(place))
    {
        let place = fragment.parent().unwrap_or(fragment).display();
        bail!(
            "{name} is made anew at each boot, in {place}: write a unit file for it first (systemctl edit --full --force {name})"
        );
    }
    past_the_wall(service, appfw)?;
    if service.kind == "dbus" && *buses != Buses::System {
        bail!(
            "{name} is a service of the system bus (Type=dbus), which is hidden from it: --dbus system leaves it the bus, and with that a way round the wall"
        );
    }
    if !service.joins.is_empty() {
        bail!(
            "{name} has JoinsNamespaceOf={}, and a unit is in one network namespace alone: the wall's would not be its",
            service.joins.join(" ")
        );
    }
    if !service.namespace_path.is_empty() {
        bail!(
            "{name} has NetworkNamespacePath={}, and a unit is in one network namespace alone: take that out first",
            service.namespace_path
        );
    }
    let sockets: Vec<&str> =
        service.triggered_by.iter().map(String::as_str).filter(|unit| unit.ends_with(".socket")).collect();
    if !sockets.is_empty() {
        bail!(
            "{name} gets its sockets from {}, which systemd opens in the host's network, past any wall of the service's: have the service listen itself (systemctl disable --now {0}), then confine it",
            sockets.join(" ")
        );
    }
    Ok(())
}

/// # Errors
/// Why this service of the system would not run behind its wall, as it has a name on the bus.
pub fn refuse_useless(service: &Service, buses: &Buses) -> Result<()> {
    let Service { name, .. } = service;
    if !service.bus_name.is_empty() && service.kind != "dbus" && *buses != Buses::System {
        bail!(
            "{name} has a name on the system bus ({}, BusName=), which is hidden from it: --dbus system leaves it the bus, and with that a way round the wall",
            service.bus_name
        );
    }
    if let Some(path) = lost_in_tmp(service).find(|path| service.start.iter().any(|exec| exec.path == **path)) {
        bail!(
            "{name} runs {path}, and behind its wall it has a /tmp and a /var/tmp of its own: install that elsewhere, such as in /usr/local/bin"
        );
    }
    Ok(())
}

/// What its commands name in the host's /tmp and /var/tmp, where it has none of its own yet: programs, and arguments that
/// are files now.
pub fn lost_in_tmp(service: &Service) -> impl Iterator<Item = &str> {
    let is_shared = !service.private.contains(&PRIVATE_TMP);
    let commands = service.start.iter().chain(service.guarded.iter().flatten()).filter(move |_| is_shared);
    let words = commands.flat_map(|exec| {
        let files = exec.argv.iter().skip(1).filter(|word| Path::new(word).is_file());
        std::iter::once(&exec.path).chain(files)
    });
    words.map(String::as_str).filter(|path| ["/tmp", "/var/tmp"].iter().any(|top| Path::new(path).starts_with(top)))
}

/// To be asked before what else is wrong with such a one, as no advice is to be given of how to take a machine's bus or
/// its journal apart.
///
/// # Errors
/// Its place in a boot is before that of what its wall is proven by.
pub fn refuse_early(service: &Service) -> Result<()> {
    let Service { name, .. } = service;
    if BUS.contains(&name.as_str()) || service.triggered_by.iter().any(|unit| BUS.contains(&unit.as_str())) {
        bail!(
            "{name} is the system bus, by which the walls of all services are proven, its own as well: leave it as it is"
        );
    }
    let early = |unit: &&String| BUS.iter().chain(&BEFORE_THE_BUS).any(|one| one == unit);
    if let Some(target) = service.before.iter().find(early) {
        bail!(
            "{name} starts early in a boot (Before={target}), where there is no system bus yet, by which its wall is proven: no boot would start it"
        );
    }
    Ok(())
}

/// # Errors
/// It is Tor, which would have its way out through itself.
pub fn refuse_itself(name: &str) -> Result<()> {
    if TOR.contains(&name) || name.starts_with("tor@") {
        bail!("{name} is Tor itself, and its only way out would be by itself: choose another --via");
    }
    Ok(())
}

/// `earlier` is Tor, or what Tor starts after, and starts itself after these, as far as they are loaded.
///
/// # Errors
/// The service is among them, and would start after Tor itself.
pub fn refuse_cycle(service: &Service, earlier: &str, after: &[String]) -> Result<()> {
    let Service { name, before, .. } = service;
    if after.contains(name) || before.iter().any(|unit| unit == earlier) {
        bail!(
            "{name} is to be up before {earlier} (Before=), so before Tor, after which it would start: systemd would start one of them only; take that order out by a drop-in, or say --via socks5h://127.0.0.1:9050, which waits for nobody"
        );
    }
    Ok(())
}

/// The wall's rules take the place of the service's own, which must not have been the stricter ones.
///
/// # Errors
/// They may have been.
pub fn refuse_opening(service: &Service, deny: &[IpNet], own: &Path) -> Result<()> {
    if network::any().iter().all(|all| deny.contains(all)) {
        return Ok(());
    }
    // What systemd holds of them is ours already, where the service is confined.
    for path in service.others(own) {
        let text = fs::read(&path).with_context(|| {
            format!("cannot read {path}, which may deny {} more than these rules (IPAddressDeny=)", service.name)
        })?;
        let denied = unit_file::values(&String::from_utf8_lossy(&text), "IPAddressDeny");
        if denied.iter().any(|networks| !networks.is_empty()) {
            bail!(
                "{} has rules of its own (IPAddressDeny= in {path}), whose place these take, and what they deny would be open: say all that it may reach, as in --deny any --allow NET",
                service.name
            );
        }
    }
    Ok(())
}

/// Settings by which its processes are elsewhere, or exempt.
fn past_the_wall(service: &Service, appfw: &Path) -> Result<()> {
    let name = &service.name;
    let set = |linker: &&str| service.environment.iter().any(|variable| variable.split('=').next() == Some(linker));
    if let Some(linker) = LINKERS.iter().find(|linker| set(linker)) {
        bail!(
            "{name} sets {linker}, by which the dynamic linker would go in the proof of its wall as well: have a script that it starts set that"
        );
    }
    if !service.root.is_empty() {
        bail!(
            "{name} has a root of its own ({}), in which its wall would be proven by what stands there (RootDirectory=, RootImage=)",
            service.root
        );
    }
    paths::refuse_binds(service, appfw)?;
    if let Some(setting) = service.overlays.first() {
        bail!("{name} has {setting}=, which may lay anything over the proof of its wall and what that asks");
    }
    if service.opens_files {
        bail!("{name} gets descriptors that systemd opens (OpenFile=), past any wall: have it open its files itself");
    }
    if !service.pam_name.is_empty() {
        bail!(
            "{name} has PAMName={}: PAM moves its processes into a session's cgroup, which has no wall",
            service.pam_name
        );
    }
    if service.delegate {
        bail!(
            "{name} has Delegate=: it makes cgroups, and most likely namespaces, of its own, in which no wall can be proven"
        );
    }
    if let Some(exec) = service.start.iter().find(|exec| exec.is_roots()) {
        bail!(
            "{name} runs {} as root and lets it become {} by itself (`!`), where root's wall would be needed: take the `!` or User= away first",
            exec.path,
            service.user
        );
    }
    let [_, _, post] = &service.guarded;
    if let Some(exec) = service.start.iter().chain(post).find(|exec| exec.is_privileged()) {
        bail!(
            "{name} runs {} with full privileges (`+`), by which it can leave any wall: take the `+` away in a drop-in first",
            exec.path
        );
    }
    if let Some(exec) = post.first().filter(|_| service.frees_other_commands) {
        bail!(
            "{name} runs {} with full privileges (PermissionsStartOnly=yes), by which it can leave any wall: set that to no in a drop-in, and put a `+` before what needs it",
            exec.path
        );
    }
    let opening: Vec<&str> =
        OPENING.iter().filter(|(_, bit)| service.ambient >> bit & 1 == 1).map(|(name, _)| *name).collect();
    if !opening.is_empty() {
        bail!(
            "{name} asks for {} (AmbientCapabilities=), by which it can leave any wall or needs what none has",
            opening.join(" ")
        );
    }
    Ok(())
}

/// From systemd 254 on it has itself what another has of it (`JoinsNamespaceOf=`); before, that must be looked for.
pub(super) async fn refuse_joined(manager: &Manager<'_>, service: &Service) -> Result<()> {
    let Service { name, .. } = service;
    let others = if service.has_subgroups { Vec::new() } else { manager.joined_by(name).await? };
    let servants = name_of(name)?.servants();
    match others.into_iter().find(|other| !servants.contains(other)) {
        Some(other) => bail!(
            "{other} has JoinsNamespaceOf={name}, and a unit is in one network namespace alone: what {other} keeps of {name} as it is now would not be the wall's"
        ),
        None => Ok(()),
    }
}

/// A leaf merges the lists of all slices above it (src/core/bpf-firewall.c).
pub(super) async fn refuse_slices(manager: &Manager<'_>, service: &Service) -> Result<()> {
    for slice in service.slices() {
        let list = manager.property(&slice, Kind::Slice, "IPAddressAllow").await?;
        if !crate::verify::is_empty(&list) {
            bail!(
                "{slice} has IPAddressAllow=, which opens every unit below it, {} among them: remove it",
                service.name
            );
        }
    }
    Ok(())
}
