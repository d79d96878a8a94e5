//! No descriptor but 0, 1 and 2 reaches the app, and none of those leads out: a socket made outside
//! keeps its creator's namespace and filter, a directory its file system, which `..` walks (facts:
//! docs/security.md).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, FsWord, fstat, fstatfs, major, minor};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, getpeername};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::tcgetattr;

use crate::control::Order;

/// Closes descriptors from 3 up, and refuses those below that lead out.
///
/// # Errors
/// Names the descriptor that is one.
pub fn refuse_and_close() -> Result<()> {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    named([input.as_fd(), output.as_fd(), error.as_fd()])
        .try_for_each(|(name, fd)| refuse_way_out(name, fd, journal.as_deref()))?;
    close_from_three(None)
}

/// The rule for what systemd has opened for a service, of which this process is one.
///
/// # Errors
/// Names the descriptor that leads out (`StandardInput=file:` and its kin open sockets and directories as well).
pub fn refuse_of_service() -> Result<()> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    named([input.as_fd(), output.as_fd(), error.as_fd()])
        .filter(|(_, fd)| !is_journal(fd))
        .try_for_each(|(name, fd)| refuse_way_out(name, fd, None))
}

/// 0, 1 and 2 as sentences call them.
fn named(streams: [BorrowedFd<'_>; 3]) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
    ["input", "output", "error"].into_iter().zip(streams)
}

/// Whether this is a stream to journald, which reads it and never answers: a service's environment may say anything of it.
#[must_use]
pub fn is_journal(fd: impl AsFd) -> bool {
    let peer = getpeername(fd).ok().flatten().and_then(|peer| SocketAddrUnix::try_from(peer).ok());
    // With LogNamespace= of another directory.
    let path = peer.as_ref().and_then(SocketAddrUnix::path_bytes);
    path.is_some_and(|path| path.starts_with(b"/run/systemd/journal") && path.ends_with(b"/stdout"))
}

/// Closes descriptors from 3 up but this one.
///
/// # Errors
/// They cannot be listed.
pub fn close_all_but(kept: &impl AsRawFd) -> Result<()> {
    close_from_three(Some(kept.as_raw_fd()))
}

fn close_from_three(kept: Option<RawFd>) -> Result<()> {
    for descriptor in open_descriptors()?.into_iter().filter(|descriptor| *descriptor > 2 && Some(*descriptor) != kept)
    {
        // One of them was the listing itself, closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Puts the program's descriptors in the places of 0, 1 and 2.
///
/// # Errors
/// They are not three, or one leads out.
pub fn install(order: &Order, streams: Vec<OwnedFd>) -> Result<()> {
    if streams.len() != order.descriptors {
        bail!("the launcher announced {} descriptors and sent {}", order.descriptors, streams.len());
    }
    let [input, output, error] = match <[OwnedFd; 3]>::try_from(streams) {
        Ok(streams) => streams,
        Err(none) if none.is_empty() => return Ok(()),
        Err(_) => bail!("the launcher sent another number of descriptors than three"),
    };
    let journal = order.journal.as_deref();
    named([input.as_fd(), output.as_fd(), error.as_fd()])
        .try_for_each(|(name, fd)| refuse_way_out(name, fd, journal))?;
    let failed = "cannot take over the caller's descriptors";
    dup2_stdin(input).context(failed)?;
    dup2_stdout(output).context(failed)?;
    dup2_stderr(error).context(failed)
}

/// The rule for one descriptor, in the launcher before it hands it over as well. `journal` is the
/// stream that systemd itself made for the output of the unit, or of the one that the launcher is
/// in (systemd.exec(5), `$JOURNAL_STREAM`): journald reads it, and never answers.
///
/// # Errors
/// It is a socket, a directory, or something else that may lead to what is outside.
pub fn refuse_way_out(name: &str, fd: BorrowedFd<'_>, journal: Option<&str>) -> Result<()> {
    let failed = || format!("cannot look at the standard {name}");
    let stat = fstat(fd).with_context(failed)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::BlockDevice => return Ok(()),
        FileType::Socket if journal == Some(&format!("{}:{}", stat.st_dev, stat.st_ino)) => return Ok(()),
        FileType::RegularFile if !KERNEL_OBJECTS.contains(&fstatfs(fd).with_context(failed)?.f_type) => return Ok(()),
        FileType::CharacterDevice if is_data(stat.st_rdev) || is_terminal(fd) => return Ok(()),
        FileType::Socket => "socket made",
        FileType::Directory => "directory opened",
        // /dev/net/tun, /dev/vhost-net and /dev/ppp lend the network that they were opened in.
        FileType::CharacterDevice => "device opened",
        // Namespaces and processes; what has no file system at all: BPF programs, io_uring, processes before Linux 6.9.
        _ => "kernel object opened",
    };
    bail!("the standard {name} is a {kind} outside the wall, which would stay open to the app; use a pipe or a file")
}

/// File systems of namespaces and of processes (linux/magic.h: NSFS_MAGIC, PID_FS_MAGIC), whose files look regular.
const KERNEL_OBJECTS: [FsWord; 2] = [0x6e73_6673, 0x5049_4446];

/// Devices that are nothing but data (admin-guide/devices.txt, major 1): null, zero, full, random, urandom.
fn is_data(device: u64) -> bool {
    major(device) == 1 && matches!(minor(device), 3 | 5 | 7..=9)
}

fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    // EIO: one that was hung up.
    matches!(tcgetattr(fd), Ok(_) | Err(Errno::IO))
}

fn open_descriptors() -> Result<Vec<RawFd>> {
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").context("cannot list descriptors")? {
        let name = entry.context("cannot list descriptors")?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    fn refused(fd: impl AsFd) -> Option<String> {
        refuse_way_out("input", fd.as_fd(), None).err().map(|error| error.to_string())
    }

    #[test]
    fn files_pipes_and_terminals_are_the_apps() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let hung_up = nix::pty::openpty(None, None).unwrap();
        drop(hung_up.master);
        let pipe = std::io::pipe().unwrap();
        for fd in [terminal.slave, hung_up.slave, pipe.0.into(), tempfile::tempfile().unwrap().into()] {
            assert_eq!(refused(&fd), None);
        }
        for data in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/proc/version"] {
            assert_eq!(refused(File::open(data).unwrap()), None, "{data}");
        }
    }

    #[test]
    fn what_leads_out_is_refused_by_its_kind() {
        for (file, kind) in [
            ("/", "directory opened"),
            ("/proc/self/ns/net", "kernel object opened"),
            ("/proc/self/ns/user", "kernel object opened"),
            ("/dev/net/tun", "device opened"),
            ("/dev/fuse", "device opened"),
        ] {
            // Not every machine has each device.
            let Ok(opened) = File::open(file) else { continue };
            let message = refused(opened).unwrap();
            assert!(
                message.starts_with(&format!("the standard input is a {kind} outside the wall")),
                "{file}: {message}"
            );
        }
        let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert!(refused(process).unwrap().contains("kernel object opened"));
        let (socket, other) = UnixStream::pair().unwrap();
        assert!(refused(&socket).unwrap().contains("socket made"));
        let stat = fstat(&socket).unwrap();
        let journal = format!("{}:{}", stat.st_dev, stat.st_ino);
        refuse_way_out("output", socket.as_fd(), Some(&journal)).unwrap();
        assert!(refuse_way_out("output", other.as_fd(), Some(&journal)).is_err());
    }
}
