//! `appfw-run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{Given, WallKind};

/// Run a program whose only way to the network is Tor or a proxy, proven before it starts
#[derive(Debug, Clone, Parser)]
#[command(
    name = "appfw-run",
    version,
    override_usage = "appfw-run [OPTIONS] [--] COMMAND [ARG]…",
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "\
Examples:
  appfw-run --via tor firefox
  appfw-run --via socks5h://192.0.2.7:1080 git clone ssh://git@example.org/x.git
  sudo appfw-run --uid alice --via none --deny any --allow 10.0.0.0/24 ./fileserver

Exits with COMMAND's code, 128+n for signal n; 125 if it was never run, 126 and 127 as shells do."
)]
pub struct LaunchArgs {
    /// What stands in the command line itself. First: what clap has handed out it no longer knows.
    #[command(flatten)]
    pub given: Given,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, hide = true)]
    pub command: Vec<OsString>,

    /// tor, socks5h://[USER:PASSWORD@]HOST:PORT, socks4a://, http(s)://, tor://, unix:PATH, direct,
    /// none, a name in config.toml, or @FILE; repeat for hops
    #[arg(long, value_name = "SPEC", help_heading = "Way out")]
    pub via: Vec<String>,
    /// What shares Tor's circuits: launch (default), profile, or destination
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true, help_heading = "Way out")]
    pub isolate: Option<Isolate>,

    /// Who answers DNS: synthetic (stand-ins), host, tcp://IP[:PORT], or off
    #[arg(long, value_name = "HOW", help_heading = "Way out")]
    pub dns: Option<String>,

    /// Nothing but this: HOST[:PORT], *.DOMAIN, a network; repeatable
    #[arg(long, value_name = "DEST", help_heading = "What the forwarder lets through")]
    pub only: Vec<String>,
    /// Everything but this, whatever --only says; repeatable
    #[arg(long, value_name = "DEST", help_heading = "What the forwarder lets through")]
    pub block: Vec<String>,
    /// Open this inside destination; loopback IP:PORT without proxy too
    #[arg(long, value_name = "DEST", help_heading = "What the forwarder lets through")]
    pub allow_destination: Vec<String>,

    /// Networks let through; or any, localhost, link-local, multicast
    #[arg(long, value_name = "NET", help_heading = "IP wall")]
    pub allow: Vec<String>,
    /// The same, denied; with --via none
    #[arg(long, value_name = "NET", help_heading = "IP wall")]
    pub deny: Vec<String>,
    /// A pinned BPF program that judges what arrives as well; repeatable
    #[arg(long, value_name = "PATH", help_heading = "IP wall")]
    pub ingress_filter: Vec<String>,
    /// The same for what is sent: /sys/fs/bpf/NAME, of type cgroup_skb
    #[arg(long, value_name = "PATH", help_heading = "IP wall")]
    pub egress_filter: Vec<String>,

    /// strict (root's default), namespace (yours): captures, address
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true, help_heading = "Wall")]
    pub wall: Option<WallKind>,
    /// Lead every connection to the forwarder: the namespace wall's default
    #[arg(long, conflicts_with = "no_capture", hide = true, help_heading = "Wall")]
    pub capture: bool,
    /// In the namespace wall: lead only what asks to the forwarder
    #[arg(long, help_heading = "Wall")]
    pub no_capture: bool,
    /// Lead this host's port (127.0.0.1's) to its INNER; repeatable
    #[arg(long, value_name = "[ADDR:]PORT[=INNER]", help_heading = "Wall")]
    pub publish: Vec<String>,
    /// The forwarder's address in the address wall, in 127.0.0.0/8
    #[arg(long, value_name = "IP[:PORT]", help_heading = "Wall")]
    pub address: Option<String>,

    /// D-Bus: none, filtered (default for windows), session, system
    #[arg(long, value_enum, value_name = "BUS", hide_possible_values = true, help_heading = "Wall")]
    pub dbus: Option<Bus>,

    /// The system manager (root's default; others are asked by polkit)
    #[arg(long, conflicts_with_all = ["user", "standalone"], help_heading = "Who runs it")]
    pub system: bool,
    /// The caller's own manager (an ordinary user's default)
    #[arg(long, conflicts_with = "standalone", help_heading = "Who runs it")]
    pub user: bool,
    /// Nobody but the launcher: where there is no systemd
    #[arg(long, help_heading = "Who runs it")]
    pub standalone: bool,
    /// Set a property of its unit: MemoryMax, CPUQuota, TasksMax …; repeatable
    #[arg(long, short, value_name = "K=V", help_heading = "Who runs it")]
    pub property: Vec<String>,
    /// Run the program as this user
    #[arg(long, value_name = "USER", help_heading = "Who runs it")]
    pub uid: Option<String>,

    /// Take what isn't said here from this profile: `appfw profile list`
    #[arg(long, value_name = "NAME", conflicts_with = "no_profile", help_heading = "Program")]
    pub profile: Option<String>,
    /// Nor from the one that there may be for COMMAND
    #[arg(long, help_heading = "Program")]
    pub no_profile: bool,
    /// Give a browser or Electron program a profile of its own, kept per --via
    #[arg(long, help_heading = "Program")]
    pub own_profile: bool,
    /// Set K to V for the program, or keep the caller's K; repeatable
    #[arg(long, value_name = "K[=V]", help_heading = "Program")]
    pub env: Vec<String>,
    /// What the proxy variables say: http (default), socks5h, socks5, socks
    #[arg(long, value_enum, value_name = "SCHEME", hide_possible_values = true, help_heading = "Program")]
    pub env_scheme: Option<EnvScheme>,
    /// The program's working directory
    #[arg(long, value_name = "DIR", help_heading = "Program")]
    pub workdir: Option<PathBuf>,
    /// Name the launch: its unit is appfw-NAME.service
    #[arg(long, value_name = "NAME", help_heading = "Program")]
    pub unit: Option<String>,
    /// Return once the program is executed; `appfw stop NAME` ends it
    #[arg(long, help_heading = "Program")]
    pub detach: bool,
    /// Inner part: the launcher that goes on when the one that detaches returns
    #[arg(long, hide = true)]
    pub background: bool,
    /// Inner part: a unit's launcher, whose command line is whole
    #[arg(long, hide = true)]
    pub settled: bool,
    /// End the launch with its main process instead of its last one
    #[arg(long, help_heading = "Program")]
    pub exit_with_main: bool,

    /// Whether the journal says where it went: yes (default), no
    #[arg(long, value_enum, value_name = "yes|no", hide_possible_values = true, help_heading = "Seeing")]
    pub log_destinations: Option<LogDestinations>,
    /// Print the units instead of starting them
    #[arg(long, help_heading = "Seeing")]
    pub dry_run: bool,
    /// Say nothing but errors
    #[arg(long, short, conflicts_with = "verbose", help_heading = "Seeing")]
    pub quiet: bool,
    /// Say what is done
    #[arg(long, short, help_heading = "Seeing")]
    pub verbose: bool,
    /// Print this help
    #[arg(long, short, action = clap::ArgAction::Help, help_heading = "Seeing")]
    pub help: Option<bool>,
    /// Print the version
    #[arg(long, short = 'V', action = clap::ArgAction::Version, help_heading = "Seeing")]
    pub version: Option<bool>,
}

