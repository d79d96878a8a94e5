//! `appfw unit`.

use anyhow::{Result, bail};

use super::LaunchArgs;

const EXAMPLES: &str = "\
Examples:
  appfw unit install --now mail --via tor -- fetchmail --nodetach
  sudo appfw unit install --now web --uid www-data --via none --deny any --allow 10.0.0.0/24 -- /usr/bin/darkhttpd /srv";

/// What to do with permanent units.
#[derive(Debug, clap::Subcommand)]
pub enum UnitCommand {
    /// Print the files of a unit, and write nothing
    #[command(override_usage = "appfw unit show NAME [OPTIONS] [--] COMMAND [ARG]…", after_help = EXAMPLES)]
    Show(UnitShowArgs),
    /// Write a unit's files and enable it
    #[command(override_usage = "appfw unit install NAME [--now] [OPTIONS] [--] COMMAND [ARG]…", after_help = EXAMPLES)]
    Install(UnitInstallArgs),
    /// Write files again as this version makes them
    Update(UnitUpdateArgs),
    /// Say which there are
    List(UnitListArgs),
    /// Stop a unit and remove its files
    Remove(UnitRemoveArgs),
}

/// `appfw unit show`.
#[derive(Debug, clap::Args)]
pub struct UnitShowArgs {
    /// The unit's name: it is appfw-NAME.service
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What appfw-run takes, and the command.
    #[command(flatten)]
    pub launch: LaunchArgs,
}

/// `appfw unit install`.
#[derive(Debug, clap::Args)]
pub struct UnitInstallArgs {
    /// The unit's name: it is appfw-NAME.service
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Start it as well
    #[arg(long)]
    pub now: bool,
    /// What appfw-run takes, and the command.
    #[command(flatten)]
    pub launch: LaunchArgs,
}

/// `appfw unit update`.
#[derive(Debug, clap::Args)]
pub struct UnitUpdateArgs {
    /// The unit's name
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub name: Option<String>,
    /// Every unit
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
    /// Restart what has changed
    #[arg(long)]
    pub now: bool,
    /// Show what changes
    #[arg(long, short)]
    pub verbose: bool,
}

/// `appfw unit list`.
#[derive(Debug, clap::Args)]
pub struct UnitListArgs {
    /// As JSON, one array
    #[arg(long)]
    pub json: bool,
}

/// `appfw unit remove`.
#[derive(Debug, clap::Args)]
pub struct UnitRemoveArgs {
    /// The unit's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl LaunchArgs {
    /// Refuses what makes no sense of a unit.
    ///
    /// # Errors
    /// Names the option, and what is there instead.
    pub fn refuse_of_launches(&self) -> Result<()> {
        let instead = match self {
            Self { unit: Some(_), .. } => "--unit: the unit's name is the word before the options",
            Self { detach: true, .. } => "--detach: a unit never waits for anybody, leave it out",
            Self { dry_run: true, .. } => "--dry-run: appfw unit show prints what would be written",
            Self { standalone: true, .. } => "--standalone: a unit is a systemd's, leave it out",
            _ => return Ok(()),
        };
        bail!("{instead}")
    }
}
