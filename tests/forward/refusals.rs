//! Inside is refused in every spelling, by every protocol and every way out.

use crate::lab::*;

pub const INSIDE: [&str; 34] = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "x.localhost",
    "localhost.localdomain",
    "ip6-localhost",
    "::1",
    "[::1]",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1",
    "2002:7f00:1::",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "fe80::1",
    "fd00::1",
    "224.0.0.1",
    "255.255.255.255",
];

#[tokio::test]
async fn inside_is_refused() {
    let (upstream, log) = socks5(None, 0).await;
    let (proxy, heads) = http_proxy(None, "").await;
    for via in
        ["direct".to_owned(), format!("socks5://{upstream}"), format!("http://{proxy}"), format!("tor://{upstream}")]
    {
        let forwarder = start(&via, &["127.0.0.1:9"]).await;
        for inside in INSIDE {
            assert_eq!(socks(forwarder, inside, 80).await.0, 2, "{via} {inside}");
            let host =
                if inside.contains(':') { format!("[{}]", inside.trim_matches(['[', ']'])) } else { inside.into() };
            for request in [
                format!("CONNECT {host}:80 HTTP/1.1\r\nHost: example.org\r\n\r\n"),
                format!("GET http://{host}/ HTTP/1.1\r\nHost: example.org\r\n\r\n"),
                format!("GET http://example.org@{host}:80/ HTTP/1.1\r\n\r\n"),
            ] {
                let answer = say(forwarder, &request).await;
                assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{via} {request} {answer}");
                assert!(answer.contains("is inside") && answer.contains("--allow-destination "), "{answer}");
            }
        }
        for raw in [&[1, 127, 0, 0, 1][..], &[1, 0, 0, 0, 0], &[1, 10, 1, 1, 1], &[&[4][..], &[0; 16]].concat()] {
            assert_eq!(socks_raw(forwarder, raw, 80).await.0, 2);
        }
        let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if own.connect("192.0.2.1:9").is_ok() {
            let own = own.local_addr().unwrap().ip();
            assert_eq!(socks(forwarder, &own.to_string(), 80).await.0, 2, "own address {own}");
        }
        let name = rustix::system::uname();
        let name = name.nodename().to_str().unwrap();
        assert_eq!(socks(forwarder, name, 80).await.0, 2, "own name {name}");
    }
    assert!(seen(&log).is_empty() && seen(&heads).is_empty(), "{:?} {:?}", seen(&log), seen(&heads));
}

#[tokio::test]
async fn allow_destination_opens_one_thing() {
    let (echo, other) = (echo().await, echo().await);
    let forwarder = start("direct", &[&echo.to_string()]).await;
    for spelling in ["127.0.0.1", "2130706433", "127.1", "::ffff:127.0.0.1"] {
        let (code, mut stream) = socks(forwarder, spelling, echo.port()).await;
        assert_eq!(code, 0, "{spelling}");
        assert!(echoes(&mut stream, "hello").await);
    }
    assert_eq!(socks(forwarder, "127.0.0.1", other.port()).await.0, 2);
    assert_eq!(socks(forwarder, "localhost", echo.port()).await.0, 2);

    let forwarder = start("direct", &["localhost"]).await;
    assert_eq!(socks(forwarder, "localhost", other.port()).await.0, 0);
}

#[tokio::test]
async fn direct_says_what_failed() {
    let dead = dead();
    let forwarder = start("direct", &["localhost"]).await;
    assert_eq!(socks(forwarder, "127.0.0.1", dead.port()).await.0, 5);
    let answer = say(forwarder, format!("CONNECT {dead} HTTP/1.1\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("refused"), "{answer}");
}

#[tokio::test]
async fn an_onion_service_is_not_looked_for_without_tor() {
    let forwarder = start("direct", &["any"]).await;
    for onion in ["abcdefghij.onion", "www.Abcdefghij.Onion."] {
        assert_eq!(socks(forwarder, onion, 80).await.0, 4, "{onion}");
        let answer = say(forwarder, format!("CONNECT {onion}:80 HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("only Tor finds: use --via tor"), "{answer}");
    }
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let (upstream, log) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://{upstream}"), &[]).await;
    for name in
        ["", ".", "a..b", "a b", "a\r\nb", "a\0b", "127.0.0.08", "1.2.3.4.5", "\u{202e}a", &("a.".repeat(127) + "a")]
    {
        assert_eq!(socks(forwarder, name, 80).await.0, 1, "{name:?}");
    }
    assert_eq!(socks(forwarder, "a.test", 0).await.0, 1);
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}
