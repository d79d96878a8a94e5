//! Input that is wrong, random, slow or too much: answered or closed, and the next client is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use appfw::forward::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::*;

/// A forwarder that gives a client half a second, and a good client to try it with.
async fn impatient(connections: usize) -> (SocketAddr, SocketAddr) {
    let limits = Limits { handshake: Duration::from_millis(500), connections, ..Limits::default() };
    (run(forwarder("direct", &["localhost"], limits)).await, echo().await)
}

async fn serves(forwarder: SocketAddr, echo: SocketAddr) {
    let (code, mut stream) = socks(forwarder, "127.0.0.1", echo.port()).await;
    assert_eq!(code, 0);
    assert!(echoes(&mut stream, "still alive").await);
}

/// Whether the forwarder closes within a few handshake times whatever has been said.
async fn closes(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    let _reset_or_end = end.expect("the forwarder keeps a bad connection open");
    rest
}

/// They hold all places, and come back as often as they are sent away.
#[tokio::test]
async fn who_makes_no_request_keeps_nobody_out() {
    let echo = echo().await;
    let limits = Limits { connections: 20, ..Limits::default() };
    let forwarder = run(forwarder("direct", &["localhost"], limits)).await;
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        let _ = stream.write_all(if number % 2 == 0 { b"G" } else { b"\x05" }).await;
        held.push(stream);
    }
    let mut kept = Vec::new();
    for _ in 0..20 {
        let (code, stream) = socks(forwarder, "127.0.0.1", echo.port()).await;
        assert_eq!(code, 0);
        kept.push(stream);
    }
    for stream in &mut kept {
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
    }
    // Now it is full of those who have asked.
    let (code, _) = socks(forwarder, "127.0.0.1", echo.port()).await;
    assert_eq!(code, 1);
}

/// Neither by its number, nor by being refused.
#[tokio::test]
async fn who_is_refused_keeps_nobody_out_either() {
    let echo = echo().await;
    let limits = Limits { connections: 20, ..Limits::default() };
    let forwarder = run(forwarder("direct", &["localhost"], limits)).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(forwarder).await.unwrap();
            stream.write_all(b"CONNECT 10.0.0.1:1 HTTP/1.1\r\n\r\n").await.unwrap();
            held.push(stream);
        }
        let mut good = TcpStream::connect(forwarder).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        good.write_all(format!("CONNECT {echo} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        good.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

/// Those who find no place are few, and told at once.
#[tokio::test]
async fn a_full_house_is_besieged_in_vain() {
    let echo = echo().await;
    let limits = Limits { connections: 4, ..Limits::default() };
    let forwarder = run(forwarder("direct", &["localhost"], limits)).await;
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(socks(forwarder, "127.0.0.1", echo.port()).await.1);
    }
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(forwarder).await.unwrap());
    }
    let started = Instant::now();
    assert_eq!(socks(forwarder, "127.0.0.1", echo.port()).await.0, 1);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(echoes(&mut tunnels[0], "undisturbed").await);
}

#[tokio::test]
async fn wrong_protocols_are_answered_in_kind() {
    let (forwarder, echo) = impatient(100).await;
    for (said, told) in [
        // BIND, a name that is none, a user without an end.
        (&b"\x04\x02\x00\x50\x7f\x00\x00\x01\x00"[..], &[0, 0x5b, 0, 0, 0, 0, 0, 0][..]),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a b\x00", &[0, 0x5b, 0, 0, 0, 0, 0, 0]),
        (&[&b"\x04\x01\x00\x50\x01\x01\x01\x01"[..], &[b'x'; 1000]].concat(), &[0, 0x5b, 0, 0, 0, 0, 0, 0]),
        (b"\x04\x01\x00\x50\x01\x01\x01\x01me", b""),
        (b"\x16\x03\x01\x02\x00\x01", b""),
        (b"\x00\x00", b""),
        (b"\xff", b""),
        (b"\n", b""),
        // A method that we do not know, then those that we do not serve.
        (b"\x05\x01\x01", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x01\x01\x01\x01\x00\x50", b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"),
        (b"\x05\x01\x00\x05\x03\x00\x01\x01\x01\x01\x01\x00\x50", b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"),
        (b"\x05\x01\x00\x05\xf2\x00\x01\x01\x01\x01\x01\x00\x50", b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"),
        (b"\x05\x01\x00\x05\x01\x00\x03\x01\xff\x00\x50", b"\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"),
        (b"\x05\x01\x00\x04\x01\x00\x01\x01\x01\x01\x01\x00\x50", b"\x05\x00"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"),
    ] {
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        stream.write_all(said).await.unwrap();
        assert_eq!(closes(stream).await, told, "{said:x?}");
    }
    serves(forwarder, echo).await;
}

#[tokio::test]
async fn passwords_are_preferred_and_all_are_good() {
    let (forwarder, echo) = impatient(100).await;
    for login in [&b"\x01\x04user\x04pass"[..], b"\x01\x01u\x00", b"\x01\x00\x00", b"\x01\x02\xff\xfe\x01\x80"] {
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        stream.write_all(b"\x05\x02\x00\x02").await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(two, [5, 2]);
        stream.write_all(login).await.unwrap();
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(two, [1, 0]);
        let request = [b"\x05\x01\x00\x01\x7f\x00\x00\x01", &echo.port().to_be_bytes()[..]].concat();
        stream.write_all(&request).await.unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[1], 0);
        assert!(echoes(&mut stream, "hello").await);
    }
}

#[tokio::test]
async fn idle_slow_and_oversized_clients_are_bounded() {
    let (forwarder, echo) = impatient(1000).await;
    let silent = TcpStream::connect(forwarder).await.unwrap();
    let mut halfway = TcpStream::connect(forwarder).await.unwrap();
    halfway.write_all(b"\x05\x01\x00\x05\x01\x00\x03\xff").await.unwrap();
    let started = Instant::now();
    let mut slow = TcpStream::connect(forwarder).await.unwrap();
    for byte in b"GET http://a.test/ HTTP/1.1\r\nX: ".iter().cycle() {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_secs(5), "a slow client is kept for ever");
    }
    closes(silent).await;
    closes(halfway).await;

    for request in [
        "GET http://a.test/ HTTP/1.1\r\nX: ".to_owned() + &"x".repeat(200_000),
        "G".repeat(200_000),
        format!("GET http://a.test/ HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000)),
    ] {
        let answer = say(forwarder, request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let many_headers = format!("GET http://a.test/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert!(say(forwarder, many_headers).await.starts_with("HTTP/1.1 431 "));
    serves(forwarder, echo).await;
}

#[tokio::test]
async fn a_full_house_answers_and_has_room_again() {
    let (forwarder, echo) = impatient(2).await;
    let (_, mut first) = socks(forwarder, "127.0.0.1", echo.port()).await;
    let (_, second) = socks(forwarder, "127.0.0.1", echo.port()).await;
    assert_eq!(socks(forwarder, "127.0.0.1", echo.port()).await.0, 1);
    let answer = say(forwarder, format!("CONNECT {echo} HTTP/1.1\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    // More than are answered: the rest is closed, none is left hanging.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(forwarder).await.unwrap());
    }
    for stream in crowd {
        closes(stream).await;
    }
    assert!(echoes(&mut first, "hello").await);
    drop(second);
    let started = Instant::now();
    while socks(forwarder, "127.0.0.1", echo.port()).await.0 != 0 {
        assert!(started.elapsed() < PATIENCE, "the place is never free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
