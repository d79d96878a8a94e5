//! The inner parts that units start: `appfw inside` and `appfw lifeline`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::listening::Listening;
use crate::publish::Published;

/// The walls of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WallKind {
    /// A private network namespace that holds the forwarder's socket alone, and the IP filter on top.
    Strict,
    /// A private network namespace with its own loopback open, with capture or without.
    Namespace,
    /// The host's network namespace under the IP filter.
    Address,
}

impl WallKind {
    /// As it is written after `--wall`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Namespace => "namespace",
            Self::Address => "address",
        }
    }
}

/// What of the app's traffic is captured in the namespace wall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// Nothing: programs reach the forwarder by its address alone.
    #[default]
    Off,
    /// Every TCP connection, to anywhere.
    Streams,
    /// And every datagram.
    Datagrams,
}

impl Capture {
    /// As it is written after `--capture` of the inner parts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Streams => "streams",
            Self::Datagrams => "datagrams",
        }
    }
}

/// Make the network of the app's network namespace, before anything else runs there.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct NetworkArgs {
    /// What is captured
    #[arg(long, value_enum, default_value_t)]
    pub capture: Capture,
    /// The inode number of the launcher's network namespace, which must not be this one
    #[arg(long, value_name = "INODE")]
    pub outside: u64,
    /// The socket at which the launcher hears why it failed
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
}

/// Prove the wall from inside, then become the app. What it expects stands in its arguments, so
/// that `systemctl cat` shows it.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct InsideArgs {
    /// Which wall to prove
    #[arg(long, value_enum)]
    pub wall: WallKind,
    /// Where the forwarder must answer
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub forwarder: Option<SocketAddrV4>,
    /// What is captured in this namespace
    #[arg(long, value_enum, default_value_t)]
    pub capture: Capture,
    /// IPAddressAllow= of this unit
    #[arg(long, value_name = "NET")]
    pub allow: Vec<IpNet>,
    /// IPAddressDeny= of this unit
    #[arg(long, value_name = "NET")]
    pub deny: Vec<IpNet>,
    /// A denied documentation address
    #[arg(long, value_name = "ADDRESS")]
    pub canary: Option<Ipv4Addr>,
    /// Filters of the user's judge the packets of this unit as well
    #[arg(long)]
    pub filtered: bool,
    /// The unit's cgroup, if it has a unit
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Build the wall first: no PID 1 has
    #[arg(long)]
    pub build: bool,
    /// The launch's directory, removed if the launcher ends first: this process is to stay outside a PID
    /// namespace, and what is in it is this program again
    #[arg(long, value_name = "PATH", requires = "build")]
    pub state: Option<PathBuf>,
    /// A socket that the forwarder serves in the app's namespace, to be made and handed over
    #[arg(long, value_name = "KIND:ADDRESS:PORT", requires = "build")]
    pub listen: Vec<Listening>,
    /// Hand over the namespaces as well, for who publishes the app's ports
    #[arg(long, requires = "build")]
    pub publish: bool,
    /// The inode number of the launcher's network namespace, which must not be this one
    #[arg(long, value_name = "INODE")]
    pub outside: Option<u64>,
    /// The inode number of the launcher's user namespace, which must not be this one
    #[arg(long, value_name = "INODE")]
    pub outside_user: Option<u64>,
    /// Stay as the init of a PID namespace and run the app as a child
    #[arg(long)]
    pub init: bool,
    /// As init, end with the app's main process
    #[arg(long)]
    pub exit_with_main: bool,
    /// Take the terminal on standard input as the controlling one
    #[arg(long)]
    pub terminal: bool,
    /// The socket from which the command and its environment come; without it, standard input
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// The file from which they come where there is no launcher, and what it was proven by there
    #[arg(long, value_name = "PATH", conflicts_with_all = ["control", "build"])]
    pub order: Option<PathBuf>,
}

/// Make what a permanent unit needs before its first process, or refuse it: systemd must hold what its file says.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ReadyArgs {
    /// The file, which says by its mark how it was made
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Exit with 255 on failure: as ExecCondition= any other code is none
    #[arg(long)]
    pub as_condition: bool,
    /// After the unit has ended: nothing is to be done where it was proven, or was there before its wall
    #[arg(long)]
    pub afterwards: bool,
}

impl InsideArgs {
    /// To be proven of this wall, and nothing more said.
    #[must_use]
    pub fn of(wall: WallKind) -> Self {
        Self {
            filtered: false,
            wall,
            forwarder: None,
            capture: Capture::Off,
            allow: Vec::new(),
            deny: Vec::new(),
            canary: None,
            cgroup: None,
            build: false,
            state: None,
            listen: Vec::new(),
            publish: false,
            outside: None,
            outside_user: None,
            init: false,
            exit_with_main: false,
            terminal: false,
            control: None,
            order: None,
        }
    }
}

/// Lead ports of the host, whose listeners the launcher hands over, into the app's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct PublishArgs {
    /// Which port leads to which one of the app's
    #[arg(long, value_name = "ADDRESS:PORT=INNER", required = true)]
    pub publish: Vec<Published>,
    /// The inode number of the launcher's network namespace, which must not be this one; without it, one that has
    /// an outside
    #[arg(long, value_name = "INODE")]
    pub outside: Option<u64>,
    /// The socket at which the launcher hands over and hears; without it, standard input, unless systemd hands over
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
}

/// Wait until standard input ends, put the launcher's terminal back as it was, and exit: what is
/// bound to this unit ends with it.
#[derive(Debug, clap::Args)]
pub struct LifelineArgs {}
