//! All files of a confined service, as they shall be. Pure, but for the passwd database that `host` asks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::dropin::DropIn;
use super::service::Service;
use super::{CREDENTIALS, Servants, UNITS, confined, drop_in_path, name_of, options};
use crate::cli::LaunchArgs;
use crate::confinement::set;
use crate::host::Host;
use crate::installed::Wanted;
use crate::name::LaunchName;
use crate::plan::{Plan, Resolver, Tenure};
use crate::state::resolver;
use crate::units::{PRIVATE_TMP, SHARED, Value, text};
use crate::via::{Endpoint, Via, plain};

/// A plan for a service, and what follows from it.
pub struct Files {
    /// The plan.
    pub plan: Plan,
    /// The drop-in.
    pub drop_in: DropIn,
    /// What serves the service.
    pub servants: Servants,
    /// The command that makes them, without any secret.
    pub command: Vec<String>,
    /// An upstream with a password, to be kept in a file of ours.
    secret: Option<String>,
    /// Where one with a password is kept.
    file: PathBuf,
    resolver: Vec<(&'static str, String)>,
}

impl Files {
    /// Those of a service with these options. `via` is `--via`, read and parsed, with a Tor that was looked for.
    ///
    /// # Errors
    /// The options do not go together, or not with this service.
    pub fn new(mut args: LaunchArgs, via: Via, host: &Host, service: &Service) -> Result<Self> {
        let name = name_of(&service.name)?;
        let asked = args.via.clone();
        let own = Path::new(CREDENTIALS).join(name.to_string());
        let file = file_of(&asked).map_or_else(|| own.clone(), PathBuf::from);
        args.via = if via.has_secret() { vec![format!("@{}", file.display())] } else { specs(&via) };
        let secret =
            (via.has_secret() && file == own && asked != args.via).then(|| via.secret_specs().join("\n") + "\n");
        let mut command = vec!["confine".to_owned(), service.name.clone()];
        command.extend(options::words(&args)?);
        let first = service.start.first().map_or(&service.name, |exec| &exec.path);
        args.command = vec![first.into()];
        (args.unit, args.detach, args.system) = (Some(name.to_string()), true, true);
        args.dbus = args.dbus.or(Some(crate::cli::Bus::None));
        let mut plan = Plan::new(&args, via, host)?;
        plan.tenure = Tenure::Confined { service: service.name.clone(), cgroup: service.cgroup() };
        // The drop-in has /tmp be its own: also where another unit is first to make the namespaces that they share.
        let is_shared = |name: &&str| *name == PRIVATE_TMP || service.private.contains(name);
        plan.properties = SHARED.into_iter().filter(is_shared).map(|name| set(name, Value::Bool(true))).collect();
        if plan.has_forwarder() && plan.address.ip().is_unspecified() {
            bail!("--wall address with a forwarder needs its --address here");
        }
        let mut resolver = Vec::new();
        if plan.resolver != Resolver::Host {
            resolver.push(("resolv.conf", resolver::resolv_conf(&plan)));
            let nsswitch = host.nsswitch.as_ref();
            resolver.extend(nsswitch.map(|text| ("nsswitch.conf", resolver::with_host_lookups(text, plan.resolver))));
        }
        Ok(Self {
            drop_in: DropIn::new(&plan, host, service),
            servants: Servants::new(&plan, host, &file),
            plan,
            command,
            secret,
            file,
            resolver,
        })
    }

    /// Whether the forwarder is told its upstream by this file.
    #[must_use]
    pub fn uses(&self, path: &Path) -> bool {
        self.plan.via.has_secret() && path == self.file
    }

    /// The files, the drop-in last: who is killed half-way has confined nothing, and leaves units that nobody starts.
    #[must_use]
    pub fn wanted(&self, service: &Service) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let mut want = |path: PathBuf, text: String, mode| wanted.push(Wanted { path, text, mode });
        if let Some(secret) = &self.secret {
            want(Path::new(CREDENTIALS).join(self.plan.name.to_string()), secret.clone(), 0o600);
        }
        for (name, text) in &self.resolver {
            want(confined(&self.plan.name).join(name), text.clone(), 0o644);
        }
        for unit in &self.servants.0 {
            want(Path::new(UNITS).join(&unit.name), text::one(unit), 0o644);
        }
        want(drop_in_path(&service.name), self.drop_in.text(), 0o644);
        wanted
    }
}

/// Every file that confining what is called so may have made, the drop-in first: without it the others do nothing.
#[must_use]
pub(super) fn all(service: &str, name: &LaunchName) -> Vec<PathBuf> {
    let units = [name.publisher_socket(), name.publisher(), name.socket(), name.forwarder()]
        .map(|unit| Path::new(UNITS).join(unit));
    let seen = ["resolv.conf", "nsswitch.conf"].map(|file| confined(name).join(file));
    let secret = Path::new(CREDENTIALS).join(name.to_string());
    std::iter::once(drop_in_path(service)).chain(units).chain(seen).chain([secret]).collect()
}

/// The files that options name are found from anywhere, as from the mark of what they made.
///
/// # Errors
/// The working directory is gone.
pub(super) fn make_absolute(args: &mut LaunchArgs) -> Result<()> {
    for spec in &mut args.via {
        if let Some(path) = spec.strip_prefix('@') {
            let place = plain(Path::new(path)).with_context(|| format!("cannot tell where --via {spec} is"))?;
            *spec = format!("@{}", place.display());
        }
    }
    Ok(())
}

/// `--via`, and where Tor is if it says `tor`: `found` tells, or the place where packages put it.
///
/// # Errors
/// It is malformed, or a file that cannot be read.
pub(super) fn way_out(args: &LaunchArgs, service: &str, tor: impl FnOnce() -> Option<Endpoint>) -> Result<Via> {
    if args.via.is_empty() {
        bail!("where may {service} go? --via tor, --via socks5h://HOST:PORT, --via direct with --only, or --via none");
    }
    let mut via = Via::from_args(&args.via)?;
    if via.wants_tor() {
        via.settle_tor(tor().unwrap_or_else(crate::tor::usual));
    }
    Ok(via)
}

/// The one file that `--via` names, if it names one alone.
fn file_of(specs: &[String]) -> Option<&str> {
    match specs {
        [only] => only.strip_prefix('@'),
        _ => None,
    }
}

fn specs(via: &Via) -> Vec<String> {
    match via {
        Via::None => vec!["none".to_owned()],
        via => via.secret_specs(),
    }
}
