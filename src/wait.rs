//! From the program's execve to its end: signals, window size, the forwarder's report, what stays
//! behind, and the exit code.

use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal as Number;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::Capture;
use crate::control;
use crate::forward::Report;
use crate::keeper::Keeper;
use crate::manager::{Changes, Life, Manager, Properties, Who};
use crate::plan::Plan;
use crate::reception::{App, accept_of};
use crate::refusals::Refusals;
use crate::say::Say;
use crate::terminal::Terminal;

/// How long after the main process's end the launch is said to go on.
const LINGERS: Duration = Duration::from_millis(200);

/// How long a forwarder may take to start.
const HAND_OVER: Duration = Duration::from_secs(20);

/// A unit's life, followed by its changes.
pub struct Watch {
    unit: String,
    changes: Changes,
    known: Properties,
}

impl Watch {
    /// Begins before the unit is started, so that no change is missed.
    ///
    /// # Errors
    /// The bus refuses the watch.
    pub async fn new(manager: &Manager<'_>, unit: &str) -> Result<Self> {
        Ok(Self { unit: unit.to_owned(), changes: manager.watch(unit).await?, known: Properties::new() })
    }

    /// The unit's name.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// What is known now: the start job's end was preceded by the changes it made.
    #[must_use]
    pub fn life(&self) -> Life {
        Life::of(&self.known)
    }

    /// Waits for a change; returns what is known by then.
    ///
    /// # Errors
    /// The bus is lost: the launcher then ends, and the launch with it.
    pub async fn changed(&mut self) -> Result<Life> {
        match self.changes.next().await {
            Some(changed) => {
                self.known.extend(changed);
                Ok(Life::of(&self.known))
            }
            None => bail!("the connection to systemd was lost, and the launch ends with it"),
        }
    }
}

/// What is passed on to the app.
const PASSED: [Number; 6] =
    [Number::SIGINT, Number::SIGTERM, Number::SIGHUP, Number::SIGQUIT, Number::SIGUSR1, Number::SIGUSR2];

/// The signals to the launcher.
pub struct Signals {
    streams: Vec<(Number, Stream)>,
    terminal: [Stream; 2],
}

/// A signal to the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// To be passed on.
    Pass(Number),
    /// The terminal's window has another size, or the launcher was stopped and goes on.
    Terminal,
}

impl Signal {
    /// Passes it on. What ends a program goes to every process, as from a terminal: the launch
    /// lasts to its last one. What programs use for themselves goes to the main process.
    pub async fn forward(self, keeper: &impl Keeper, app: Option<&mut App>) {
        let Self::Pass(number) = self else { return };
        let who = match number {
            Number::SIGUSR1 | Number::SIGUSR2 => Who::Main,
            _ => Who::All,
        };
        keeper.signal(app, who, number).await;
    }

    /// The exit code of a launch that it ended.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Pass(number) => u8::try_from(128 + number as i32).unwrap_or(u8::MAX),
            Self::Terminal => crate::exit::OURS,
        }
    }
}

impl Signals {
    /// Catches them from now on, but those to be passed on that the caller has ignored (nohup(1), `&` in a script): they
    /// stay so, in what this process starts as well.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("cannot tell which signals are ignored")?;
        let catch = |kind: SignalKind| signal(kind).context("cannot catch signals");
        let pass = |number: Number| Ok((number, catch(SignalKind::from_raw(number as i32))?));
        Ok(Self {
            streams: PASSED
                .into_iter()
                .filter(|number| !is_ignored(&status, *number))
                .map(pass)
                .collect::<Result<_>>()?,
            terminal: [catch(SignalKind::window_change())?, catch(SignalKind::from_raw(Number::SIGCONT as i32))?],
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        let Self { streams, terminal } = self;
        std::future::poll_fn(|context| {
            for (number, stream) in streams.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(Signal::Pass(*number));
                }
            }
            for stream in terminal.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(Signal::Terminal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// As proc_pid_status(5) has it: a mask in hexadecimal digits, whose lowest bit is signal 1.
fn is_ignored(status: &str, number: Number) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number as i32 - 1) & 1 == 1)
}

/// What an app under way is watched with.
pub struct Attendance<'a> {
    /// Its plan.
    pub plan: &'a Plan,
    /// The launcher's voice.
    pub say: &'a Say,
    /// The caller's terminal, if the app has a pty.
    pub terminal: Option<&'a Terminal>,
}

