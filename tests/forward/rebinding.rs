//! Names that lead where nobody may go: `appfw forward --via direct` where /etc/hosts, in a mount
//! namespace of its own, says where they lead. Needs root.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use crate::lab::*;

/// A forwarder by hand; it ends with this.
struct Forward {
    child: Child,
    address: SocketAddr,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it with these arguments and hosts; `None` without root.
async fn forward(hosts: &str, args: &[String]) -> Option<Forward> {
    let may_unshare = rustix::process::geteuid().is_root()
        && Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    if !may_unshare {
        assert!(std::env::var_os("APPFW_MUST_WORK").is_none(), "APPFW_MUST_WORK is set, but this may not unshare");
        eprintln!("skipped: needs root, who may make a mount namespace");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("hosts");
    std::fs::write(&file, hosts).unwrap();
    let address = free().await;
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(&file)
        .args([env!("CARGO_BIN_EXE_appfw"), "forward", "--via=direct", &format!("--listen={address}")])
        .args(args)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let forward = Forward { child, address };
    let listens = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listens).await.expect("it does not listen");
    Some(forward)
}

/// Asks for `host`, by SOCKS and by HTTP; returns the codes.
async fn codes(forward: &Forward, host: &str, port: u16) -> (u8, String) {
    let (code, _) = socks(forward.address, host, port).await;
    let answer = say(forward.address, format!("GET http://{host}:{port}/ HTTP/1.1\r\n\r\n")).await;
    (code, answer.get(9..12).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_name_leads_nowhere_that_is_inside_or_blocked() {
    let (origin, requests) = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let port = origin.port();
    let hosts = "127.0.0.1 rebind.test rebind6.test open.test blocked.test\n::ffff:127.0.0.1 mapped.test\n\
                 ::1 rebind6.test\n10.0.0.1 private.test\n169.254.169.254 metadata.test\n0.0.0.0 zero.test\n";
    let args = [
        "--only=*.test".to_owned(),
        "--block=127.0.0.1:1-1023".to_owned(),
        format!("--block=blocked.test:{port}"),
        "--allow-destination=open.test".to_owned(),
        "--allow-destination=blocked.test".to_owned(),
    ];
    let Some(forward) = forward(hosts, &args).await else { return };
    for name in ["rebind.test", "rebind6.test", "mapped.test", "private.test", "metadata.test", "zero.test"] {
        assert_eq!(codes(&forward, name, port).await, (2, "403".into()), "{name}");
    }
    assert_eq!(codes(&forward, "blocked.test", port).await, (2, "403".into()));
    assert_eq!(codes(&forward, "open.test", 80).await, (2, "403".into()));
    assert!(seen(&requests).is_empty(), "{:?}", seen(&requests));
    // That it reaches the server at all shows that the others could have.
    assert_eq!(codes(&forward, "open.test", port).await, (0, "200".into()));
    assert!(seen(&requests).iter().any(|request| request.contains(&format!("Host: open.test:{port}\r\n"))));
}

#[tokio::test]
async fn a_name_leads_to_what_only_names_by_address() {
    let (origin, requests) = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let port = origin.port();
    let hosts = "127.0.0.1 here.test\n127.0.0.2 there.test\n";
    let args = ["--only=127.0.0.1", "--allow-destination=127.0.0.0/8"].map(str::to_owned);
    let Some(forward) = forward(hosts, &args).await else { return };
    assert_eq!(codes(&forward, "there.test", port).await, (2, "403".into()));
    assert!(seen(&requests).is_empty(), "{:?}", seen(&requests));
    assert_eq!(codes(&forward, "here.test", port).await, (0, "200".into()));
}
