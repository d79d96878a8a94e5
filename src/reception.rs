//! The launcher's end of the control socket: receives `inside`'s report and sends it the order.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::socket_peercred;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use crate::control::{self, Order, Pass, Report};
use crate::exit::{Ended, NotExecuted};
use crate::keeper::{Keeper, Mapping};
use crate::name::unified_cgroup;
use crate::wait::{Signal, Signals};

/// How long `inside` may take for its proof: its own probes wait five seconds at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// A report is a sentence.
const MAX_REPORT: usize = 64 << 10;
/// Of one read.
const MAX_READ: usize = 4 << 10;

/// What `inside` has done of its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing that it told.
    Unproven,
    /// It proved the wall.
    Proven,
    /// It has the whole order.
    Ordered,
}

impl Stage {
    /// What had not happened by the time `inside` ended.
    fn missed(self) -> &'static str {
        match self {
            Self::Unproven => "its wall was proven",
            Self::Proven | Self::Ordered => "it executed the program",
        }
    }

    /// What is said when it takes too long.
    fn overdue(self, patience: Duration) -> String {
        let seconds = patience.as_secs();
        match self {
            Self::Unproven => {
                format!("appfw inside did not report within {seconds} s: the wall is not proven, so nothing was run")
            }
            Self::Proven => format!(
                "appfw inside proved the wall but did not take the command within {seconds} s, so nothing was run"
            ),
            // It may do so until it is stopped.
            Self::Ordered => format!(
                "appfw inside proved the wall and has the command, but did not execute it within {seconds} s: the launch is ended"
            ),
        }
    }
}

/// How far a launch came.
#[derive(Debug)]
pub enum Reached {
    /// The program was executed.
    Executed(App),
    /// A signal from the user ended the launch before.
    Ended(u8),
}

/// Waits for `inside`, which connects by `connection`, and answers its proof with the order, if `permit` permits.
///
/// # Errors
/// The wall does not stand, or the program could not be executed: `inside`'s own sentence.
pub async fn receive(
    keeper: &mut impl Keeper,
    connection: impl Future<Output = Result<UnixStream>>,
    permit: impl Fn() -> Result<()>,
    order: &Order,
    streams: &[OwnedFd],
    signals: &mut Signals,
) -> Result<Reached> {
    let stage = Cell::new(Stage::Unproven);
    let mapping = keeper.mapping();
    let conversation = async { converse(connection.await?, &mapping, permit, order, streams, &stage).await };
    let conversation = within(PATIENCE, &stage, conversation);
    tokio::pin!(conversation);
    let mut signalled: Option<Signal> = None;
    loop {
        tokio::select! {
            // The report comes first: it says why the unit ended.
            biased;
            told = &mut conversation => {
                return match (told, signalled) {
                    (Ok(mut app), Some(signal)) if app.stays => {
                        // Until it had a child, `inside` was shielded from it, as every init is.
                        signal.forward(keeper, Some(&mut app)).await;
                        Ok(Reached::Executed(app))
                    }
                    (Err(error), Some(signal)) if error.is::<Unheard>() => {
                        keeper.over().await?;
                        Ok(Reached::Ended(signal.code()))
                    }
                    (told, _) => told.map(Reached::Executed),
                };
            }
            signal = signals.next() => {
                // The terminal's end nothing: a shell continues what it ends.
                if let Signal::Pass(_) = signal {
                    signalled = Some(signal);
                }
                signal.forward(keeper, None).await;
            }
            over = keeper.over() => {
                over?;
                return match signalled {
                    Some(signal) => Ok(Reached::Ended(signal.code())),
                    None => bail!("{} ended before {}, so nothing was run{}", keeper.name(), stage.get().missed(), keeper.log()),
                };
            }
        }
    }
}

/// A conversation that takes no longer than it may.
async fn within(
    patience: Duration,
    stage: &Cell<Stage>,
    conversation: impl Future<Output = Result<App>>,
) -> Result<App> {
    match tokio::time::timeout(patience, conversation).await {
        Ok(told) => told,
        Err(_) => bail!(stage.get().overdue(patience)),
    }
}