impl Attendance<'_> {
    /// Waits until the app is over; returns its exit code. `servants` report meanwhile.
    ///
    /// # Errors
    /// Who keeps the app is lost.
    pub async fn until_over(
        &self,
        keeper: &mut impl Keeper,
        signals: &mut Signals,
        mut app: App,
        servants: Servants,
    ) -> Result<u8> {
        let Self { plan, say, terminal } = *self;
        let mut forwarder = Servant::new(FORWARDER, servants.forwarder);
        let mut publisher = Servant::new(PUBLISHER, servants.publisher);
        let mut life = keeper.life();
        let mut main = None;
        let mut told = false;
        while !life.over {
            main = main.or(life.main);
            tokio::select! {
                // The report first: of a forwarder that has ended since nobody can tell whose it was.
                biased;
                report = forwarder.next() => forwarder.take(report, say),
                report = publisher.next() => publisher.take(report, say),
                now = keeper.changed() => life = now?,
                how = app.ended(), if main.is_none() => main = Some(how),
                // The unit's own end is on its way more often than not.
                () = tokio::time::sleep(LINGERS), if main.is_some() && !told => {
                    told = true;
                    if let Some(sentence) = what_stayed(plan, &keeper.processes().await) {
                        say.plain(&sentence);
                    }
                }
                signal = signals.next() => match (signal, terminal) {
                    (Signal::Terminal, Some(terminal)) => terminal.look(),
                    _ => signal.forward(keeper, Some(&mut app)).await,
                },
            }
        }
        // It may have told of the program's end just before its own.
        if main.is_none() {
            main = app.has_ended().await;
        }
        let code = main.or(life.main).context("nobody says how the program ended")?.code();
        forwarder.drain(say).await;
        let others = if plan.has_inherited_only { &plan.destinations.only[..] } else { &[] };
        for sentence in forwarder.refusals.sentences(others) {
            say.plain(&sentence);
        }
        if code != 0 && plan.has_forwarder() {
            let why = keeper
                .without_forwarder()
                .await
                .or_else(|| (!forwarder.used && plan.capture == Capture::Off).then(|| unused(plan)));
            if let Some(why) = why {
                say.plain(&why);
            }
        }
        Ok(code)
    }
}

/// Said where a program failed without having made a request: most likely it ignores the variables.
fn unused(plan: &Plan) -> String {
    format!("{} never used the proxy; --wall namespace captures programs that ignore the variables", plan.program())
}

/// Who keeps the launch going; by `--exit-with-main` they are being ended.
fn what_stayed(plan: &Plan, processes: &[(u32, String)]) -> Option<String> {
    const SHOWN: usize = 5;
    if processes.is_empty() || plan.exit_with_main {
        return None;
    }
    let named: Vec<String> = processes.iter().take(SHOWN).map(|(pid, command)| format!("{command} ({pid})")).collect();
    let more = if processes.len() > SHOWN { ", …" } else { "" };
    Some(format!(
        "{} has ended, still running: {}{more}; Ctrl-C ends them, --exit-with-main does not wait",
        plan.program(),
        named.join(", ")
    ))
}

/// Where the reports of those come from that serve the app.
pub struct Servants {
    /// The forwarder.
    pub forwarder: Reports,
    /// Who leads published ports to the app.
    pub publisher: Reports,
}

const FORWARDER: &str = "the forwarder";
const PUBLISHER: &str = "appfw publish";

impl Servants {
    /// Waits until each has its sockets, for who does not stay to hear more.
    ///
    /// # Errors
    /// One did not come for them.
    pub async fn handed_over(self) -> Result<()> {
        self.forwarder.handed_over(FORWARDER).await?;
        self.publisher.handed_over(PUBLISHER).await
    }
}

/// Where forwarders' reports come from, or others' of that kind.
pub enum Reports {
    /// There is no forwarder.
    None,
    /// From forwarders that connect when they start.
    Units {
        /// Theirs.
        cgroup: String,
        /// The launch's socket.
        listener: UnixListener,
        /// What the first is handed, if nobody else makes them; its manager keeps them for the next.
        sockets: Vec<OwnedFd>,
        /// Accepted, and not served yet.
        waiting: Option<UnixStream>,
    },
    /// From forwarders of the launcher's own, one connection each.
    Children(mpsc::Receiver<UnixStream>),
}

impl Reports {
    /// From a unit's processes, the first of which is handed these `sockets`.
    #[must_use]
    pub fn of_unit(cgroup: String, listener: UnixListener, sockets: Vec<OwnedFd>) -> Self {
        Self::Units { cgroup, listener, sockets, waiting: None }
    }

    /// Waits until `who` has its sockets, for one that does not stay to hear more.
    ///
    /// # Errors
    /// It did not come for them.
    async fn handed_over(mut self, who: &str) -> Result<()> {
        let Self::Units { sockets, .. } = &self else { return Ok(()) };
        if sockets.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(HAND_OVER, self.next()).await {
            Ok(Some(_)) => Ok(()),
            _ => bail!("{who} did not come for its sockets within {} s", HAND_OVER.as_secs()),
        }
    }