/// The scheme of the proxy variables' values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum EnvScheme {
    /// `http://`: 33 of 44 measured clients (docs/compatibility.md).
    #[default]
    Http,
    /// `socks5h://`
    Socks5h,
    /// `socks5://`
    Socks5,
    /// `socks://`, as systemd's application firewall examples write it.
    Socks,
}

impl EnvScheme {
    /// The scheme as it stands before `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5h => "socks5h",
            Self::Socks5 => "socks5",
            Self::Socks => "socks",
        }
    }
}

/// What the program has of the message buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bus {
    /// Nothing.
    None,
    /// Notifications, file portals, settings and input methods of the session's.
    Filtered,
    /// The session's, all of it.
    Session,
    /// The system's, all of it.
    System,
}

/// What shares Tor's circuits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Isolate {
    /// One launch.
    #[default]
    Launch,
    /// The launches of one profile; a launch without one has circuits of its own.
    Profile,
    /// What one launch sends to one destination.
    Destination,
}

impl Isolate {
    /// As it is written after `--isolate`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Profile => "profile",
            Self::Destination => "destination",
        }
    }
}

/// Whether the forwarder's log says where the app went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogDestinations {
    /// It does.
    #[default]
    Yes,
    /// It says how connections ended, and not to whom they were.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::parse;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    /// The launcher's options in the contract (cli.md).
    const OPTIONS: [&str; 39] = [
        "via direct",
        "dns off",
        "isolate launch",
        "only x.test",
        "block x.test",
        "allow-destination 10.0.0.1",
        "allow any",
        "deny any",
        "ingress-filter /x",
        "egress-filter /x",
        "wall strict",
        "wall namespace",
        "wall address",
        "capture",
        "no-capture",
        "publish 80",
        "address 127.0.0.9",
        "dbus none",
        "system",
        "user",
        "standalone",
        "uid alice",
        "property A=b",
        "profile x",
        "no-profile",
        "own-profile",
        "env A",
        "env-scheme http",
        "env-scheme socks5h",
        "env-scheme socks5",
        "env-scheme socks",
        "workdir /",
        "unit x",
        "detach",
        "exit-with-main",
        "dry-run",
        "quiet",
        "verbose",
        "log-destinations yes",
    ];

    #[test]
    fn every_option_of_the_contract_is_known_and_none_is_taken_for_the_command() {
        for option in OPTIONS {
            let line = format!("--{option} curl -v");
            let args = parse(&line.split(' ').collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{option}: {error}"));
            assert_eq!(args.command, ["curl", "-v"], "{option}");
        }
    }

    #[test]
    fn no_option_is_there_beside_the_contract() {
        let known = |name: &str| OPTIONS.iter().any(|option| option.split(' ').next() == Some(name));
        for arg in LaunchArgs::command().get_arguments().filter_map(|arg| arg.get_long()) {
            assert!(known(arg) || ["help", "version", "background", "settled"].contains(&arg), "--{arg}");
        }
    }

    #[test]
    fn the_first_word_begins_the_command_and_its_options_are_its_own() {
        for (line, command) in [
            ("--via direct curl --via tor -q", "curl --via tor -q"),
            ("--via direct -- curl -v", "curl -v"),
            ("--via direct -- --via", "--via"),
            ("curl -- --via direct", "curl -- --via direct"),
            ("-q -- check", "check"),
            ("stop x", "stop x"),
        ] {
            let args = parse(&line.split(' ').collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(args.command, command.split(' ').collect::<Vec<_>>(), "{line}");
        }
    }

    #[test]
    fn a_mistake_is_a_usage_error_and_never_a_command() {
        for (line, kind) in [
            ("--vai direct curl", ErrorKind::UnknownArgument),
            ("-z curl", ErrorKind::UnknownArgument),
            ("--via direct", ErrorKind::MissingRequiredArgument),
            ("--wall strong curl", ErrorKind::InvalidValue),
            ("--env-scheme ftp curl", ErrorKind::InvalidValue),
            ("--quiet --verbose curl", ErrorKind::ArgumentConflict),
            ("--help", ErrorKind::DisplayHelp),
            ("-V", ErrorKind::DisplayVersion),
        ] {
            let error = parse(&line.split(' ').collect::<Vec<_>>()).expect_err(line);
            assert_eq!(error.kind(), kind, "{line}");
        }
    }
}
