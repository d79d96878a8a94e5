//! `appfw confine` and `appfw unconfine`.

use super::LaunchArgs;

/// A service that is installed, and the launcher's options for it.
#[derive(Debug, clap::Args)]
#[command(mut_arg("command", |command| command.required(false)))]
pub struct ConfineArgs {
    /// The service, such as myservice.service
    #[arg(value_name = "SERVICE", required_unless_present = "list")]
    pub service: Option<String>,
    /// Start it anew, if anything has changed
    #[arg(long)]
    pub now: bool,
    /// List the services that are confined
    #[arg(long, conflicts_with_all = ["service", "now"])]
    pub list: bool,
    /// The list as JSON
    #[arg(long, requires = "list")]
    pub json: bool,
    /// What is the launcher's as well.
    #[command(flatten)]
    pub launch: LaunchArgs,
}

/// A service that shall be as it was.
#[derive(Debug, clap::Args)]
pub struct UnconfineArgs {
    /// The service
    #[arg(value_name = "SERVICE", required_unless_present = "all", conflicts_with = "all")]
    pub service: Option<String>,
    /// Every service that is confined
    #[arg(long)]
    pub all: bool,
    /// Start it anew, if it runs
    #[arg(long)]
    pub now: bool,
    /// Print what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}
