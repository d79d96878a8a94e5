//! What goes in comes out: tunnels, half-closes, requests and their bodies.

use std::time::Duration;

use appfw::forward::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::*;

#[tokio::test]
async fn either_half_may_close_first() {
    let patient = patient().await;
    let (hasty, heard) = hasty().await;
    let forwarder = start("direct", &["localhost"]).await;

    let (_, mut stream) = socks(forwarder, "127.0.0.1", patient.port()).await;
    stream.write_all(&[7; 1000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 1000");

    let (_, mut stream) = socks(forwarder, "127.0.0.1", hasty.port()).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    hears(&heard, "still here").await;
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_at_once_are_exact() {
    const SIZE: usize = 100_000_000;
    let byte = |index: usize| (index.wrapping_mul(2_654_435_761) >> 13) as u8;
    let echo = echo().await;
    let forwarder = start("direct", &["localhost"]).await;
    let (code, stream) = socks(forwarder, "127.0.0.1", echo.port()).await;
    assert_eq!(code, 0);
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        for start in (0..SIZE).step_by(100_000) {
            let piece: Vec<u8> = (start..start + 100_000).map(byte).collect();
            writer.write_all(&piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut buffer = vec![0; 1 << 20];
    let mut index = 0;
    loop {
        let count = reader.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        assert!(buffer[..count].iter().enumerate().all(|(offset, got)| *got == byte(index + offset)), "at {index}");
        index += count;
    }
    writing.await.unwrap();
    assert_eq!(index, SIZE);
}

/// More than there are pipes, and each of them stuck for a while with one full.
#[tokio::test]
async fn receivers_that_pause_get_all_the_same() {
    const STREAMS: usize = 40;
    const SIZE: usize = 8_000_000;
    let source = server(|mut stream| async move {
        let piece: Vec<u8> = (0..1_000_003_u32).map(|index| (index >> 5) as u8).collect();
        let mut left = SIZE;
        while left > 0 {
            let count = left.min(piece.len());
            stream.write_all(&piece[..count]).await.unwrap();
            left -= count;
        }
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (code, stream) = socks(forwarder, "127.0.0.1", source.port()).await;
        assert_eq!(code, 0);
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut buffer = vec![0; 1 << 20];
    for mut stream in streams {
        let mut index = 0;
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            let is_right = |(offset, byte): (usize, &u8)| *byte == (((index + offset) % 1_000_003) >> 5) as u8;
            assert!(buffer[..count].iter().enumerate().all(is_right), "at {index}");
            index += count;
        }
        assert_eq!(index, SIZE);
    }
}

#[tokio::test]
async fn silence_ends_a_connection_and_any_byte_keeps_it() {
    let idle = Duration::from_millis(400);
    let echo = echo().await;
    let limits = Limits { idle, ..Limits::default() };
    let forwarder = run(forwarder("direct", &["localhost"], limits)).await;
    let (_, mut talks) = socks(forwarder, "127.0.0.1", echo.port()).await;
    let (_, mut silent) = socks(forwarder, "127.0.0.1", echo.port()).await;
    let started = std::time::Instant::now();
    while started.elapsed() < 4 * idle {
        talks.write_all(b"x").await.unwrap();
        talks.read_exact(&mut [0]).await.unwrap();
        tokio::time::sleep(idle / 4).await;
    }
    let end = tokio::time::timeout(Duration::from_millis(10), silent.read(&mut [0])).await.expect("it is still open");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// splice(2) stops before an urgent byte as if nothing came behind it.
#[tokio::test]
async fn urgent_data_is_no_end() {
    const SIZE: usize = 4_000_000;
    let urgent = server(|mut stream| async move {
        stream.write_all(&vec![7; SIZE]).await.unwrap();
        stream.ready(tokio::io::Interest::WRITABLE).await.unwrap();
        assert_eq!(rustix::net::send(&stream, b"!", rustix::net::SendFlags::OOB).unwrap(), 1);
        stream.write_all(&vec![7; SIZE]).await.unwrap();
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let (_, mut stream) = socks(forwarder, "127.0.0.1", urgent.port()).await;
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it hangs");
    // The byte itself has no way through a proxy.
    assert_eq!(read.unwrap(), 2 * SIZE);
}

#[tokio::test]
async fn a_client_that_dies_while_an_upstream_is_asked_is_not_waited_for() {
    let (gone, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let silent = server(move |mut stream| {
        let gone = gone.clone();
        async move {
            let _ = stream.read(&mut [0; 64]).await;
            gone.send("asked").unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            gone.send("left").unwrap();
        }
    })
    .await;
    for request in [
        &b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50"[..],
        b"CONNECT a:80 HTTP/1.1\r\n\r\n",
        b"\x04\x01\x00\x50\0\0\0\x01\0a\0",
        b"\x05\x01\x00\x05\xf0\x00\x03\x01a\x00\x00",
        b"\x05\x01\x00\x05\xf1\x00\x01\xc0\x00\x02\x01\x00\x00",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let forwarder = start(&format!("tor://{silent}"), &[]).await;
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        stream.write_all(request).await.unwrap();
        assert_eq!(ends.recv().await, Some("asked"));
        stream.set_zero_linger().unwrap();
        drop(stream);
        let end = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("the upstream is left hanging");
        assert_eq!(end, Some("left"));
    }
}

/// Nobody reads from it any more, and nothing is sent to it.
#[tokio::test]
async fn a_client_that_ends_its_half_and_then_dies_is_not_waited_for() {
    let (gone, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = server(move |mut stream| {
        let gone = gone.clone();
        async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            gone.send("half").unwrap();
            let error = stream.ready(tokio::io::Interest::ERROR).await;
            gone.send(if error.is_ok() { "all" } else { "nothing" }).unwrap();
        }
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let (_, mut stream) = socks(forwarder, "127.0.0.1", server.port()).await;
    stream.shutdown().await.unwrap();
    assert_eq!(ends.recv().await, Some("half"));
    stream.set_zero_linger().unwrap();
    drop(stream);
    let end = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("the upstream is left hanging");
    assert_eq!(end, Some("all"));
}

#[tokio::test]
async fn a_peer_that_dies_ends_both_sides() {
    let dying = server(|stream| async move {
        stream.set_zero_linger().unwrap();
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let (_, mut stream) = socks(forwarder, "127.0.0.1", dying.port()).await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the client is left hanging");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "a failure looks like an end");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let breaking = server(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(format!("GET http://{breaking}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_request_that_breaks_off_does_not_look_whole() {
    let (origin, log) = origin("HTTP/1.1 200 OK\r\n\r\n").await;
    let forwarder = start("direct", &["localhost"]).await;
    for body in ["3\r\nabc", "3\r\nabcdef\r\n0\r\n\r\n", "x\r\n", "3\nabc\n0\n\n", "fffffffffffffffff\r\n", "-1\r\n"] {
        let mut stream = TcpStream::connect(forwarder).await.unwrap();
        let request = format!("POST http://{origin}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _reset_or_end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(seen(&log).iter().all(|request| !request.contains("\r\n0\r\n")), "{:?}", seen(&log));
}

#[tokio::test]
async fn a_plain_request_is_what_the_client_would_have_sent() {
    let (origin, log) =
        origin("HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nKeep-Alive: 5\r\n\r\nbodyjunk")
            .await;
    let forwarder = start("direct", &["localhost"]).await;
    let answer = say(
        forwarder,
        format!(
            "GET http://{origin}/a?b=c HTTP/1.1\r\nHost: elsewhere.test\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\
             Proxy-Connection: Keep-Alive\r\nProxy-Authorization: Basic eDp5\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n"
        ),
    )
    .await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    );
    let expected = format!(
        "GET /a?b=c HTTP/1.1\r\nHost: {origin}\r\nUser-Agent: curl/8\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(seen(&log), [expected]);
}

#[tokio::test]
async fn bodies_end_where_they_say() {
    let (origin, log) = origin("HTTP/1.1 204 None\r\n\r\n").await;
    let forwarder = start("direct", &["localhost"]).await;
    let post = |headers: &str, body: &str| {
        format!("POST http://{origin}/ HTTP/1.1\r\nConnection: close\r\n{headers}\r\n\r\n{body}")
    };
    // What stands behind the last body is nobody's second request.
    let smuggled = "GET http://evil.test/ HTTP/1.1\r\n\r\n";
    let bodies = [
        ("Content-Length: 5", format!("12345{smuggled}"), "Content-Length: 5\r\nConnection: close\r\n\r\n12345"),
        ("Content-Length: 0", smuggled.to_owned(), "Content-Length: 0\r\nConnection: close\r\n\r\n"),
        (
            "Transfer-Encoding: chunked",
            format!("3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n{smuggled}"),
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n",
        ),
    ];
    for (headers, body, expected) in &bodies {
        let answer = say(forwarder, post(headers, body)).await;
        assert_eq!(answer, "HTTP/1.1 204 None\r\nConnection: close\r\n\r\n");
        let log = seen(&log);
        assert_eq!(log.last().unwrap(), &format!("POST / HTTP/1.1\r\nHost: {origin}\r\n{expected}"));
    }
    assert_eq!(seen(&log).len(), bodies.len());
}

#[tokio::test]
async fn large_bodies_both_ways() {
    // Answers with what it got, by the same framing that it got it in.
    let mirror = server(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        let head = head(&mut stream).await;
        let framing =
            head.lines().find(|line| line.starts_with("Content-Length") || line.starts_with("Transfer")).unwrap();
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index >> 3) as u8).collect();
    let mut chunked = Vec::new();
    for piece in body.chunks(77_777) {
        chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    for (framing, sent) in
        [(format!("Content-Length: {}", body.len()), &body), ("Transfer-Encoding: chunked".into(), &chunked)]
    {
        let stream = TcpStream::connect(forwarder).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let request = [format!("PUT http://{mirror}/ HTTP/1.1\r\n{framing}\r\n\r\n").as_bytes(), sent].concat();
        let writing = tokio::spawn(async move {
            writer.write_all(&request).await.unwrap();
            writer
        });
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer)).await.unwrap().unwrap();
        let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(answer[head_end..] == sent[..], "{framing}: {} of {}", answer.len() - head_end, sent.len());
        writing.await.unwrap();
    }
}

#[tokio::test]
async fn answers_of_every_kind() {
    for (method, answer, told) in [
        ("GET", "HTTP/1.0 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\njunk",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 304 Same\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 407 Own\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 407 Own\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
    ] {
        let (origin, _) = origin(answer).await;
        let forwarder = start("direct", &["localhost"]).await;
        let request = format!("{method} http://{origin}/ HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert_eq!(say(forwarder, request).await, told);
    }
    for answer in [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y",
        "HTTP/1.1 101 Switch\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let (origin, _) = origin(answer).await;
        let forwarder = start("direct", &["localhost"]).await;
        let told = say(forwarder, format!("GET http://{origin}/ HTTP/1.1\r\n\r\n")).await;
        assert!(told.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer} {told}");
    }
}
