//! Who supervises a launch. Pure.

use anyhow::{Result, bail};

use crate::cli::LaunchArgs;
use crate::host::Host;

/// Who starts a launch's processes, and ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervisor {
    /// PID 1, a systemd: it builds the wall as well.
    System,
    /// The caller's own systemd, which can't: `appfw inside` builds the wall.
    User,
    /// The launcher itself, where no systemd is booted or none is asked: `appfw inside` builds the wall.
    Standalone,
}

impl Supervisor {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::System, Self::User, Self::Standalone];

    /// As asked, else what there is: root has the system manager, an ordinary user their own, and who has
    /// none does without.
    ///
    /// # Errors
    /// What was asked for is not here, or not for this caller.
    pub fn choose(args: &LaunchArgs, host: &Host) -> Result<Self> {
        let by_root = host.caller.is_root();
        let chosen = match (args.system, args.user, args.standalone) {
            (true, ..) => Self::System,
            (_, true, _) if by_root => {
                bail!("--user is an ordinary user's manager, and root has the system's: leave it out")
            }
            (_, true, _) if host.user_bus.is_none() => bail!(
                "--user needs this user's systemd and its bus ($XDG_RUNTIME_DIR/bus), and there is none here; use --standalone"
            ),
            (_, true, _) => Self::User,
            (.., true) => Self::Standalone,
            _ if by_root && host.booted => Self::System,
            _ if !by_root && host.user_bus.is_some() => Self::User,
            _ => Self::Standalone,
        };
        if chosen != Self::System && !by_root && args.uid.is_some() {
            match host.booted {
                true => bail!(
                    "--uid needs root or the system manager: sudo appfw-run --uid …, or --system, which asks polkit"
                ),
                false => bail!("--uid needs root where no systemd is booted: sudo appfw-run --uid …"),
            }
        }
        Ok(chosen)
    }

    /// As it is written after `--`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Standalone => "standalone",
        }
    }
}
