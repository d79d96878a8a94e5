//! Names reach upstreams as names; what fails there is said properly, and nothing goes direct.

use std::io::{BufRead, BufReader as StdBufReader};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use appfw::forward::{Limits, Report, Reporter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

use crate::lab::*;

#[tokio::test]
async fn names_stay_names_through_socks5() {
    let (upstream, log) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://{upstream}"), &[]).await;

    let (code, mut stream) = socks(forwarder, "Web.Test.", 80).await;
    assert_eq!(code, 0);
    assert!(echoes(&mut stream, "hello").await);

    socks_raw(forwarder, &[1, 192, 0, 2, 7], 81).await;
    socks(forwarder, "192.0.2.8", 82).await;
    let v6: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    socks_raw(forwarder, &[&[4][..], &v6.octets()].concat(), 83).await;
    let mut tunnel = TcpStream::connect(forwarder).await.unwrap();
    tunnel.write_all(b"CONNECT other.test:443 HTTP/1.1\r\nHost: x\r\n\r\nearly").await.unwrap();
    let mut answer = vec![0; b"HTTP/1.1 200 Connection established\r\n\r\nearly".len()];
    tunnel.read_exact(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"\r\n\r\nearly"));

    let expected = ["name web.test 80", "192.0.2.7 81", "192.0.2.8 82", "[2001:db8::7] 83", "name other.test 443"];
    assert_eq!(seen(&log), expected.map(|target| format!("connect {target}")));
}

#[tokio::test]
async fn socks5_credentials_are_sent_and_wrong_ones_said() {
    let (upstream, log) = socks5(Some(("me", "p@ss")), 0).await;
    let forwarder = start(&format!("socks5://me:p%40ss@{upstream}"), &[]).await;
    assert_eq!(socks(forwarder, "a.test", 1).await.0, 0);
    assert_eq!(seen(&log), ["login me p@ss", "connect name a.test 1"]);

    for login in ["", "me:wrong@"] {
        let forwarder = start(&format!("socks5://{login}{upstream}"), &[]).await;
        assert_eq!(socks(forwarder, "a.test", 1).await.0, 1);
        let answer = say(forwarder, "CONNECT a.test:1 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(answer.contains("user and ") && !answer.contains("wrong"), "{answer}");
    }
}

#[tokio::test]
async fn a_tor_that_takes_no_credentials_is_asked_for_nothing() {
    // As PreferSOCKSNoAuth has it where it is offered: every connection on the same circuits.
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let upstream = server(move |mut stream| {
        let log = Arc::clone(&log);
        async move {
            let mut greeting = [0; 8];
            let count = stream.read(&mut greeting).await.unwrap();
            log.lock().unwrap().push(format!("{:?}", &greeting[..count]));
            stream.write_all(&[5, 0]).await.unwrap();
            let count = stream.read(&mut greeting).await.unwrap();
            log.lock().unwrap().push(format!("{:?}", &greeting[..count]));
        }
    })
    .await;
    let forwarder = start(&format!("tor://{upstream}"), &[]).await;
    let answer = say(forwarder, "CONNECT a.test:80 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("which Tor keeps circuits apart"), "{answer}");
    hears(&kept, "[]").await;
    assert_eq!(seen(&kept), ["[5, 1, 2]", "[]"]);
    // Others choose: credentials in a URL need not be wanted.
    let forwarder = start(&format!("socks5://me:pw@{upstream}"), &[]).await;
    say(forwarder, "CONNECT a.test:80 HTTP/1.1\r\n\r\n").await;
    assert_eq!(seen(&kept)[2], "[5, 2, 0, 2]");
    assert!(seen(&kept)[3].starts_with("[5, 1, 0, 3, 6"), "{:?}", seen(&kept));
}

#[tokio::test]
async fn the_upstreams_own_reply_is_passed_on() {
    // 0xf0 is one of Tor's extended errors; no reply may end the forwarder.
    for (code, told) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 1), (0xf0, 1), (255, 1)] {
        let (upstream, _) = socks5(None, code).await;
        let forwarder = start(&format!("socks5://{upstream}"), &[]).await;
        assert_eq!(socks(forwarder, "a.test", 1).await.0, told);
        let answer = say(forwarder, "CONNECT a.test:1 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with(if code == 6 { "HTTP/1.1 504 " } else { "HTTP/1.1 502 " }), "{answer}");
    }
}

#[tokio::test]
async fn http_upstream() {
    let (upstream, log) = http_proxy(Some("me:p:w"), "banner").await;
    let forwarder = start(&format!("http://me:p%3Aw@{upstream}"), &[]).await;

    let (code, mut stream) = socks(forwarder, "ssh.test", 22).await;
    assert_eq!(code, 0);
    let mut banner = [0; 6];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"banner", "what came with the proxy's answer is not lost");
    assert!(echoes(&mut stream, "hello").await);

    let answer =
        say(forwarder, "GET http://Web.test/x HTTP/1.1\r\nHost: Web.test\r\nConnection: close\r\nProxy-Authorization: Basic YTpi\r\n\r\n")
            .await;
    assert!(answer.ends_with("Connection: close\r\n\r\nproxy"), "{answer}");

    let log = seen(&log);
    let login = "Proxy-Authorization: Basic bWU6cDp3\r\n";
    assert_eq!(log[0], format!("CONNECT ssh.test:22 HTTP/1.1\r\nHost: ssh.test:22\r\n{login}\r\n"));
    assert_eq!(log[1], format!("GET http://web.test/x HTTP/1.1\r\nHost: web.test\r\n{login}Connection: close\r\n\r\n"));
}

