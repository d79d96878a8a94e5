//! Datagrams.

use super::*;
use crate::udp::upstream::{GOOD, Manner, udp_upstream};

/// What echoes answers as whom it was asked to be.
const ECHO: Manner = Manner { from: None, ..GOOD };

/// A program's socket that takes datagrams from `to` alone.
async fn connected(app: &Namespace, to: &str) -> UdpSocket {
    let socket = app.udp(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
    socket.connect(to).await.unwrap();
    socket
}

async fn echoes(socket: &UdpSocket, word: &[u8]) {
    socket.send(word).await.unwrap();
    assert_eq!(receive(socket).await, word);
}

async fn is_silent(socket: &UdpSocket) -> bool {
    timeout(Duration::from_millis(300), socket.recv(&mut [0; 16])).await.is_err()
}

#[tokio::test]
async fn a_datagram_goes_where_it_was_sent_and_is_answered_from_there() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for to in ["203.0.113.10:443", "[2001:db8::10]:443", "8.8.8.8:1081"] {
        let socket = connected(&app, to).await;
        echoes(&socket, b"hello").await;
        echoes(&socket, b"again").await;
    }
    let seen = seen(&log);
    let asked = |line: &&String| line.starts_with("associate");
    assert_eq!(seen.iter().filter(asked).count(), 3, "{seen:?}");
    assert!(seen.contains(&"[203, 0, 113, 10] 443 hello".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn an_address_that_stands_for_a_name_is_sent_to_by_name_and_answers_as_itself() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for (server, kind) in [("9.9.9.9:53", RecordType::A), ("[2001:db8::53]:53", RecordType::AAAA)] {
        let address = resolve(&app, server, "quic.test.", kind).await;
        echoes(&connected(&app, &std::net::SocketAddr::new(address, 443).to_string()).await, b"hello").await;
    }
    assert_eq!(seen(&log), ["associate 0.0.0.0 0", "quic.test 443 hello"].repeat(2));
}

#[tokio::test]
async fn datagrams_go_out_directly_too() {
    let (echo, _) = crate::udp::udp_echo().await;
    let Some(app) = start(BUT_DNS, forwarder("direct", &["localhost"], Limits::default())) else { return };
    let localhost = resolve(&app, "1.1.1.1:53", "localhost.", RecordType::A).await;
    let socket = connected(&app, &format!("{localhost}:{}", echo.port())).await;
    for size in [0, 1, 2, 1_471, 60_000, 65_507] {
        echoes(&socket, &vec![0xff; size]).await;
    }
}

#[tokio::test]
async fn one_socket_talks_to_many_and_each_answers_as_itself() {
    let (upstream, _) = udp_upstream(ECHO).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    let socket = app.udp("0.0.0.0:0");
    for round in 0..3 {
        for host in 1..=20 {
            let (to, word) = (format!("203.0.113.{host}:{}", 1000 + host), format!("{round} {host}"));
            socket.send_to(word.as_bytes(), &to).await.unwrap();
            let mut buffer = [0; 16];
            let answered = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("no answer");
            let (length, from) = answered.unwrap();
            assert_eq!((from.to_string(), &buffer[..length]), (to, word.as_bytes()));
        }
    }
}

#[tokio::test]
async fn what_is_refused_goes_nowhere() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let ruled = forwarder(&format!("socks5://{upstream}"), &[], Limits::default());
    let Some(app) = start(BUT_DNS, ruled.with_rules(rules("--block 203.0.113.11"))) else { return };
    for to in
        ["10.0.0.1:443", "169.254.1.1:443", "203.0.113.11:443", "198.18.7.7:443", "[fe80::1]:443", "[fd00::1]:443"]
    {
        let socket = app.udp(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
        // A link-local address without its interface cannot even be sent to.
        if socket.send_to(b"no", to).await.is_ok() {
            assert!(is_silent(&socket).await, "{to}");
        }
    }
    for to in ["127.100.90.50:1081", "[::1]:1081"] {
        let socket = connected(&app, to).await;
        socket.send(b"no").await.unwrap();
        assert!(is_silent(&socket).await, "{to}");
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
    // From a socket that is served, too.
    let socket = app.udp("0.0.0.0:0");
    for to in ["203.0.113.10:443", "203.0.113.11:443", "10.0.0.1:443", "203.0.113.12:443"] {
        socket.send_to(b"hello", to).await.unwrap();
        if to.starts_with("203.0.113.1") && !to.starts_with("203.0.113.11") {
            assert_eq!(receive(&socket).await, b"hello");
        }
    }
    let expected = ["associate 0.0.0.0 0", "[203, 0, 113, 10] 443 hello", "[203, 0, 113, 12] 443 hello"];
    assert_eq!(seen(&log), expected);
}

#[tokio::test]
async fn a_program_that_takes_an_address_of_the_worlds_is_not_served() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for at in ["192.0.2.99:0", "[2001:db8::99]:0"] {
        let socket = app.udp(at);
        let to = if at.starts_with('[') { "[2001:db8::10]:443" } else { "203.0.113.10:443" };
        socket.send_to(b"round and round", to).await.unwrap();
        assert!(is_silent(&socket).await);
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn dns_that_is_captured_is_answered_as_by_whom_it_asked() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let Some(app) = start(ALL, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for (server, kind) in [("8.8.8.8:53", RecordType::A), ("[2001:db8::53]:53", RecordType::AAAA)] {
        resolve(&app, server, "a.test.", kind).await;
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn there_are_no_more_senders_than_associations() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let limits = Limits { associations: 2, udp_idle: Duration::from_secs(1), ..Limits::default() };
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], limits)) else { return };
    let [first, second, third] = [
        connected(&app, "203.0.113.10:1").await,
        connected(&app, "203.0.113.10:2").await,
        connected(&app, "203.0.113.10:3").await,
    ];
    echoes(&first, b"one").await;
    echoes(&second, b"two").await;
    third.send(b"three").await.unwrap();
    assert!(is_silent(&third).await);
    // Once others have been silent for long, there is room.
    hears(&log, "ended").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    echoes(&third, b"four").await;
    assert!(!seen(&log).iter().any(|line| line.ends_with("three")), "{:?}", seen(&log));
}

#[tokio::test]
async fn a_sender_whose_way_out_has_ended_gets_another() {
    let (upstream, log) = udp_upstream(ECHO).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    let socket = connected(&app, "203.0.113.10:443").await;
    echoes(&socket, b"hello").await;
    socket.send(b"end").await.unwrap();
    let answered = async {
        while timeout(Duration::from_millis(100), socket.recv(&mut [0; 16])).await.is_err() {
            socket.send(b"still there?").await.unwrap();
        }
    };
    timeout(PATIENCE, answered).await.expect("no answer any more");
    assert!(seen(&log).iter().filter(|line| line.starts_with("associate")).count() >= 2, "{:?}", seen(&log));
}

#[tokio::test]
async fn an_upstream_without_datagrams_is_not_asked_with_each_of_them() {
    let (upstream, log) = udp_upstream(Manner { code: 7, ..ECHO }).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    let socket = connected(&app, "203.0.113.10:443").await;
    for _ in 0..10 {
        socket.send(b"hello").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen(&log).iter().filter(|line| line.starts_with("associate")).count(), 1, "{:?}", seen(&log));
}
