//! What bounds an exchange by absolute-form HTTP: silence of either side, floods, and heads without an end.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use appfw::forward::{Limits, Reporter};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::lab::*;

/// Time for what is on this machine and answers; each silence costs it, or twice as much.
const SHORT: Duration = Duration::from_millis(500);

/// The one time that a test is about is short.
fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// Says nothing, whatever it is told.
async fn silent() -> SocketAddr {
    server(|mut stream| async move {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        tokio::time::sleep(PATIENCE).await;
    })
    .await
}

/// Says `what` again and again once it is asked.
async fn flood(what: &'static str) -> SocketAddr {
    server(move |stream| async move {
        let mut stream = BufReader::new(stream);
        head(&mut stream).await;
        while stream.write_all(what.as_bytes()).await.is_ok() {}
    })
    .await
}

/// What a client gets that says `request` and waits, and how long that takes.
async fn ask(forwarder: SocketAddr, request: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _end_or_reset = tokio::time::timeout(PATIENCE / 2, stream.read_to_end(&mut answer)).await.expect("no end");
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_so_long() {
    let hundreds = flood("HTTP/1.1 100 Continue\r\n\r\n").await;
    let short = limits(|limits| limits.answer = SHORT);
    for (via, asked, named) in [
        ("direct".to_owned(), silent().await, String::new()),
        ("direct".to_owned(), hundreds, String::new()),
        (format!("http://{}", silent().await), "192.0.2.1:80".parse().unwrap(), "the HTTP upstream ".to_owned()),
        (format!("http://{hundreds}"), "192.0.2.1:80".parse().unwrap(), format!("the HTTP upstream {hundreds}")),
    ] {
        for (request, version) in [("GET", "1.0"), ("GET", "1.1"), ("POST", "1.1")] {
            let (ours, theirs) = StdUnixStream::pair().unwrap();
            let forwarder = forwarder(&via, &["localhost"], short).with_reporter(Reporter::to(ours).unwrap().into());
            let body = if request == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
            let request = format!("{request} http://{asked}/ HTTP/{version}\r\n{body}");
            let (answer, took) = ask(run(forwarder).await, &request).await;
            let last = answer.rsplit_once("HTTP/1.1 ").map(|(_, last)| last).unwrap_or_default();
            assert!(last.starts_with("504 Gateway Timeout\r\n") && last.contains(" timed out"), "{via}: {answer:.300}");
            assert!(last.contains(&named) && (SHORT..SHORT * 8).contains(&took), "{via}: {last} {took:?}");
            theirs.set_nonblocking(true).unwrap();
            let reports: Vec<_> =
                std::io::BufRead::lines(std::io::BufReader::new(theirs)).map_while(Result::ok).collect();
            let is_blamed = reports.iter().any(|line| line.contains("upstream-failed"));
            assert_eq!(is_blamed, via != "direct", "{via}: {reports:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_waited_for_from_the_end_of_the_request_on() {
    let (origin, _) = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let forwarder = run(forwarder("direct", &["localhost"], limits(|limits| limits.answer = SHORT))).await;
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(format!("POST http://{origin}/ HTTP/1.1\r\nContent-Length: 8\r\n\r\n").as_bytes()).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(SHORT / 4).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut status = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("no answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test]
async fn bodies_that_stop_are_given_up_and_slow_ones_are_not() {
    let forwarder = run(forwarder("direct", &["localhost"], limits(|limits| limits.idle = SHORT))).await;
    let silent = silent().await;
    let (answer, took) =
        ask(forwarder, &format!("POST http://{silent}/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")).await;
    assert!(answer.is_empty() && (SHORT..SHORT * 8).contains(&took), "{answer} {took:?}");

    let halfway = server(|stream| async move {
        let mut stream = BufReader::new(stream);
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        tokio::time::sleep(PATIENCE).await;
    })
    .await;
    let (answer, took) = ask(forwarder, &format!("GET http://{halfway}/ HTTP/1.1\r\n\r\n")).await;
    assert!(answer.ends_with("half") && (SHORT..SHORT * 8).contains(&took), "{answer} {took:?}");

    // Longer than it may be silent, but never silent: bytes count before the body is complete.
    for framing in ["Content-Length: 12\r\n\r\n", "\r\n"] {
        let slow = server(move |stream| async move {
            let mut stream = BufReader::new(stream);
            head(&mut stream).await;
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await;
            for _ in 0..12 {
                tokio::time::sleep(SHORT / 3).await;
                let _ = stream.write_all(b"z").await;
            }
        })
        .await;
        let request = format!("GET http://{slow}/ HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(ask(forwarder, &request).await.0.ends_with(&"z".repeat(12)), "{framing}");
    }
}

#[tokio::test]
async fn who_does_not_take_refusals_is_given_up() {
    let forwarder = run(forwarder("direct", &[], limits(|limits| limits.handshake = SHORT))).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(forwarder).await.unwrap();
    let requests = "GET http://10.0.0.1/ HTTP/1.1\r\n\r\n".repeat(1000);
    let writing = async { while client.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, writing).await.expect("it is kept for ever");
}

/// The timer of the forwarder's socket whose other end `there` sees as `peer`, as /proc/net/tcp says: which one
/// (02 is keepalive), and when in hundredths of a second.
fn timer(peer: SocketAddr, there: SocketAddr) -> Option<(String, u64)> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => unreachable!(),
    };
    let ends = [hex(peer), hex(there)];
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (kind, when) = words.get(5)?.split_once(':')?;
        (words[1..3] == ends).then(|| (kind.to_owned(), u64::from_str_radix(when, 16).unwrap()))
    })
}

#[tokio::test]
async fn every_upstream_is_asked_for_signs_of_life() {
    let switching = "HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let (timers, mut seen) = tokio::sync::mpsc::channel(4);
    let origin = server(move |stream| {
        let timers = timers.clone();
        async move {
            let ends = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
            let mut stream = BufReader::new(stream);
            if head(&mut stream).await.contains("Upgrade") {
                stream.write_all(switching.as_bytes()).await.unwrap();
            }
            // What was sent is acknowledged by then: nothing but keepalive runs.
            tokio::time::sleep(Duration::from_millis(300)).await;
            timers.send(timer(ends.0, ends.1)).await.unwrap();
            tokio::time::sleep(PATIENCE).await;
        }
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    for request in [
        format!("CONNECT {origin} HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        format!("GET http://{origin}/ HTTP/1.1\r\n\r\n"),
        format!("GET http://{origin}/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ] {
        let mut client = TcpStream::connect(forwarder).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let (kind, when) = tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap().unwrap().expect("no such socket");
        assert!(kind == "02" && when <= 12_000, "{request}: timer {kind} in {when}");
    }
}

#[tokio::test]
async fn answers_in_old_and_odd_forms_are_carried() {
    let forwarder = start("direct", &["localhost"]).await;
    for (answer, told) in [
        (
            "1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", "\r\n\r\nok"),
        ("1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nokno", "\r\n\r\nok"),
        (
            "1.1 200 OK\r\nX : y\r\nContent-Length : 2\r\n\r\nokno",
            "\r\nX: y\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        ),
    ] {
        let (origin, _) = origin(format!("HTTP/{answer}").leak()).await;
        let carried = say(forwarder, format!("GET http://{origin}/ HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
        assert!(carried.starts_with("HTTP/1.1 200 OK\r\n") && carried.ends_with(told), "{answer}: {carried}");
        let lengths = carried.matches("Content-Length").count() + carried.matches("Transfer-Encoding").count();
        assert!(lengths <= 1 && !carried.contains("identity"), "{answer}: {carried}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "Set-Cookie: a=b\r\n".repeat(129));
    for (answer, phrase) in [
        (many.as_str(), "answered with more than 128 headers"),
        ("HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", "answered something that is not HTTP"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "no single Content-Length"),
    ] {
        let (origin, _) = origin(answer.to_owned().leak()).await;
        let told = say(forwarder, format!("GET http://{origin}/ HTTP/1.1\r\n\r\n")).await;
        assert!(told.starts_with("HTTP/1.1 502 ") && told.contains(phrase), "{answer}: {told}");
    }
    // The headers of an answer to CONNECT are nobody's concern.
    let (proxy, _) = origin(format!("HTTP/1.1 200 OK\r\n{}\r\nthrough", "X: y\r\n".repeat(129)).leak()).await;
    let told = say(start(&format!("http://{proxy}"), &[]).await, "CONNECT a.test:1 HTTP/1.1\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with("through"), "{told}");
}

#[tokio::test]
async fn an_answer_that_loses_its_last_chunk_is_broken() {
    let (origin, _) = origin("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n").await;
    let mut client = TcpStream::connect(start("direct", &["localhost"]).await).await.unwrap();
    client.write_all(format!("GET http://{origin}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("no end");
    assert!(end.is_err() && !answer.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn large_heads_have_so_much_room_together_and_give_it_back() {
    let (origin, _) = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let forwarder = start("direct", &["localhost"]).await;
    let large = format!("GET http://{origin}/ HTTP/1.1\r\nConnection: close\r\nX: {}", "y".repeat(60_000));
    let small = format!("GET http://{origin}/ HTTP/1.1\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(7_000));
    assert!(say(forwarder, format!("{large}\r\n\r\n")).await.starts_with("HTTP/1.1 200 "));
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        let _ = stream.write_all(large.as_bytes()).await;
        crowd.push(stream);
    }
    let told = say(forwarder, format!("{large}\r\n\r\n")).await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("no room for another large HTTP head"), "{told}");
    assert!(say(forwarder, &small).await.starts_with("HTTP/1.1 200 "), "a small one is always served");
    drop(crowd);
    let started = Instant::now();
    while !say(forwarder, format!("{large}\r\n\r\n")).await.starts_with("HTTP/1.1 200 ") {
        assert!(started.elapsed() < PATIENCE, "the room is never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
