//! Exit codes, as the man page lists them.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

/// The launcher's own failures, usage errors included: the app never ran.
pub const OURS: u8 = 125;
/// The program was found but cannot be executed, as shells say it.
pub const NOT_EXECUTABLE: u8 = 126;
/// The program was not found, as shells say it.
pub const NOT_FOUND: u8 = 127;

/// An exit code that is a failure where these are held as successes (`SuccessExitStatus=`): the usual one, if it is.
#[must_use]
pub fn failing(usual: u8, successes: &[i32]) -> Option<u8> {
    let others = (1..=u8::MAX).rev();
    std::iter::once(usual).chain(others).find(|code| !successes.contains(&i32::from(*code)))
}

/// How the app's main process ended, in the terms of waitid(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// `CLD_EXITED`: the program's own exit status.
    Code(i32),
    /// `CLD_KILLED` or `CLD_DUMPED`: the signal's number.
    Signal(i32),
}

impl Ended {
    /// From `ExecMainCode` and `ExecMainStatus` of a unit; `None` if its main process hasn't ended.
    #[must_use]
    pub fn from_main(code: i32, status: i32) -> Option<Self> {
        // siginfo_t's si_code of SIGCHLD, see sigaction(2).
        const CLD_EXITED: i32 = 1;
        const CLD_KILLED: i32 = 2;
        const CLD_DUMPED: i32 = 3;
        match code {
            CLD_EXITED => Some(Self::Code(status)),
            CLD_KILLED | CLD_DUMPED => Some(Self::Signal(status)),
            _ => None,
        }
    }

    /// What the launcher exits with: the app's own code as it is, 128+n for signal n.
    #[must_use]
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

/// Of a process that was waited for.
impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

/// A failure that has another code than 125: the program could not be executed.
#[derive(Debug)]
pub struct NotExecuted {
    /// 126 or 127.
    pub code: u8,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for NotExecuted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NotExecuted {}

/// The exit code that goes with an error.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<NotExecuted>().map_or(OURS, |failure| failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_whatever_is_held_as_a_success() {
        assert_eq!(failing(OURS, &[0, 1, 143]), Some(OURS));
        assert_eq!(failing(OURS, &[125]), Some(255));
        assert_eq!(failing(255, &[125, 255, 254]), Some(253));
        assert_eq!(failing(OURS, &(0..=255).collect::<Vec<i32>>()), None);
    }

    #[test]
    fn the_apps_own_codes_come_through_as_they_are() {
        for code in [0, 7, 125, 203, 226, 255] {
            assert_eq!(Ended::from_main(1, code).map(Ended::code), u8::try_from(code).ok());
        }
    }

    #[test]
    fn a_signal_is_128_plus_its_number() {
        assert_eq!(Ended::from_main(2, 15).map(Ended::code), Some(143));
        assert_eq!(Ended::from_main(3, 11).map(Ended::code), Some(139));
    }

    #[test]
    fn a_process_that_has_not_ended_has_no_code() {
        assert_eq!(Ended::from_main(0, 0), None);
    }

    #[test]
    fn only_a_program_that_was_not_executed_has_a_code_of_its_own() {
        let not_found = NotExecuted { code: NOT_FOUND, message: "x".into() };
        assert_eq!(code_of(&anyhow::Error::new(not_found).context("launch")), NOT_FOUND);
        assert_eq!(code_of(&anyhow::anyhow!("no bus")), OURS);
    }
}
