//! What launcher and `inside` say to each other over the launch's control socket: `inside` tells
//! what it proved, the launcher answers with the command and its environment, which so stand in no
//! unit property. When the program is executed the socket closes by itself; as it does that for an
//! `inside` that is killed as well, `inside` announces its execve.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream as Std;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::confinement;
use crate::environment::app_environment;
use crate::exit::Ended;
use crate::host::Host;
use crate::plan::{Directory, Identity, Plan};
use crate::view::View;

/// Bound of one message: ARG_MAX is 2 MiB on Linux with its usual stack limit, and a line of JSON
/// is far shorter.
pub const MAX_MESSAGE: u64 = 8 << 20;

/// What is read of a message together with its descriptors.
const MAX_FIRST: usize = 64 << 10;

/// Descriptors in one message. The app's 0, 1 and 2 are three; the forwarder's sockets are more. The
/// kernel takes 253 (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 128;

/// A line from `inside`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// `inside` is in a user namespace of root's that maps nobody yet: the launcher maps, and acknowledges.
    Unmapped,
    /// The sockets that the forwarder serves are made, and come with this line: the launcher acknowledges.
    Listening {
        /// How many.
        sockets: usize,
    },
    /// The wall stands; the version of `appfw`.
    Proven {
        /// Must be the launcher's own.
        version: String,
    },
    /// The wall does not stand, or something else that ends in 125.
    Refused {
        /// One sentence.
        message: String,
    },
    /// All is done but the execve by which `inside` becomes the program: the socket's end, if it is
    /// the next to come, says that it was executed.
    Becoming,
    /// The program was executed as a child of `inside`.
    Executed,
    /// The program, a child of `inside`, has ended.
    Ended(Ended),
    /// The wall stands but the program could not be executed.
    NotExecuted {
        /// 126 or 127.
        code: u8,
        /// One sentence.
        message: String,
    },
}

impl Report {
    /// Writes it as one line.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, mut to: impl Write) -> Result<()> {
        to.write_all(&self.line()?).context("the launcher is gone")
    }

    /// The line itself.
    ///
    /// # Errors
    /// None in practice: all of it is text.
    pub fn line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The launcher's socket at standard input, where nothing is left of it: what is started later is not to
/// have it.
///
/// # Errors
/// No descriptors are to be had.
pub fn from_stdin() -> Result<Std> {
    let failed = "cannot take over the launcher's socket";
    let launcher = std::io::stdin().as_fd().try_clone_to_owned().context(failed)?;
    let nothing = std::fs::File::open("/dev/null").context(failed)?;
    rustix::stdio::dup2_stdin(nothing).context(failed)?;
    Ok(launcher.into())
}

/// The launcher's answer to a report that waits for one.
pub const ACKNOWLEDGED: u8 = b'\n';

/// What a forwarder is told with its sockets: [`ACKNOWLEDGED`], and the via whose password stands in no file.
#[must_use]
pub fn hello(specs: &[String]) -> Vec<u8> {
    let mut hello = vec![ACKNOWLEDGED];
    hello.extend(specs.join("\n").into_bytes());
    hello
}

/// Waits for [`ACKNOWLEDGED`].
///
/// # Errors
/// The launcher is gone.
pub fn acknowledged(mut from: &Std) -> Result<()> {
    let mut byte = [0];
    from.read_exact(&mut byte).context("the launcher is gone")
}

/// A signal that the launcher passes on to an `inside` that stays as init: one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// This signal to every process.
    All(i32),
    /// This signal to the main process.
    Main(i32),
}

/// Sends a few bytes with descriptors beside the first of them.
///
/// # Errors
/// The other end is gone.
pub fn send_all(to: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let began = Instant::now();
    loop {
        // A line or less: a Unix socket's buffer takes it whole.
        match send_once(&to, bytes, descriptors, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => bail!("a socket took half a message"),
            Err(error) if has_too_many_in_flight(&error) && began.elapsed() < IN_FLIGHT => std::thread::sleep(PAUSE),
            Err(error) => return Err(error).context("cannot send by a socket of the launch"),
        }
    }
}

/// One sendmsg(2); how much of the bytes was taken.
fn send_once(to: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::Error::other("more descriptors than a message can carry"));
    }
    Ok(sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// How long descriptors wait to be sent, and how often that is tried: of one user's, as many as RLIMIT_NOFILE
/// may be on their way and not received yet (unix(7), ETOOMANYREFS), and a hundred launches at once have more.
const IN_FLIGHT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

fn has_too_many_in_flight(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ETOOMANYREFS)
}

/// [`receive_with`], at most `most` bytes, without holding up the thread.
///
/// # Errors
/// The socket is unusable: the cause is an [`std::io::Error`].
pub async fn received_with(from: &UnixStream, most: usize, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>> {
    loop {
        from.readable().await.context("cannot read from a socket of the launch")?;
        let received = from.try_io(Interest::READABLE, || {
            let mut bytes = vec![0; most];
            let length = receive_into(from, &mut bytes, descriptors)?;
            bytes.truncate(length);
            Ok(bytes)
        });
        match received {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => return received.context("cannot read from a socket of the launch"),
        }
    }
}

fn receive_into(from: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    Ok(received.bytes)
}

/// Sends bytes with descriptors beside the first of them (unix(7), SCM_RIGHTS). It never blocks the
/// thread: the app's user can stop `inside`, and signals and the time limit must still be heard.
///
/// # Errors
/// The other end is gone: the cause is an [`std::io::Error`] that says so.
pub async fn send_with(to: &mut UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let began = Instant::now();
    let sent = loop {
        to.writable().await.context("cannot send by a socket of the launch")?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match to.try_io(Interest::WRITABLE, || send_once(&*to, bytes, &borrowed, flags)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if has_too_many_in_flight(&error) && began.elapsed() < IN_FLIGHT => {
                tokio::time::sleep(PAUSE).await;
            }
            sent => break sent.context("cannot send by a socket of the launch")?,
        }
    };
    to.write_all(&bytes[sent..]).await.context("cannot send by a socket of the launch")
}

/// Receives descriptors into `descriptors` and the bytes that came with them.
///
/// # Errors
/// The other end is gone.
pub fn receive_with(from: &Std, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; MAX_FIRST];
    let length = receive_into(from, &mut bytes, descriptors).context("the launcher is gone")?;
    bytes.truncate(length);
    Ok(bytes)
}

