//! What a permanent unit needs before its first process, at every start.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::order::{Outside, Standing};
use super::rendering::{Directories, Rendering};
use crate::cli::{UnitInstallArgs, WallKind};
use crate::control::Order;
use crate::filters::Programs;
use crate::host::Host;
use crate::installed::{self, Mark};
use crate::manager::{self, Manager};
use crate::name::cgroup_directory;
use crate::plan::Plan;
use crate::ready::Made;
use crate::state::State;
use crate::units::ORDER;
use crate::via::Via;
use crate::{inside, verify};

/// Compares, prepares, and leaves the order for `inside`.
///
/// # Errors
/// The unit must not start: systemd holds something else than the plan, or something could not be made.
pub async fn ready(made: &Made<'_>, install: UnitInstallArgs) -> Result<()> {
    let bus = manager::connect().await?;
    let mut host = Host::read(Path::new("/"))?.for_units();
    host.systemd = manager::version(&bus).await;
    let via = Via::from_args(&install.launch.via)?;
    let directories = Directories::of_system(Path::new("/"));
    let rendering = Rendering::new(&install.name, &install.launch, via, &host, &directories)?;
    expect_as_written(&rendering, made)?;
    let Rendering { plan, units, places } = &rendering;
    let outside = outside(plan)?;
    let manager = Manager::new(&bus).await?;
    tokio::try_join!(verify::app(&manager, units), verify::servants(&manager, units))?;
    let filters = Programs::open(&plan.filters, !plan.lists().deny.is_empty())?;
    filters.expect_attached(&cgroup_directory(&plan.app_cgroup()))?;
    let state = State::renew(places.base(), plan, &host)?;
    if plan.wall == WallKind::Namespace && plan.has_forwarder() {
        inside::network_of(outside.network, plan.capture)?;
    }
    let order = Order::for_app(plan, &units.view, &host, 0);
    Standing { outside, order }.write(&state.directory.join(ORDER), plan.app.user())
}

/// The host's namespaces: this process may be in the unit's.
fn outside(plan: &Plan) -> Result<Outside> {
    let inode = |kind: &str| {
        let path = Path::new("/proc/1/ns").join(kind);
        path.metadata().map(|found| found.ino()).with_context(|| format!("cannot read {}", path.display()))
    };
    let user = if plan.app.user().is_root() { None } else { Some(inode("user")?) };
    Ok(Outside { network: inode("net")?, user })
}

/// What was written is what would be written now: the machine or the program may have changed.
fn expect_as_written(rendering: &Rendering, made: &Made<'_>) -> Result<()> {
    let name = &rendering.plan.name;
    for wanted in rendering.files() {
        let path = wanted.path.display();
        let found = match made.args.file == wanted.path {
            true => made.text.clone(),
            false => match installed::find(&wanted.path)? {
                Some((text, _)) => Mark::body(&text).to_owned(),
                None => bail!("{path} is gone: appfw unit update {name} writes it again"),
            },
        };
        if !is_same(&found, &wanted.text, rendering) {
            bail!(
                "{path} is not what this appfw would write (it or the machine has changed): appfw unit update {name}"
            );
        }
    }
    if !rendering.files().iter().any(|wanted| wanted.path == made.args.file) {
        bail!("{} is not a file of the unit {name} that it says it is of", made.args.file.display());
    }
    Ok(())
}

/// Whether two texts are the same, but for a group: that of a socket which isn't there yet is not known.
fn is_same(found: &str, wanted: &str, rendering: &Rendering) -> bool {
    let is_missing = rendering.plan.via.socket().is_some_and(|socket| !socket.exists());
    let counts = |line: &&str| !(is_missing && line.starts_with("SupplementaryGroups="));
    found.lines().filter(counts).eq(wanted.lines().filter(counts))
}
