//! `--only` and `--block`: what they refuse reaches nobody, by no protocol and no way out.

use std::io::{BufRead, BufReader as StdBufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;

use appfw::forward::{Limits, Refused, Report, Reporter, Rule};

use crate::lab::*;

const RULES: &str = "--only a.test --only *.b.test:443 --only 192.0.2.0/24 --block evil.b.test --block 192.0.2.66";

/// Asks for `host` at `port` by every protocol. Returns whether it was refused by all; what is let
/// through must be so by all.
async fn is_refused(forwarder: SocketAddr, host: &str, port: u16, says: &str) -> bool {
    let (code, _) = socks(forwarder, host, port).await;
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    for request in [
        format!("CONNECT {bracketed}:{port} HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        format!("GET http://{bracketed}:{port}/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ] {
        let answer = heard(forwarder, &request).await;
        let refused = answer.starts_with("HTTP/1.1 403 Forbidden\r\n");
        assert_eq!(refused, code == 2, "{request} {answer}");
        assert!(!refused || answer.contains(says), "{request} {answer}");
    }
    code == 2
}

/// The beginning of the answer.
async fn heard(forwarder: SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("no answer").unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn what_the_rules_do_not_let_through_reaches_no_upstream() {
    let (upstream, log) = socks5(None, 0).await;
    let (proxy, heads) = http_proxy(None, "").await;
    for via in [format!("socks5://{upstream}"), format!("tor://{upstream}"), format!("http://{proxy}")] {
        let forwarder = start_ruled(&via, &["10.0.0.0/8"], RULES).await;
        for (host, port) in [
            ("c.test", 80),
            ("x.a.test", 80),
            ("a.test.c.test", 80),
            ("aa.test", 80),
            ("b.test", 443),
            ("x.b.test", 80),
            ("198.51.100.1", 80),
            ("3325256705", 80),
            ("2001:db8::1", 80),
            // What --allow-destination opens is not what --only names.
            ("10.0.0.1", 80),
        ] {
            assert!(is_refused(forwarder, host, port, "--only ").await, "{via} {host}:{port}");
        }
        for (host, port) in [("evil.b.test", 443), ("EVIL.B.test.", 443), ("192.0.2.66", 80), ("::ffff:192.0.2.66", 80)]
        {
            assert!(is_refused(forwarder, host, port, "is kept out by --block ").await, "{via} {host}:{port}");
        }
    }
    assert!(seen(&log).is_empty() && seen(&heads).is_empty(), "{:?} {:?}", seen(&log), seen(&heads));
}

#[tokio::test]
async fn what_the_rules_let_through_goes() {
    let (upstream, log) = socks5(None, 0).await;
    let forwarder = start_ruled(&format!("socks5://{upstream}"), &[], RULES).await;
    for (host, port, asked) in [
        ("a.test", 80, "name a.test 80"),
        ("A.Test.", 22, "name a.test 22"),
        ("x.y.b.test", 443, "name x.y.b.test 443"),
        ("192.0.2.7", 80, "192.0.2.7 80"),
        ("0xc0000207", 80, "192.0.2.7 80"),
    ] {
        let (code, mut stream) = socks(forwarder, host, port).await;
        assert_eq!(code, 0, "{host}:{port}");
        assert!(echoes(&mut stream, "hello").await);
        assert_eq!(seen(&log).last().unwrap(), &format!("connect {asked}"));
    }
}

#[tokio::test]
async fn only_never_opens_inside() {
    let (upstream, log) = socks5(None, 0).await;
    for via in ["direct".to_owned(), format!("socks5://{upstream}")] {
        let forwarder = start_ruled(&via, &[], "--only any --only localhost --only 10.0.0.0/8 --only ::1").await;
        for inside in ["localhost", "127.0.0.1", "0x7f.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1"] {
            assert!(is_refused(forwarder, inside, 80, "is inside").await, "{via} {inside}");
        }
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn the_address_dialled_is_one_that_the_rules_allow() {
    let echo = echo().await;
    let port = echo.port();
    for (rules, refused) in [
        // By name, wherever it leads but where --block has it.
        ("--only localhost".to_owned(), None),
        (format!("--only localhost:{port}"), None),
        ("--block 127.0.0.0/8 --block ::1".to_owned(), Some("keeps out")),
        ("--only localhost --block 127.0.0.0/8 --block ::1".to_owned(), Some("keeps out")),
        (format!("--block 127.0.0.1:{port} --block [::1]:{port}"), Some("keeps out")),
        (format!("--block 127.0.0.1:{}", port - 1), None),
        // By address, where the name leads there.
        ("--only 127.0.0.1".to_owned(), None),
        ("--only 127.0.0.0/8".to_owned(), None),
        ("--only 192.0.2.0/24".to_owned(), Some("is not what --only names")),
        (format!("--only 127.0.0.1:{}", port - 1), Some("is not what --only names")),
        ("--only a.test".to_owned(), Some("is not what --only names")),
    ] {
        let forwarder = start_ruled("direct", &["localhost"], &rules).await;
        assert_eq!(is_refused(forwarder, "localhost", port, refused.unwrap_or("")).await, refused.is_some(), "{rules}");
    }
}

#[tokio::test]
async fn the_launcher_is_told_before_the_app() {
    let (upstream, _) = socks5(None, 0).await;
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let forwarder = forwarder(&format!("socks5://{upstream}"), &["10.0.0.0/8"], Limits::default())
        .with_rules(rules("--only a.test --only 10.0.0.0/8 --block x.a.test"))
        .with_reporter(Reporter::to(ours).unwrap().into());
    let forwarder = run(forwarder).await;
    theirs.set_nonblocking(true).unwrap();
    let mut lines = StdBufReader::new(theirs).lines().map_while(Result::ok);
    let mut told = || lines.next().map(|line| serde_json::from_str::<Report>(&line).unwrap());
    let refused = |destination: &str, by| Some(Report::Refused(Refused { destination: destination.into(), by }));

    assert_eq!(socks(forwarder, "C.test.", 80).await.0, 2);
    assert_eq!((told(), told(), told()), (Some(Report::Request), refused("c.test:80", Rule::Only), None));
    for _ in 0..2 {
        assert!(say(forwarder, "GET http://x.a.test/ HTTP/1.1\r\n\r\n").await.contains(" 403 "));
    }
    // Said to the app as it goes on, but not the rules' doing.
    assert_eq!(socks(forwarder, "127.0.0.1", 80).await.0, 2);
    assert_eq!(socks(forwarder, "a.test", 80).await.0, 0);
    assert_eq!((told(), told()), (refused("x.a.test:80", Rule::Block), None));
}