/// What the launcher orders: strings of any bytes but NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Directories to start in, the first that can be entered.
    pub directories: Vec<PathBuf>,
    /// Descriptors 0-2 of the program; they travel beside the bytes. None: those of the unit.
    pub descriptors: usize,
    /// Which socket among them is the launcher's own log, where it has one (systemd.exec(5), `$JOURNAL_STREAM`).
    pub journal: Option<String>,
    /// What the program sees of the file system.
    pub view: View,
    /// The capabilities that it may ever have.
    pub bounding: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    view: View,
    bounding: u64,
    command: usize,
    environment: usize,
    directories: usize,
    descriptors: usize,
    journal: Option<String>,
}

impl Order {
    /// The order for a plan's app, which sees this `view` and gets so many `descriptors`.
    #[must_use]
    pub fn for_app(plan: &Plan, view: &View, host: &Host, descriptors: usize) -> Self {
        let home = &plan.app.user().home;
        Self {
            view: view.clone(),
            bounding: confinement::bounding(),
            command: plan.command.clone(),
            descriptors,
            journal: host.variable("JOURNAL_STREAM").map(|stream| stream.to_string_lossy().into_owned()),
            environment: app_environment(plan, &host.environment),
            directories: match (&plan.directory, &plan.app) {
                (Directory::Asked(directory), _) | (Directory::Caller(Some(directory)), Identity::Caller(_)) => {
                    vec![directory.clone()]
                }
                (Directory::Caller(directory), _) => {
                    directory.iter().cloned().chain([home.clone(), "/".into()]).collect()
                }
            },
        }
    }

    /// As bytes: a line of JSON with the counts, then NUL-terminated strings.
    ///
    /// # Errors
    /// A path of the view that is no UTF-8.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let head = Head {
            view: self.view.clone(),
            bounding: self.bounding,
            command: self.command.len(),
            environment: self.environment.len(),
            directories: self.directories.len(),
            descriptors: self.descriptors,
            journal: self.journal.clone(),
        };
        let mut bytes = serde_json::to_vec(&head).context("cannot say what is to be hidden from the app")?;
        bytes.push(b'\n');
        let mut put = |parts: &[&OsStr]| {
            for part in parts {
                bytes.extend_from_slice(part.as_bytes());
            }
            bytes.push(0);
        };
        for word in &self.command {
            put(&[word]);
        }
        for (name, value) in &self.environment {
            put(&[name, OsStr::new("="), value]);
        }
        for directory in &self.directories {
            put(&[directory.as_os_str()]);
        }
        Ok(bytes)
    }

    /// Reads one.
    ///
    /// # Errors
    /// It ends early or isn't one.
    pub fn read(from: impl Read) -> Result<Self> {
        let mut reader = BufReader::new(from.take(MAX_MESSAGE));
        let mut line = String::new();
        reader.read_line(&mut line).context("the launcher sent no command")?;
        let head: Head = serde_json::from_str(&line).context("the launcher sent no command")?;
        let mut strings = |count: usize| -> Result<Vec<OsString>> {
            (0..count)
                .map(|_| {
                    let mut bytes = Vec::new();
                    reader.read_until(0, &mut bytes).context("the command ended early")?;
                    match bytes.pop() {
                        Some(0) => Ok(OsString::from_vec(bytes)),
                        _ => bail!("the command ended early"),
                    }
                })
                .collect()
        };
        let command = strings(head.command)?;
        let environment = strings(head.environment)?.into_iter().map(split_variable).collect::<Result<_>>()?;
        let directories = strings(head.directories)?.into_iter().map(PathBuf::from).collect();
        let Head { view, bounding, descriptors, journal, .. } = head;
        Ok(Self { command, environment, directories, descriptors, journal, view, bounding })
    }
}

fn split_variable(variable: OsString) -> Result<(OsString, OsString)> {
    let bytes = variable.as_bytes();
    // A name may begin with '=', as some shells' internal ones do.
    match bytes.iter().skip(1).position(|byte| *byte == b'=') {
        Some(place) => {
            let (name, value) = bytes.split_at(place + 1);
            Ok((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
        }
        None => bail!("the launcher sent a variable without a value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            command: vec!["a b".into(), "".into(), OsString::from_vec(vec![0xff, b'\n'])],
            environment: vec![("A".into(), "=1\n2".into()), ("=x".into(), "".into())],
            directories: vec!["/".into()],
            descriptors: 3,
            journal: Some("9:1234".into()),
            view: View { hidden: vec!["/a\nb".into()], ..View::default() },
            bounding: 1 << 63 | 1,
        }
    }

    #[test]
    fn any_bytes_arrive_as_they_were() {
        assert_eq!(Order::read(order().to_bytes().unwrap().as_slice()).unwrap(), order());
    }

    #[test]
    fn a_cut_order_is_refused_at_any_place() {
        let bytes = order().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Order::read(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
