//! What systemd is asked to do, and waited for.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use super::{Kind, Manager, NO_SUCH_UNIT, is_named, patiently};
use crate::say::Say;

/// Longest wait for a job of a launch: far above what a loaded machine needs, below a user's patience. How often it is asked
/// whether there still is one that may take longer.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

/// When somebody would like to know what is waited for.
const SOON: Duration = Duration::from_secs(5);

impl Manager<'_> {
    /// The same for units that are not a launch's: what they may take to start and to stop is theirs to say.
    #[must_use]
    pub fn patient(self, say: Say) -> Self {
        Self { say: Some(say), ..self }
    }

    /// Makes a call that queues a job for `unit`, and waits for the job's result. The watch begins
    /// before the call, as the job may be over before its reply is read; it is for this unit alone,
    /// as a watch for all jobs of the machine, not read for a while, would block the connection.
    pub(super) async fn finished(
        &self,
        unit: &str,
        verb: &str,
        call: impl Future<Output = Result<OwnedObjectPath>>,
    ) -> Result<String> {
        const UNIT: u8 = 2;
        let watch = self.proxy.receive_job_removed_with_args(&[(UNIT, unit)]).await;
        let mut removed = watch.context("cannot watch systemd's jobs")?;
        let job = call.await?;
        let mut result = pin!(async {
            while let Some(signal) = removed.next().await {
                let args = signal.args().context("systemd sent a malformed JobRemoved")?;
                if args.job == job {
                    return Ok(args.result.clone());
                }
            }
            bail!("the connection to systemd was lost")
        });
        let Some(say) = self.say else {
            return timeout(JOB_TIMEOUT, result).await.with_context(|| overdue(unit))?;
        };
        if let Ok(result) = timeout(SOON, &mut result).await {
            return result;
        }
        say.plain(&format!(
            "waits for systemd to {verb} {unit}, which may take as long as that says, and what it is started after (systemctl status {unit})"
        ));
        loop {
            if let Ok(result) = timeout(JOB_TIMEOUT, &mut result).await {
                return result;
            }
            // systemd ends what takes longer than its unit lets it.
            if !self.has_job(unit, &job).await? {
                return timeout(SOON, result).await.with_context(|| overdue(unit))?;
            }
        }
    }

    /// Whether that is still to be done.
    async fn has_job(&self, unit: &str, job: &ObjectPath<'_>) -> Result<bool> {
        let held = self.property(unit, Kind::Unit, "Job").await?;
        Ok(held.downcast_ref::<(u32, ObjectPath<'_>)>().is_ok_and(|(_, held)| held == *job))
    }

    /// Stops a unit and waits until it has stopped; what isn't there has.
    ///
    /// # Errors
    /// systemd refuses.
    pub async fn stop(&self, unit: &str) -> Result<()> {
        let call = async || self.proxy.stop_unit(unit, "replace").await;
        let call = async { patiently(call).await.with_context(|| format!("cannot stop {unit}")) };
        match self.finished(unit, "stop", call).await {
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(()),
            stopped => stopped.map(drop),
        }
    }

    /// Starts a unit anew, and waits until its main process has been executed (Type=exec).
    ///
    /// # Errors
    /// The job failed.
    pub async fn restart(&self, unit: &str) -> Result<()> {
        // One that failed too often is not started before that is forgotten.
        self.forget(unit).await;
        let call = async || self.proxy.restart_unit(unit, "replace").await;
        let call = async { patiently(call).await.with_context(|| format!("systemd did not start {unit}")) };
        match self.finished(unit, "start", call).await?.as_str() {
            "done" => Ok(()),
            result => bail!("systemd could not start {unit} (job {result})"),
        }
    }
}

/// PID 1 watches its clients on the bus by match rules, of which a launch takes two or three: past dbus-daemon's
/// limit (max_match_rules_per_connection, 512) it hears no more of any.
fn overdue(unit: &str) -> String {
    format!(
        "systemd did not finish a job of {unit} within {} s: the unit takes long to start or to stop (systemctl status {unit}), or systemd is overloaded, as by some 150 launches at once, which is what dbus-daemon's max_match_rules_per_connection lets it follow",
        JOB_TIMEOUT.as_secs()
    )
}