    async fn next(&mut self) -> Option<UnixStream> {
        match self {
            Self::None => None,
            Self::Units { cgroup, listener, sockets, waiting } => loop {
                // Who waits for this may be called away in between.
                let stream = match waiting {
                    Some(stream) => stream,
                    None => waiting.insert(accept_of(cgroup, listener).await.ok()?),
                };
                let is_served = match sockets.is_empty() {
                    true => true,
                    // One that is gone already is started again, and connects.
                    false => control::send_with(stream, &[control::ACKNOWLEDGED], sockets).await.is_ok(),
                };
                let stream = waiting.take();
                if is_served {
                    sockets.clear();
                    return stream;
                }
            },
            Self::Children(streams) => streams.recv().await,
        }
    }
}

/// What one of them tells of itself: it connects when it starts, and again when it comes back.
struct Servant {
    name: &'static str,
    reports: Reports,
    lines: Option<Lines<BufReader<UnixStream>>>,
    used: bool,
    ended: bool,
    refusals: Refusals,
}

impl Servant {
    fn new(name: &'static str, reports: Reports) -> Self {
        Self { name, reports, lines: None, used: false, ended: false, refusals: Refusals::default() }
    }

    /// The next line; `None` when a forwarder has come or gone.
    async fn next(&mut self) -> Option<String> {
        if let Some(lines) = &mut self.lines {
            let line = lines.next_line().await.ok().flatten();
            if line.is_none() {
                self.lines = None;
            }
            return line;
        }
        match self.reports.next().await {
            Some(stream) => {
                self.lines = Some(BufReader::new(stream).lines());
                None
            }
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, line: Option<String>, say: &Say) {
        match line.as_deref().map(serde_json::from_str) {
            Some(Ok(Report::Request)) => self.used = true,
            Some(Ok(Report::UpstreamFailed { message })) => say.plain(&message),
            Some(Ok(Report::CannotStart { message })) if !self.ended => {
                self.ended = true;
                say.plain(&format!("{} cannot start: {message}", self.name));
            }
            Some(Ok(Report::CannotStart { .. })) => {}
            Some(Ok(Report::Refused(refused))) => self.refusals.add(refused),
            Some(Err(_)) | None => {}
        }
    }

    /// Takes what has come until now.
    async fn drain(&mut self, say: &Say) {
        loop {
            // A yield has the runtime look at its sockets once.
            let look = async {
                for _ in 0..2 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                line = self.next() => self.take(line, say),
                () = look => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan;
    use crate::forward::{Refused, Reporter, Rule};

    #[test]
    fn ignored_signals_are_told_from_the_others() {
        let status = "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001006\nSigCgt:\tffffffffffffffff\n";
        let ignored: Vec<Number> = PASSED.into_iter().filter(|number| is_ignored(status, *number)).collect();
        assert_eq!(ignored, [Number::SIGINT, Number::SIGQUIT]);
        assert!(!is_ignored("", Number::SIGHUP));
    }

    #[test]
    fn what_stayed_is_named_unless_it_is_being_ended() {
        let left = [(7, "sleep 9".to_owned())];
        let sentence = |line: &str, left: &[(u32, String)]| what_stayed(&plan(line).unwrap(), left);
        let said = "sh has ended, still running: sleep 9 (7); Ctrl-C ends them, --exit-with-main does not wait";
        assert_eq!(sentence("--via direct sh", &left).as_deref(), Some(said));
        assert_eq!(sentence("--via direct --exit-with-main sh", &left), None);
        assert_eq!(sentence("--via direct sh", &[]), None);
    }

    #[tokio::test]
    async fn what_forwarders_refused_is_kept_until_the_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("report");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        // This process stands for the forwarder: every cgroup ends with nothing.
        let mut forwarder = Servant::new(
            FORWARDER,
            Reports::of_unit(String::new(), UnixListener::from_std(listener).unwrap(), Vec::new()),
        );
        let refused = |destination: &str| Refused { destination: destination.into(), by: Rule::Only };
        // It was restarted in between, and refuses the same again.
        for told in [&["a.test:80", "b.test:80"][..], &["b.test:80", "c.test:80"]] {
            let reporter = Reporter::connect(&path).unwrap();
            for destination in told {
                reporter.refused(&refused(destination));
            }
            drop(reporter);
            forwarder.drain(&Say::new(true, false)).await;
        }
        let said = "refused 3 names: a.test:80, b.test:80, c.test:80; --only NAME lets one through";
        assert_eq!(forwarder.refusals.sentences(&[]), [said]);
    }
}