#[tokio::test]
async fn wrong_http_password() {
    let (upstream, _) = http_proxy(Some("me:pw"), "").await;
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let forwarder = forwarder(&format!("http://me:other@{upstream}"), &[], Limits::default());
    let forwarder = run(forwarder.with_reporter(Reporter::to(ours).unwrap().into())).await;
    let plain = say(forwarder, "GET http://a.test/ HTTP/1.1\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 502 ") && plain.contains("another user and password"), "{plain}");
    // What the launcher must know was there before the client's answer.
    theirs.set_nonblocking(true).unwrap();
    let reports: Vec<_> = StdBufReader::new(theirs).lines().take(2).map(Result::unwrap).collect();
    assert!(reports[1].contains("upstream-failed") && !reports[1].contains("other@"), "{reports:?}");
    assert_eq!(socks(forwarder, "a.test", 1).await.0, 1);
    for request in ["CONNECT a.test:1 HTTP/1.1\r\n\r\n", "GET http://a.test/ HTTP/1.1\r\n\r\n"] {
        let answer = say(forwarder, request).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("another user and password"), "{answer}");
    }
}

#[tokio::test]
async fn tor_gets_credentials_of_its_own_in_each_process_and_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socks");
    let listener = UnixListener::bind(&path).unwrap();
    let log = Seen::default();
    let kept = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move { socks5_session(stream, None, 0, &log).await });
        }
    });
    for _ in 0..2 {
        let forwarder = start(&format!("tor:{}", path.display()), &[]).await;
        for _ in 0..2 {
            let (code, mut stream) = socks(forwarder, "x.onion", 80).await;
            assert_eq!(code, 0);
            assert!(echoes(&mut stream, "hello").await);
        }
    }
    let logins: Vec<_> = seen(&kept).into_iter().filter(|line| line.starts_with("login appfw-")).collect();
    assert_eq!(logins.len(), 4);
    assert_eq!(logins[0], logins[1]);
    assert_eq!(logins[2], logins[3]);
    assert_ne!(logins[0], logins[2]);
}

#[tokio::test]
async fn a_dead_upstream_fails_and_is_reported_once() {
    let dead = dead();
    let (origin, requests) = origin("HTTP/1.1 200 OK\r\n\r\n").await;
    let there = format!("{UNSPECIFIED}:{}", origin.port());
    for scheme in ["socks5", "http", "tor"] {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let forwarder = forwarder(&format!("{scheme}://{dead}"), &[&there], Limits::default())
            .with_reporter(Reporter::to(ours).unwrap().into());
        let forwarder = run(forwarder).await;
        // A greeting alone, as a probe makes it, is no request.
        let mut probe = TcpStream::connect(forwarder).await.unwrap();
        probe.write_all(&[5, 1, 0]).await.unwrap();
        probe.read_exact(&mut [0; 2]).await.unwrap();
        drop(probe);

        assert_eq!(socks(forwarder, UNSPECIFIED, origin.port()).await.0, 1, "{scheme}");
        for request in [format!("CONNECT {there} HTTP/1.1\r\n\r\n"), format!("GET http://{there}/ HTTP/1.1\r\n\r\n")] {
            let answer = say(forwarder, request).await;
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("cannot be reached"), "{answer}");
        }
        theirs.set_nonblocking(true).unwrap();
        let lines = StdBufReader::new(theirs).lines().map_while(Result::ok);
        let reports: Vec<Report> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
        assert!(matches!(&reports[..], [Report::Request, Report::UpstreamFailed { .. }]), "{reports:?}");
    }
    assert!(seen(&requests).is_empty(), "something went direct: {:?}", seen(&requests));
}

#[tokio::test]
async fn an_upstream_that_hangs_or_talks_nonsense_is_bounded() {
    let silent = server(|stream| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let nonsense = server(|mut stream| async move {
        let _ = stream.write_all(&[b'x'; 100_000]).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let closing = server(|_| async {}).await;
    let short = Duration::from_millis(200);
    let limits = Limits { connect: short, answer: short, ..Limits::default() };
    for (upstream, is_silent) in [(silent, true), (nonsense, false), (closing, false)] {
        for scheme in ["socks5", "http"] {
            let forwarder = run(forwarder(&format!("{scheme}://{upstream}"), &[], limits)).await;
            let code = socks(forwarder, "a.test", 1).await.0;
            assert_eq!(code, if is_silent { 6 } else { 1 }, "{scheme}");
            let answer = say(forwarder, "CONNECT a.test:1 HTTP/1.1\r\n\r\n").await;
            assert!(answer.starts_with(if is_silent { "HTTP/1.1 504 " } else { "HTTP/1.1 502 " }), "{scheme} {answer}");
        }
    }
}

#[tokio::test]
async fn an_upstream_by_name_is_resolved_here() {
    let (upstream, log) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://localhost:{}", upstream.port()), &[]).await;
    assert_eq!(socks(forwarder, "a.test", 1).await.0, 0);
    assert_eq!(seen(&log), ["connect name a.test 1"]);
}