async fn converse(
    inside: UnixStream,
    mapping: &Mapping,
    permit: impl Fn() -> Result<()>,
    order: &Order,
    streams: &[OwnedFd],
    stage: &Cell<Stage>,
) -> Result<App> {
    let mut inside = App { stream: inside, stays: false, sockets: Vec::new(), said: Vec::new() };
    let mut report = inside.next().await?;
    if report == Some(Report::Unmapped) {
        mapping.write()?;
        report = inside.acknowledge().await?;
    }
    if let Some(Report::Listening { sockets }) = report {
        if sockets != inside.sockets.len() {
            bail!("appfw inside made {sockets} sockets for the forwarder, and {} arrived", inside.sockets.len());
        }
        report = inside.acknowledge().await?;
    }
    match report {
        Some(Report::Proven { version }) if version == env!("CARGO_PKG_VERSION") => stage.set(Stage::Proven),
        Some(Report::Proven { version }) => bail!(
            "appfw is version {version} and appfw-run is {}: install both from one package",
            env!("CARGO_PKG_VERSION")
        ),
        Some(report) => return Err(refusal(report)),
        None => bail!(Unheard(stage.get())),
    }
    permit()?;
    match control::send_with(&mut inside.stream, &order.to_bytes()?, streams).await {
        Ok(()) => stage.set(Stage::Ordered),
        // It may have said why.
        Err(error) if error.downcast_ref().is_some_and(is_end) => {}
        Err(error) => return Err(error),
    }
    match inside.next().await? {
        Some(Report::Becoming) => match inside.next().await? {
            // The socket closes by itself where `inside` becomes the program.
            None => Ok(inside),
            Some(report) => Err(refusal(report)),
        },
        Some(Report::Executed) => Ok(App { stays: true, ..inside }),
        Some(report) => Err(refusal(report)),
        // It was killed: no end of its own comes without a word.
        None => bail!(Unheard(stage.get())),
    }
}

fn refusal(report: Report) -> anyhow::Error {
    match report {
        Report::Refused { message } => anyhow::Error::msg(message),
        Report::NotExecuted { code, message } => anyhow::Error::new(NotExecuted { code, message }),
        report => anyhow::anyhow!("appfw inside sent {report:?} out of turn"),
    }
}

/// Whether an error of a socket says that the other end was closed. It is a reset where the other
/// end had not read all (unix(7)).
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// `inside` ended without a word, as it does by a signal.
#[derive(Debug)]
struct Unheard(Stage);

impl std::fmt::Display for Unheard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "appfw inside ended before {}, so nothing was run", self.0.missed())
    }
}

impl std::error::Error for Unheard {}

/// What a process of root's that is over has left at the control socket: why it failed. Nobody else is heard, as
/// other processes of the app's user can connect as well.
#[must_use]
pub fn refusal_of_root(control: &std::os::unix::net::UnixListener) -> Option<anyhow::Error> {
    // The socket doesn't block: the end of what is there is an error.
    while let Ok((stream, _)) = control.accept() {
        if !socket_peercred(&stream).is_ok_and(|peer| peer.uid.is_root()) {
            continue;
        }
        let mut line = Vec::new();
        // Whether its end or, of one that is not over, no more for now.
        let _ = stream.set_nonblocking(true);
        let _ = stream.take(MAX_REPORT as u64).read_to_end(&mut line);
        if let Ok(report @ Report::Refused { .. }) = serde_json::from_slice(&line) {
            return Some(refusal(report));
        }
    }
    None
}

/// The connection to `inside`.
#[derive(Debug)]
pub struct App {
    stream: UnixStream,
    /// Whether `inside` runs the app as its child.
    stays: bool,
    /// Those for the forwarder that `inside` made.
    pub sockets: Vec<OwnedFd>,
    /// What came and was not taken yet: who waits for a line's end may be called away, and more than one line
    /// may have come.
    said: Vec<u8>,
}

impl App {
    /// How the app's main process ended, where `inside` stays to tell; never returns elsewhere.
    pub async fn ended(&mut self) -> Ended {
        match self.next().await {
            Ok(Some(Report::Ended(how))) => how,
            // systemd tells of the main process then.
            _ => std::future::pending().await,
        }
    }

    /// How it ended, if that was told.
    pub async fn has_ended(&mut self) -> Option<Ended> {
        match self.next().await {
            Ok(Some(Report::Ended(how))) => Some(how),
            _ => None,
        }
    }

