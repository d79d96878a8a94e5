//! How long the units of a plan last. Pure.

use super::{Plan, Supervisor};

/// Whose the units of a plan are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tenure {
    /// A launcher's: transient units that end with it.
    #[default]
    Launch,
    /// Nobody's: files, started by systemd alone.
    Permanent,
    /// The same round a service that somebody else wrote.
    Confined {
        /// Its unit.
        service: String,
        /// Its cgroup, as `/proc/PID/cgroup` shows it.
        cgroup: String,
    },
}

impl Plan {
    /// Whether the units are files, which no launcher starts or watches.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.tenure != Tenure::Launch
    }

    /// Whether a socket unit listens at published ports, as no launcher does.
    #[must_use]
    pub fn has_publisher_socket(&self) -> bool {
        self.is_permanent() && self.supervisor == Supervisor::System && !self.publish.is_empty()
    }

    /// The unit of the app.
    #[must_use]
    pub fn app_unit(&self) -> String {
        match &self.tenure {
            Tenure::Launch | Tenure::Permanent => self.name.app(),
            Tenure::Confined { service, .. } => service.clone(),
        }
    }

    /// The app's cgroup as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn app_cgroup(&self) -> String {
        match &self.tenure {
            Tenure::Launch | Tenure::Permanent => self.name.cgroup(),
            Tenure::Confined { cgroup, .. } => cgroup.clone(),
        }
    }

    /// What the units are the parts of, for their descriptions.
    pub(crate) fn whole(&self) -> String {
        match &self.tenure {
            Tenure::Launch => format!("appfw launch {}", self.name),
            Tenure::Permanent => format!("appfw unit {}", self.name),
            Tenure::Confined { service, .. } => format!("{service}, confined by appfw"),
        }
    }
}
