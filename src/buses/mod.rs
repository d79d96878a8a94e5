//! `--dbus`: what the app has of the message buses. Whoever speaks to one freely is past every wall: the
//! user manager starts programs for who asks, portals open addresses. So there is none, or a filtered one.

mod names;
mod policy;
mod proxy;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::browser::{Program, Surroundings};
use crate::cli::Bus;
use crate::host::{Host, is_roots};
use crate::plan::{Identity, Plan};
use crate::session;
use crate::units::Places;
use crate::view::Bind;

pub use policy::arguments;
pub use proxy::Proxy;

/// The system bus's socket (D-Bus specification, "System message bus").
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// The proxy's socket in the launch's directory.
const SOCKET: &str = "bus";

/// What the app has of the buses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Buses {
    /// None.
    None,
    /// The session's, less what leads out.
    Filtered {
        /// The real one's address.
        address: OsString,
        /// The program that filters.
        program: PathBuf,
        /// Names that the app may own there.
        own: Vec<String>,
    },
    /// The session's own socket.
    Session(PathBuf),
    /// The system's own socket.
    System,
}

impl Buses {
    /// As asked; else a filtered one for a program with a window, where there can be one.
    ///
    /// # Errors
    /// What was asked for cannot be had here.
    pub fn choose(asked: Option<Bus>, app: &Identity, detach: bool, host: &Host) -> Result<Self> {
        match asked {
            Some(Bus::None) => Ok(Self::None),
            Some(Bus::Filtered) => filtered(app, detach, host),
            Some(Bus::Session) => session(app, host),
            Some(Bus::System) => Ok(Self::System),
            None if ["WAYLAND_DISPLAY", "DISPLAY"].iter().any(|name| host.variable(name).is_some()) => {
                Ok(filtered(app, detach, host).unwrap_or(Self::None))
            }
            None => Ok(Self::None),
        }
    }

    /// What is open by it.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        match self {
            Self::None | Self::Filtered { .. } => None,
            Self::Session(_) => Some(
                "--dbus session is a way round the wall: whoever reaches the session bus can have programs started outside; --dbus filtered isn't",
            ),
            Self::System => Some(
                "--dbus system is a way round the wall: services on the system bus resolve names and act on the network for whoever asks; --dbus none isn't",
            ),
        }
    }

    /// Sockets that the app sees in its runtime directory.
    #[must_use]
    pub fn shown(plan: &Plan, places: &Places) -> Option<Bind> {
        let source = match &plan.buses {
            Self::None | Self::System => return None,
            Self::Filtered { .. } => places.state.join(SOCKET),
            Self::Session(path) => path.clone(),
        };
        Some(Bind { source, target: socket(plan)? })
    }

    /// The variables by which the app finds it.
    #[must_use]
    pub fn variables(plan: &Plan) -> Vec<(OsString, OsString)> {
        let (Self::Filtered { .. } | Self::Session(_), Some(socket)) = (&plan.buses, socket(plan)) else {
            return Vec::new();
        };
        let mut address = OsString::from("unix:path=");
        address.push(socket);
        // The input method's own bus is none that the app sees.
        vec![("DBUS_SESSION_BUS_ADDRESS".into(), address), ("IBUS_USE_PORTAL".into(), "1".into())]
    }
}

/// Settles which names the app may own. Where it was not `asked` for, a filtered bus is for programs that live
/// with it: browsers, and those that get their name; others have none.
///
/// # Errors
/// An instance outside has the name, and would take over.
pub async fn settle(plan: &mut Plan, host: &Host, asked: bool) -> Result<()> {
    let Buses::Filtered { address, .. } = &plan.buses else { return Ok(()) };
    let surroundings = Surroundings::of(plan, host);
    if Program::find(&plan.command, &surroundings).is_some() {
        return Ok(());
    }
    let names = plan.command.first().map(|word| names::names(word, &surroundings, is_roots)).unwrap_or_default();
    let held = proxy::held(address, &names).await;
    match held {
        Some(name) if asked => {
            bail!(
                "{name} runs already, outside the wall, and would open this there; use --dbus none, which starts another"
            )
        }
        None if asked || !names.is_empty() => {
            if let Buses::Filtered { own, .. } = &mut plan.buses {
                *own = names;
            }
        }
        _ => plan.buses = Buses::None,
    }
    Ok(())
}

/// Where the app finds its session bus: in the usual place.
fn socket(plan: &Plan) -> Option<PathBuf> {
    session::runtime_directory(plan).map(|runtime| runtime.join("bus"))
}

/// The address of the caller's session bus, whose app is to have it.
fn address(option: &str, app: &Identity, host: &Host) -> Result<OsString> {
    match app {
        Identity::Caller(user) if !user.is_root() => {}
        _ => bail!("{option} is an ordinary user's own session: run appfw-run as that user, or use --dbus none"),
    }
    let by_directory = || {
        let mut address = OsString::from("unix:path=");
        address.push(host.user_bus.as_ref()?);
        Some(address)
    };
    match host.variable("DBUS_SESSION_BUS_ADDRESS").map(OsString::from).or_else(by_directory) {
        Some(address) => Ok(address),
        None => bail!("{option} needs a session bus, and DBUS_SESSION_BUS_ADDRESS names none; use --dbus none"),
    }
}

fn filtered(app: &Identity, detach: bool, host: &Host) -> Result<Buses> {
    let address = address("--dbus filtered", app, host)?;
    if detach {
        bail!("--dbus filtered ends with the launcher, which --detach doesn't wait for; leave one of them out");
    }
    match &host.dbus_proxy {
        Some(program) => Ok(Buses::Filtered { address, program: program.clone(), own: Vec::new() }),
        None => bail!("--dbus filtered needs /usr/bin/xdg-dbus-proxy: install xdg-dbus-proxy, or use --dbus none"),
    }
}

fn session(app: &Identity, host: &Host) -> Result<Buses> {
    let address = address("--dbus session", app, host)?;
    let path = address.to_str().and_then(|address| address.strip_prefix("unix:path="));
    match path.and_then(|path| path.split([',', ';']).next()).map(Path::new).filter(|path| path.is_absolute()) {
        Some(path) => Ok(Buses::Session(path.to_owned())),
        None => bail!("--dbus session needs a bus at a path, and {} isn't one; use --dbus filtered", address.display()),
    }
}

#[cfg(test)]
mod tests;
