//! Who started the app and tells how it fares, seen from the launcher: a systemd with its units, or the
//! launcher itself with its processes.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::manager::{Kind, Life, Manager, Who};
use crate::name::LaunchName;
use crate::reception::App;
use crate::wait::Watch;

/// What the launcher asks of either.
#[expect(async_fn_in_trait, reason = "the launcher has one thread: nothing must be Send")]
pub trait Keeper {
    /// What `inside` runs as, for messages.
    fn name(&self) -> String;
    /// Where more is to be read of an end without a word, as the end of a sentence.
    fn log(&self) -> String;
    /// Whom the user namespace of `inside` maps.
    fn mapping(&self) -> Mapping;
    /// What is known of the app's life now.
    fn life(&self) -> Life;
    /// Waits for a change; returns what is known by then.
    ///
    /// # Errors
    /// Who keeps the app is gone, and the launch ends with it.
    async fn changed(&mut self) -> Result<Life>;
    /// Passes a signal on: by `app`, if `inside` has reported its execution.
    async fn signal(&self, app: Option<&mut App>, who: Who, signal: Signal);
    /// The app's processes that go on when its main one has ended, with their commands.
    async fn processes(&self) -> Vec<(u32, String)>;
    /// Why there is no forwarder any more, if there is none.
    async fn without_forwarder(&self) -> Option<String>;

    /// Waits until the app is over.
    ///
    /// # Errors
    /// As [`Self::changed`]'s.
    async fn over(&mut self) -> Result<()> {
        while !self.changed().await?.over {}
        Ok(())
    }
}

/// Whom the user namespace of an `inside` of root's maps, written from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Somebody else made it.
    NotOurs,
    /// Everybody that the launcher's own namespace has, for this process.
    Identity(u32),
}

impl Mapping {
    /// Writes it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn write(self) -> Result<()> {
        let Self::Identity(pid) = self else {
            bail!("appfw inside asks for a user mapping, which is not the launcher's to make")
        };
        for kind in ["uid_map", "gid_map"] {
            let failed = || {
                format!(
                    "cannot map users into the app's namespace ({kind}); root needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP for that: in a container use --cap-add SETUID --cap-add SETGID --cap-add SETFCAP, or another user than root; nothing was run"
                )
            };
            let own = fs::read_to_string(format!("/proc/self/{kind}")).with_context(failed)?;
            fs::write(format!("/proc/{pid}/{kind}"), identity(&own)).with_context(failed)?;
        }
        Ok(())
    }
}

/// Each range of a mapping (user_namespaces(7)) onto itself.
fn identity(map: &str) -> String {
    let ranges = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (first, length) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {length}\n"))
    });
    ranges.collect()
}

/// A systemd, and the app's unit.
pub struct Unit<'a> {
    /// The manager.
    pub manager: &'a Manager<'a>,
    /// The unit's life.
    pub watch: Watch,
    /// The launch's name.
    pub launch: &'a LaunchName,
}

impl Keeper for Unit<'_> {
    fn name(&self) -> String {
        self.watch.unit().to_owned()
    }

    fn log(&self) -> String {
        format!("; see: {} {}", self.manager.journal(), self.watch.unit())
    }

    fn mapping(&self) -> Mapping {
        Mapping::NotOurs
    }

    fn life(&self) -> Life {
        self.watch.life()
    }

    async fn changed(&mut self) -> Result<Life> {
        self.watch.changed().await
    }

    async fn signal(&self, _: Option<&mut App>, who: Who, signal: Signal) {
        // A unit that has ended by now has nobody to tell.
        let _ = self.manager.kill(self.watch.unit(), who, signal as i32).await;
    }

    async fn processes(&self) -> Vec<(u32, String)> {
        let mut processes = self.manager.processes(self.watch.unit()).await.unwrap_or_default();
        processes.retain(|(_, command)| !command.contains("/appfw inside --wall="));
        processes
    }

    /// After a number of forwarders that ended at once systemd gives the socket up.
    async fn without_forwarder(&self) -> Option<String> {
        let state = self.manager.property(&self.launch.socket(), Kind::Unit, "ActiveState").await.ok()?;
        let failed = <&str>::try_from(&state) == Ok("failed");
        let (journal, forwarder) = (self.manager.journal(), self.launch.forwarder());
        failed.then(|| format!("the forwarder did not start; see: {journal} {forwarder}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_turned_onto_itself() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
