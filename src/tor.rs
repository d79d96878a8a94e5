//! Finding the local Tor.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::destination::Host;
use crate::via::Endpoint;

/// Tor answers at once, it is on this host; a port that does not is something else.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// Tor's whole answer is about 1,200 bytes long, its first line tells.
const PROBE_BYTES: u64 = 4096;

/// Where packages have it listen.
#[must_use]
pub fn usual() -> Endpoint {
    local(9050)
}

fn local(port: u16) -> Endpoint {
    Endpoint::Tcp { host: Host::Ip([127, 0, 0, 1].into()), port }
}

/// Finds Tor's SOCKS port where Tor, the Tor Browser and Debian's package put it.
pub fn find_tor(root: &Path) -> Result<Endpoint> {
    find_tor_at(&[usual(), local(9150), Endpoint::Unix(root.join("run/tor/socks"))])
}

/// The first of `candidates` that answers as Tor's SOCKS port does.
pub fn find_tor_at(candidates: &[Endpoint]) -> Result<Endpoint> {
    let mut seen = Vec::new();
    for candidate in candidates {
        match probe(candidate) {
            Ok(true) => return Ok(candidate.clone()),
            Ok(false) => seen.push(format!("{candidate} answers but is not Tor")),
            Err(error) => seen.push(format!("{candidate}: {}", reason(&error))),
        }
    }
    bail!(
        "no Tor was found: install and start it (apt install tor), or say where it is with --via tor://HOST:PORT ({})",
        seen.join("; ")
    )
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
        io::ErrorKind::NotFound => "does not exist".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "does not answer".into(),
        _ => error.to_string(),
    }
}

/// Whether Tor is at `endpoint`: it tells browsers that its SOCKS port is no HTTP proxy.
fn probe(endpoint: &Endpoint) -> io::Result<bool> {
    match endpoint {
        Endpoint::Tcp { host: Host::Ip(address), port } => {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(*address, *port), PROBE_TIME)?;
            stream.set_write_timeout(Some(PROBE_TIME))?;
            ask(&stream, |left| stream.set_read_timeout(Some(left)))
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(PROBE_TIME))?;
            ask(&stream, |left| stream.set_read_timeout(Some(left)))
        }
        _ => Err(io::Error::other("has no address to look at")),
    }
}

fn ask<S>(stream: S, set_time: impl Fn(Duration) -> io::Result<()>) -> io::Result<bool>
where
    S: Read + Write + Copy,
{
    const TELLTALE: &[u8] = b"Tor is not an HTTP Proxy";

    let deadline = Instant::now() + PROBE_TIME;
    let (mut reader, mut writer) = (stream.take(PROBE_BYTES), stream);
    writer.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    loop {
        // One deadline for the whole answer, or a byte a second would hold the launch for an hour.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_time(left)?;
        let mut piece = [0; 512];
        let count = reader.read(&mut piece)?;
        answer.extend_from_slice(&piece[..count]);
        if answer.windows(TELLTALE.len()).any(|window| window == TELLTALE) {
            return Ok(true);
        }
        if count == 0 {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that reads the request, gives `answer`, and stays silent if there is none.
    fn server(answer: Option<&'static str>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request);
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => thread::sleep(Duration::from_secs(3)),
            }
        });
        Endpoint::Tcp { host: Host::Ip([127, 0, 0, 1].into()), port }
    }

    #[test]
    fn tor_is_told_from_what_is_not() {
        let dead = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            Endpoint::Tcp { host: Host::Ip([127, 0, 0, 1].into()), port }
        };
        let other = server(Some("HTTP/1.0 200 OK\r\n\r\nhello"));
        let silent = server(None);
        let absent = Endpoint::Unix("/nowhere/run/tor/socks".into());
        let tor = server(Some("HTTP/1.0 501 Tor is not an HTTP Proxy\r\nContent-Type: text/html\r\n\r\n"));

        let candidates = [dead.clone(), other.clone(), silent.clone(), absent, tor.clone()];
        assert_eq!(find_tor_at(&candidates).unwrap(), tor);

        let other = server(Some("HTTP/1.0 200 OK\r\n\r\nhello"));
        let error = find_tor_at(&[dead.clone(), other.clone(), candidates[3].clone()]).unwrap_err().to_string();
        for part in [
            "apt install tor".to_owned(),
            "--via tor://HOST:PORT".to_owned(),
            format!("{dead}: nothing listens there"),
            format!("{other} answers but is not Tor"),
            "/nowhere/run/tor/socks: does not exist".to_owned(),
        ] {
            assert!(error.contains(&part), "{error}");
        }
    }

    #[test]
    fn the_unix_socket_hangs_off_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/tor")).unwrap();
        let path = root.path().join("run/tor/socks");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\n\r\n").unwrap();
        });
        assert_eq!(find_tor_at(&[Endpoint::Unix(path.clone())]).unwrap(), Endpoint::Unix(path));
    }
}
