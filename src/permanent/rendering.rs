//! A permanent unit as files: the same plan as a launch's, rendered by the same functions. Pure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::{Bus, Isolate, LaunchArgs};
use crate::host::Host;
use crate::installed::Wanted;
use crate::plan::{Identity, Plan, Supervisor, Tenure};
use crate::state;
use crate::units::{Places, Unit, Units, text};
use crate::via::Via;

/// Where the files of permanent units are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// The units.
    pub units: PathBuf,
    /// Vias with a password, of which systemd makes credentials.
    pub credentials: PathBuf,
    /// The state of what runs.
    pub state: PathBuf,
}

impl Directories {
    /// Those of the system manager.
    #[must_use]
    pub fn of_system(root: &Path) -> Self {
        Self {
            units: root.join("etc/systemd/system"),
            credentials: root.join("etc/appfw/credentials"),
            state: root.join("run/appfw"),
        }
    }

    /// Those of the caller's own manager (systemd.unit(5)).
    ///
    /// # Errors
    /// The caller's directories have no names that could be used.
    pub fn of_user(host: &Host, root: &Path) -> Result<Self> {
        let given = host.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|directory| directory.is_absolute());
        let configuration = given.unwrap_or_else(|| host.caller.home.join(".config"));
        Ok(Self {
            units: configuration.join("systemd/user"),
            credentials: configuration.join("appfw/credentials"),
            state: state::base(root, host)?,
        })
    }
}

/// A unit that lasts.
#[derive(Debug)]
pub struct Rendering {
    /// What was decided.
    pub plan: Plan,
    /// The units.
    pub units: Units,
    /// Where its things are.
    pub places: Places,
}

impl Rendering {
    /// Decides and renders. `args` say nothing that could be otherwise at the next start: they are settled.
    ///
    /// # Errors
    /// Those of [`Plan::new`], and a launch's options.
    pub fn new(name: &str, args: &LaunchArgs, via: Via, host: &Host, directories: &Directories) -> Result<Self> {
        args.refuse_of_launches()?;
        let mut args = args.clone();
        args.unit = Some(name.to_owned());
        // Nobody is at the terminal of a unit of root's, and nobody waits for it; a user's has its launcher.
        let is_systems = host.caller.is_root();
        args.detach = is_systems;
        args.user |= !is_systems;
        // What it is started with is nobody's to see when it is installed, and a display may be in that.
        args.dbus = args.dbus.or(Some(Bus::None));
        if args.system && !is_systems {
            bail!("units of the system are root's: sudo appfw unit …");
        }
        let mut plan = Plan::new(&args, via, host)?;
        plan.tenure = Tenure::Permanent;
        if is_systems {
            // Whoever installs it, it starts with nobody's environment.
            plan.app = Identity::Other(plan.app.user().clone());
        }
        let own = directories.credentials.join(name);
        let credential = match &args.via[..] {
            [only] => only.strip_prefix('@').map_or(own, PathBuf::from),
            _ => own,
        };
        let places = Places { credential, units: directories.units.clone(), ..Places::new(&directories.state, &plan) };
        let units = match plan.supervisor {
            Supervisor::System => Units::new(&plan, host, &places),
            Supervisor::User | Supervisor::Standalone => Units::of_launcher(&plan, host, &places, launching(&args)?),
        };
        Ok(Self { plan, units, places })
    }

    /// The unit files, the app's last: what it needs is there before.
    #[must_use]
    pub fn files(&self) -> Vec<Wanted> {
        let file =
            |unit: &Unit| Wanted { path: self.places.units.join(&unit.name), text: text::one(unit), mode: 0o644 };
        self.units.iter().map(file).collect()
    }
}

/// The arguments of the launcher that is a user's unit. They are settled: no profile and no configuration adds to them.
fn launching(args: &LaunchArgs) -> Result<Vec<String>> {
    let own = LaunchArgs { user: false, property: Vec::new(), ..args.clone() };
    let own = LaunchArgs { profile: own.profile.filter(|_| own.isolate == Some(Isolate::Profile)), ..own };
    Ok(["--settled".to_owned()].into_iter().chain(texts(&own)?).collect())
}

/// The arguments of `appfw` that make a unit, for its mark.
///
/// # Errors
/// A word that is no text.
pub fn command(name: &str, args: &LaunchArgs) -> Result<Vec<String>> {
    Ok(["unit", "install", name].into_iter().map(str::to_owned).chain(texts(args)?).collect())
}

fn texts(args: &LaunchArgs) -> Result<Vec<String>> {
    let words = args.words().into_iter().map(|word| {
        let text = word.into_string();
        text.map_err(|word| anyhow::anyhow!("{}: no UTF-8, and a unit file takes no other text", word.display()))
    });
    words.collect::<Result<Vec<_>>>().context("the command cannot be kept in a file")
}
