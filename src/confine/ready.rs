//! `appfw ready` of a confined service: its first command at every start, as root, in its cgroup and its network
//! namespace. What isn't as the drop-in's own command would make it, and what isn't proven, does not start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::files::{self, Files};
use super::proven::Start;
use super::service::Service;
use super::{alias, drop_in_path, name_of, paths, refuse, remains};
use crate::cli::{Capture, ConfineArgs, InsideArgs, WallKind};
use crate::filters::Programs;
use crate::host::Host;
use crate::installed::{self, Mark};
use crate::manager::{self, Kind, Manager};
use crate::name::{cgroup_directory, unified_cgroup};
use crate::ready::Made;
use crate::{inside, say, verify};

/// Compares and proves what the drop-in promises that was made `by` this command.
///
/// # Errors
/// The wall does not stand, or it cannot be told: the service must not start.
pub async fn ready(made: &Made<'_>, by: ConfineArgs) -> Result<()> {
    let Some(name) = by.service.clone() else { bail!("{} names no service in its mark", made.args.file.display()) };
    prepare(made, by, &name).await.map_err(|error| {
        anyhow!("{error:#}; so {name} was not started, and appfw unconfine {name} takes its wall away")
    })
}

async fn prepare(made: &Made<'_>, by: ConfineArgs, name: &str) -> Result<()> {
    let Made { args, mark, .. } = made;
    if drop_in_path(name) != args.file {
        bail!("{} is the drop-in of another service", args.file.display());
    }
    let called = name_of(name)?;
    let is_over = |start: &str| args.afterwards && Start::of(&called, start).is_some();
    let bus = match manager::connect().await {
        // In a shutdown it is gone before what takes its time to stop.
        Err(_) if invocation().is_some_and(|start| is_over(&start)) => return Ok(()),
        bus => bus?,
    };
    let manager = Manager::new(&bus).await?;
    let service = Service::read(&manager, name).await?;
    if is_over(&service.invocation) {
        return Ok(());
    }
    if service.name != name {
        bail!(
            "{name} is another name of {0} by now, which its wall was not made for: unconfine it, then confine {0}",
            service.name
        );
    }
    alias::refuse(&service)?;
    let host = Host::read(Path::new("/"))?.for_units();
    let via = files::way_out(&by.launch, name, || None)?;
    let files = Files::new(by.launch, via, &host, &service)?;
    refuse::refuse(&service, &files.plan.buses, &host.appfw)?;
    paths::refuse(&service, &files.drop_in, &host.appfw)?;
    if service.kept_descriptors > 0 {
        bail!(
            "systemd keeps descriptors for {name} that were made before its wall: systemctl stop {name}, then start it"
        );
    }
    inside::refuse_of_service()
        .context("what systemd opens for it (StandardInput=, StandardOutput=, StandardError=)")?;
    remains::refuse(files.plan.wall, &service)?;
    remains::refuse_adopted(&service)?;
    let has_changed = service.newer(&drop_in_path(&service.name));
    // The drop-in repeats what the others said when it was written, and is made by what they say now.
    let as_written = read_back(&manager, &service, &files).await.and_then(|()| compare(&files, &service, mark));
    as_written.map_err(|error| match &has_changed {
        Some(file) => {
            anyhow!("{file} has changed since it was confined: unconfine it and confine it again ({error:#})")
        }
        None => error,
    })?;
    prove(&files, &service)?;
    if has_changed.is_some() {
        say::failure(
            "appfw ready",
            &anyhow!(
                "{name} has changed since it was confined: to take over its new commands, appfw unconfine it and confine it again"
            ),
        );
    }
    Start::Proven.remember(&files.plan.name, &service.invocation)
}

/// Which start this is of, as systemd notes it at the cgroup, where nobody else may. It may be an earlier one: with somebody
/// left there, it is not made anew (seen with 257).
fn invocation() -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let directory = cgroup_directory(unified_cgroup(&own)?);
    let mut id = [0; 32];
    let length = rustix::fs::getxattr(directory, "trusted.invocation_id", &mut id).ok()?;
    String::from_utf8(id.get(..length)?.to_vec()).ok()
}

/// The files that make the wall are what would be written now.
fn compare(files: &Files, service: &Service, mark: &Mark) -> Result<()> {
    let makes_the_wall =
        |path: &Path| path.extension().is_some_and(|kind| kind != "conf") || path == drop_in_path(&service.name);
    for wanted in files.wanted(service).iter().filter(|wanted| makes_the_wall(&wanted.path)) {
        let stale = || {
            format!(
                "{} is not as this version of appfw writes it: appfw {} brings it up to date",
                wanted.path.display(),
                mark.command.join(" ")
            )
        };
        let Some((text, _)) = installed::find(&wanted.path)? else { bail!("{} is gone", wanted.path.display()) };
        if Mark::body(&text) != wanted.text {
            bail!(stale());
        }
    }
    Ok(())
}

/// systemd holds what the files say, and nothing that opens it.
async fn read_back(manager: &Manager<'_>, service: &Service, files: &Files) -> Result<()> {
    let held = async |kind| manager.properties(&service.name, kind).await;
    let (unit, own) = tokio::try_join!(held(Kind::Unit), held(Kind::Service))?;
    if let Some(setting) = files.drop_in.missing(&unit, &own) {
        bail!(
            "systemd holds another {setting}= than {} says: look at {}",
            drop_in_path(&service.name).display(),
            service.others(&drop_in_path(&service.name)).join(", ")
        );
    }
    refuse::refuse_slices(manager, service).await?;
    for servant in &files.servants.0 {
        let kind = if servant.name.ends_with(".socket") { Kind::Socket } else { Kind::Service };
        verify::settings(servant, &manager.properties(&servant.name, kind).await?)?;
    }
    Ok(())
}

/// From within, by traffic. In the namespace wall its network is made first.
fn prove(files: &Files, service: &Service) -> Result<()> {
    let plan = &files.plan;
    let outside = Path::new("/proc/1/ns/net").metadata().context("cannot tell the host's network namespace")?.ino();
    let lists = plan.lists();
    let canary = lists.canary();
    let filters = Programs::open(&plan.filters, !lists.deny.is_empty())?;
    filters.expect_attached(&cgroup_directory(&service.cgroup()))?;
    let args = InsideArgs {
        filtered: !plan.filters.is_empty(),
        wall: plan.wall,
        forwarder: plan.has_forwarder().then_some(plan.address),
        capture: if plan.wall == WallKind::Namespace { plan.capture } else { Capture::Off },
        allow: lists.allow,
        deny: lists.deny,
        canary,
        cgroup: Some(service.cgroup()),
        outside: Some(outside),
        ..InsideArgs::of(plan.wall)
    };
    inside::prove_service(&args)
}
