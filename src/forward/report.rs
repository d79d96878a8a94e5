//! What the forwarder tells the launcher.

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Refused};
use super::limits::REFUSED_NAMES;

/// One event, a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// An app made its first request. A bare greeting, as of a probe, is none.
    Request,
    /// The forwarder cannot do its work, and ends.
    CannotStart {
        /// One sentence, without credentials.
        message: String,
    },
    /// The upstream failed for the first time.
    UpstreamFailed {
        /// One sentence, without credentials.
        message: String,
    },
    /// A rule refused a destination for the first time.
    Refused(Refused),
}

/// Says each event once, and never waits for anyone to listen.
#[derive(Debug, Default)]
pub struct Reporter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    launcher: Option<UnixStream>,
    requested: bool,
    ended: bool,
    failed: bool,
    refused: HashSet<Refused>,
}

impl Reporter {
    /// A reporter to the Unix socket at `path`; to nobody, where the launcher has gone (`--detach`).
    pub fn connect(path: &Path) -> Result<Self> {
        match UnixStream::connect(path) {
            Ok(stream) => Self::to(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Self::default()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot connect to the launcher's report socket {}", path.display()))
            }
        }
    }

    /// A reporter to a connected socket.
    pub fn to(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true).context("cannot make the report socket non-blocking")?;
        let state = State { launcher: Some(stream), ..State::default() };
        Ok(Self { state: Mutex::new(state) })
    }

    /// This process ends with `error`.
    pub(crate) fn cannot_start(&self, error: &anyhow::Error) {
        self.once(|state| &mut state.ended, || Report::CannotStart { message: format!("{error:#}") });
    }

    /// An app made a request.
    pub(super) fn request(&self) {
        self.once(|state| &mut state.requested, || Report::Request);
    }

    /// A request failed, perhaps by the upstream.
    pub(super) fn failure(&self, failure: &Failure) {
        if failure.blames_upstream {
            self.once(|state| &mut state.failed, || Report::UpstreamFailed { message: failure.message.clone() });
        }
        if let Some(refused) = &failure.refused {
            self.refused(refused);
        }
    }

    /// A rule refused a destination.
    pub(crate) fn refused(&self, refused: &Refused) {
        let Ok(mut state) = self.state.lock() else { return };
        // One more than is listed tells that there are more.
        if state.refused.len() <= REFUSED_NAMES && state.refused.insert(refused.clone()) {
            state.say(&Report::Refused(refused.clone()));
        }
    }

    fn once(&self, said: impl Fn(&mut State) -> &mut bool, report: impl Fn() -> Report) {
        let Ok(mut state) = self.state.lock() else { return };
        if !std::mem::replace(said(&mut state), true) {
            state.say(&report());
        }
    }
}

impl State {
    fn say(&mut self, report: &Report) {
        if let (Some(launcher), Ok(mut line)) = (&mut self.launcher, serde_json::to_vec(report)) {
            line.push(b'\n');
            // A launcher that is gone or busy misses it; serving the app comes first.
            let _ = launcher.write(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::forward::failure::Rule;

    #[test]
    fn each_event_is_said_once_and_reads_back() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reporter = Reporter::to(ours).unwrap();
        reporter.request();
        reporter.request();
        reporter.failure(&Failure::general("not the upstream"));
        reporter.failure(&Failure::general("a \"b\"").of_upstream());
        reporter.failure(&Failure::general("c").of_upstream());
        drop(reporter);
        let lines: Vec<_> = BufReader::new(theirs).lines().map(Result::unwrap).collect();
        assert_eq!(lines, [r#"{"event":"request"}"#, r#"{"event":"upstream-failed","message":"a \"b\""}"#]);
        let read: Vec<Report> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, [Report::Request, Report::UpstreamFailed { message: "a \"b\"".into() }]);
    }

    #[test]
    fn refused_destinations_are_told_once_each_and_not_without_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reporter = Reporter::to(ours).unwrap();
        let refused = |number: usize, by| Refused { destination: format!("n{number}.test:80"), by };
        let fail = |refused| reporter.failure(&Failure { refused: Some(refused), ..Failure::refused("") });
        for _ in 0..2 {
            fail(refused(0, Rule::Only));
        }
        fail(refused(0, Rule::Block));
        for number in 0..2 * REFUSED_NAMES {
            fail(refused(number, Rule::Only));
        }
        drop(reporter);
        let lines: Vec<_> = BufReader::new(theirs).lines().map(Result::unwrap).collect();
        assert_eq!(lines[0], r#"{"event":"refused","destination":"n0.test:80","by":"only"}"#);
        let read: Vec<Report> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = [refused(0, Rule::Only), refused(0, Rule::Block)].into_iter();
        let told = told.chain((1..REFUSED_NAMES).map(|number| refused(number, Rule::Only)));
        assert_eq!(read, told.map(Report::Refused).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_listening_is_no_trouble() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("report");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        Reporter::connect(&path).unwrap().request();
        assert!(Reporter::connect(&place.path().join("absent")).is_err());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reporter = Reporter::to(ours).unwrap();
        drop(theirs);
        reporter.request();
        Reporter::default().request();
    }
}