    /// Has an `inside` that stays pass a signal on. One that has ended has nobody to tell.
    pub async fn pass(&mut self, pass: Pass) {
        if let Ok(mut line) = serde_json::to_vec(&pass) {
            line.push(b'\n');
            let _ = self.stream.write_all(&line).await;
        }
    }

    /// Answers a report that waits for it; returns the next one.
    async fn acknowledge(&mut self) -> Result<Option<Report>> {
        self.stream.write_all(&[control::ACKNOWLEDGED]).await.context("cannot send to appfw inside")?;
        self.next().await
    }

    /// The next report: one line, which `inside` writes as a whole.
    async fn next(&mut self) -> Result<Option<Report>> {
        let end = loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            let more = match control::received_with(&self.stream, MAX_READ, &mut self.sockets).await {
                Err(error) if error.downcast_ref().is_some_and(is_end) => Vec::new(),
                read => read.context("cannot read from appfw inside")?,
            };
            if more.is_empty() && self.said.is_empty() {
                return Ok(None);
            }
            if more.is_empty() || self.said.len() > MAX_REPORT {
                bail!("appfw inside sent half a report");
            }
            self.said.extend(more);
        };
        let line: Vec<u8> = self.said.drain(..=end).take(end).collect();
        let report = serde_json::from_slice(&line);
        report.map(Some).with_context(|| format!("appfw inside sent {:?}", String::from_utf8_lossy(&line)))
    }
}

