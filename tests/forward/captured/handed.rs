//! `appfw forward` with sockets that were handed over, and without any privilege.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::udp::upstream::{GOOD, Manner, udp_upstream};

/// A shell takes some numbers for itself.
const HAND_OVER: &str = "import os, sys
sockets = sys.argv[1].split(',')
for at, socket in enumerate(sockets, 3):
    os.dup2(int(socket), at)
    os.close(int(socket))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)))
os.execvp(sys.argv[2], sys.argv[2:])";

/// It ends with this.
struct Handed(Child);

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another descriptor of a socket: out of the way of where it is to be, and not closed by exec.
fn inherited(socket: &OwnedFd) -> OwnedFd {
    let high = rustix::io::fcntl_dupfd_cloexec(socket, 100).unwrap();
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
    high
}

/// Starts it with `sockets` at 3 and so on, as systemd does.
fn start_with(sockets: Vec<OwnedFd>, words: &[&str]) -> Child {
    let high: Vec<OwnedFd> = sockets.iter().map(inherited).collect();
    let numbers: Vec<String> = high.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
    Command::new("/usr/bin/python3")
        .args(["-c", HAND_OVER, &numbers.join(",")])
        .args(["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
        .args([env!("CARGO_BIN_EXE_appfw"), "forward"])
        .args(words)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// All that there is in a namespace with capture.
fn sockets(app: &Namespace) -> Vec<OwnedFd> {
    let mut sockets: Vec<OwnedFd> = vec![app.proxy().into()];
    for is_v6 in [false, true] {
        let (socket, raw) = app.datagrams(is_v6);
        sockets.extend([app.listener(is_v6).into(), app.dns(is_v6).into(), socket.into(), raw]);
    }
    sockets
}

#[tokio::test]
async fn every_socket_is_put_to_its_use() {
    let Some(app) = Namespace::capturing(BUT_DNS) else { return };
    let (upstream, log) = udp_upstream(Manner { from: None, ..GOOD }).await;
    let _forward = Handed(start_with(sockets(&app), &[&format!("--via=socks5://{upstream}"), "--dns=synthetic"]));
    for (server, kind) in [("8.8.8.8:53", RecordType::A), ("[2001:db8::53]:53", RecordType::AAAA)] {
        resolve(&app, server, "a.test.", kind).await;
    }
    for to in ["203.0.113.10:443", "[2001:db8::10]:443"] {
        let socket = app.udp(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
        socket.connect(to).await.unwrap();
        socket.send(b"hello").await.unwrap();
        assert_eq!(receive(&socket).await, b"hello");
        let _stream = app.connect(to).await.unwrap();
        // The upstream takes every request for the same one.
        hears(&log, &format!("associate {}", to.replace(":443", " 443"))).await;
    }
    // Who knows the proxy uses it.
    let mut stream = app.connect("127.100.90.50:1080").await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut chosen = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut chosen)).await.expect("no answer").unwrap();
    assert_eq!(chosen, [5, 0]);
    hears(&log, "[203, 0, 113, 10] 443 hello").await;
}

#[tokio::test]
async fn a_socket_that_nothing_is_for_is_a_mistake() {
    let Some(app) = Namespace::capturing(BUT_DNS) else { return };
    let (v4, raw) = app.datagrams(false);
    let said = |sockets: Vec<OwnedFd>, via: &str| {
        let output = start_with(sockets, &[via, "--dns=off"]).wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let proxy = || OwnedFd::from(app.proxy());
    let copy = || OwnedFd::from(v4.try_clone().unwrap());
    let (code, message) = said(vec![proxy(), copy()], "--via=direct");
    assert_eq!(code, Some(125));
    assert!(message.contains("no raw socket was handed over for answers to UDP at 0.0.0.0:1081"), "{message}");
    // The way out carries none.
    let (code, message) = said(vec![proxy(), copy(), raw], "--via=http://192.0.2.1:8080");
    assert_eq!(code, Some(125));
    assert!(message.contains("a UDP socket at 0.0.0.0:1081 was handed over, which nothing here is for"), "{message}");
}