/// The next client that belongs to `cgroup`; any other gets nothing, as other processes of the same
/// user can connect as well.
///
/// # Errors
/// The socket is unusable.
pub async fn accept_of(cgroup: &str, listener: &UnixListener) -> Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept on a socket of the launch")?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let text = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
        if text.as_deref().and_then(unified_cgroup).is_some_and(|peer| peer.ends_with(cgroup)) {
            return Ok(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as Std;

    use super::*;
    use crate::exit;
    use crate::view::View;

    fn order() -> Order {
        let environment = vec![("A".into(), "b\nc".into())];
        Order {
            command: vec!["curl".into(), "".into()],
            environment,
            directories: vec!["/".into()],
            descriptors: 1,
            journal: None,
            view: View::default(),
            bounding: 0,
        }
    }

    fn proven() -> String {
        format!("{{\"proven\":{{\"version\":\"{}\"}}}}\n", env!("CARGO_PKG_VERSION"))
    }

    /// A conversation with an `inside` that says `first`, and `then` once it has the order.
    async fn converse_with(first: String, then: &'static str) -> Result<(App, Option<Order>)> {
        let (ours, mut theirs) = Std::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let inside = std::thread::spawn(move || {
            theirs.write_all(first.as_bytes()).unwrap();
            if first != proven() {
                theirs.shutdown(Shutdown::Write).unwrap();
                // Nothing is ordered from an inside that has proven nothing.
                assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
                return None;
            }
            let mut descriptors = Vec::new();
            let start = control::receive_with(&theirs, &mut descriptors).unwrap();
            assert_eq!(descriptors.len(), 1);
            let order = Order::read(start.as_slice()).unwrap();
            theirs.write_all(then.as_bytes()).unwrap();
            Some(order)
        });
        let streams = [File::open("/dev/null").unwrap().into()];
        let ours = UnixStream::from_std(ours).unwrap();
        let stage = Cell::new(Stage::Unproven);
        let outcome = tokio::time::timeout(
            Duration::from_secs(20),
            converse(ours, &Mapping::NotOurs, || Ok(()), &order(), &streams, &stage),
        )
        .await;
        let order = inside.join().unwrap();
        outcome.expect("it hangs").map(|app| (app, order))
    }

    #[tokio::test]
    async fn a_proven_wall_is_answered_with_the_whole_order() {
        for then in ["\"becoming\"\n", "\"executed\"\n"] {
            let (_, ordered) = converse_with(proven(), then).await.unwrap();
            assert_eq!(ordered, Some(order()));
        }
    }

    #[test]
    fn what_a_process_of_roots_that_is_over_has_left_is_heard() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("control");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(refusal_of_root(&listener).is_none());
        Std::connect(&path).unwrap().write_all(b"{}\n").unwrap();
        // An `inside` of root's that is ready has nothing to do with why its units were not trusted.
        Report::Proven { version: "1".into() }.send(Std::connect(&path).unwrap()).unwrap();
        assert!(refusal_of_root(&listener).is_none());
        let refused = Report::Refused { message: "no nf_tables".into() };
        refused.send(Std::connect(&path).unwrap()).unwrap();
        let heard = refusal_of_root(&listener).map(|error| error.to_string());
        // Nobody else is.
        let expected = nix::unistd::geteuid().is_root().then(|| "no nf_tables".to_owned());
        assert_eq!(heard, expected);
    }

    #[tokio::test]
    async fn what_is_not_permitted_is_not_ordered() {
        let (ours, mut theirs) = Std::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(proven().as_bytes()).unwrap();
        let (ours, stage) = (UnixStream::from_std(ours).unwrap(), Cell::new(Stage::Unproven));
        let permit = || bail!("a filter is missing");
        let refused = converse(ours, &Mapping::NotOurs, permit, &order(), &[], &stage).await.unwrap_err();
        assert_eq!((refused.to_string().as_str(), stage.get()), ("a filter is missing", Stage::Proven));
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn an_inside_that_is_stopped_does_not_hold_the_launcher() {
        let (ours, mut theirs) = Std::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(proven().as_bytes()).unwrap();
        // More than the socket's buffers take of it.
        let order = Order { command: vec!["x".repeat(4 << 20).into()], descriptors: 0, ..order() };
        let stage = Cell::new(Stage::Unproven);
        let ours = UnixStream::from_std(ours).unwrap();
        let error =
            within(Duration::from_secs(1), &stage, converse(ours, &Mapping::NotOurs, || Ok(()), &order, &[], &stage))
                .await
                .unwrap_err()
                .to_string();
        assert_eq!(error, "appfw inside proved the wall but did not take the command within 1 s, so nothing was run");
    }

    #[tokio::test]
    async fn where_inside_stays_it_tells_how_the_app_ended() {
        let (mut app, _) = converse_with(proven(), "\"executed\"\n{\"ended\":{\"code\":7}}\n").await.unwrap();
        assert_eq!(app.ended().await, Ended::Code(7));
    }

    #[tokio::test]
    async fn what_inside_refuses_is_the_launchers_own_sentence_and_code() {
        let half = "{\"refused\"".to_owned();
        let endless = "x".repeat(MAX_REPORT + 1);
        let other = "{\"proven\":{\"version\":\"0.0.0\"}}\n".to_owned();
        let refused = "{\"refused\":{\"message\":\"::1 is open\"}}\n";
        let not_found = "{\"not-executed\":{\"code\":127,\"message\":\"x was not found\"}}\n";
        for (first, then, code, expected) in [
            (refused.to_owned(), "", exit::OURS, "::1 is open"),
            (other, "", exit::OURS, "appfw is version 0.0.0 and appfw-run is"),
            (String::new(), "", exit::OURS, "appfw inside ended before its wall was proven, so nothing was run"),
            (half, "", exit::OURS, "appfw inside sent half a report"),
            (endless, "", exit::OURS, "appfw inside sent half a report"),
            ("HTTP/1.1 400\n".to_owned(), "", exit::OURS, "appfw inside sent \"HTTP/1.1 400\""),
            ("\"executed\"\n".to_owned(), "", exit::OURS, "appfw inside sent Executed out of turn"),
            (proven(), refused, exit::OURS, "::1 is open"),
            (proven(), not_found, exit::NOT_FOUND, "x was not found"),
            (proven(), "{}\n", exit::OURS, "appfw inside sent \"{}\""),
            // Killed in the middle of its work: no execve announced.
            (proven(), "", exit::OURS, "appfw inside ended before it executed the program, so nothing was run"),
            (proven(), "\"becoming\"\n{\"not-executed\":{\"code\":126,\"message\":\"x\"}}\n", 126, "x"),
        ] {
            let error = converse_with(first, then).await.expect_err(expected);
            assert!(format!("{error:#}").starts_with(expected), "{expected}: {error:#}");
            assert_eq!(exit::code_of(&error), code, "{expected}");
        }
    }
}
