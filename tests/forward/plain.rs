//! Absolute-form HTTP: several requests on a connection, each to its own host, and what comes between.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use appfw::forward::Limits;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::lab::*;

/// A client that keeps its connection.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(forwarder: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(forwarder).await.unwrap()))
    }

    async fn send(&mut self, request: impl AsRef<[u8]>) {
        self.0.write_all(request.as_ref()).await.unwrap();
    }

    /// One answer's head, and its body by Content-Length.
    async fn receive(&mut self) -> (String, String) {
        let head = tokio::time::timeout(PATIENCE, head(&mut self.0)).await.expect("no answer");
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        (head, self.exactly(length).await)
    }

    async fn exactly(&mut self, length: usize) -> String {
        let mut body = vec![0; length];
        tokio::time::timeout(PATIENCE, self.0.read_exact(&mut body)).await.expect("no body").unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Whether the forwarder closes, having said no more.
    async fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("it stays open");
        end.is_ok() && rest.is_empty()
    }
}

/// A web server that says `name`, once for each connection.
async fn web(name: &'static str) -> (SocketAddr, Seen) {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    origin(answer.leak()).await
}

#[tokio::test]
async fn one_connection_serves_requests_to_several_hosts() {
    let ((one, one_log), (two, two_log)) = (web("one").await, web("two").await);
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    for (host, path, said) in [(one, "/1", "one"), (two, "/2", "two"), (one, "/3", "one")] {
        client.send(format!("GET http://{host}{path} HTTP/1.1\r\nProxy-Connection: keep-alive\r\n\r\n")).await;
        let (head, body) = client.receive().await;
        assert_eq!((head.as_str(), body.as_str()), ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", said));
    }
    // With bodies, and the empty line that some put behind theirs.
    client.send(format!("POST http://{two}/4 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody\r\n")).await;
    assert_eq!(client.receive().await.1, "two");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX: y\r\n\r\n";
    client.send(format!("POST http://{one}/5 HTTP/1.1\r\n{chunked}")).await;
    assert_eq!(client.receive().await.1, "one");
    client.send(format!("GET http://{two}/6 HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
    let (head, _) = client.receive().await;
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    assert!(client.ends().await);

    let lines = |log: &Seen| seen(log).iter().map(|head| head.lines().next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&one_log), ["GET /1 HTTP/1.1", "GET /3 HTTP/1.1", "POST /5 HTTP/1.1"]);
    assert_eq!(lines(&two_log), ["GET /2 HTTP/1.1", "POST /4 HTTP/1.1", "GET /6 HTTP/1.1"]);
    assert!(
        seen(&one_log)[2].ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        "trailers stay here: {:?}",
        seen(&one_log)[2]
    );
}

/// Which would be a fifth of a second for each few: the client's kernel delays its acknowledgement, and the forwarder's waits
/// for it (Nagle).
#[tokio::test]
async fn who_waited_before_the_forwarder_was_there_is_answered_at_once() {
    let (web, _) = web("one").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::connect(listener.local_addr().unwrap()).await;
    let forwarder = forwarder("direct", &["127.0.0.1"], Limits::default());
    tokio::spawn(appfw::forward::serve(listener, std::sync::Arc::new(forwarder), std::future::pending()));
    let began = Instant::now();
    for _ in 0..100 {
        client.send(format!("GET http://{web}/ HTTP/1.1\r\n\r\n")).await;
        assert_eq!(client.receive().await.1, "one");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn pipelined_requests_are_served_in_order_and_each_is_judged() {
    let ((one, _), (two, log)) = (web("one").await, web("two").await);
    let forwarder = start("direct", &[&one.to_string(), &two.to_string()]).await;
    let mut client = Client::connect(forwarder).await;
    let inside = "http://127.0.0.1:9/";
    client
        .send(format!(
            "GET http://{one}/ HTTP/1.1\r\n\r\nGET {inside} HTTP/1.1\r\nHost: {two}\r\n\r\nHEAD {inside} HTTP/1.1\r\n\r\n\
             POST http://{two}/ HTTP/1.1\r\nContent-Length: 37\r\n\r\nGET http://127.0.0.1:9/ HTTP/1.1\r\n\r\nx\
             GET http://{one}/ HTTP/1.1\r\n\r\nCONNECT {two} HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        ))
        .await;
    assert_eq!(client.receive().await.1, "one");
    let (head, body) = client.receive().await;
    assert!(head.starts_with("HTTP/1.1 403 ") && !head.contains("close") && body.contains("is inside"), "{head}{body}");
    let no_body = tokio::time::timeout(PATIENCE, crate::lab::head(&mut client.0)).await.unwrap();
    assert!(no_body.starts_with("HTTP/1.1 403 "), "{no_body}");
    assert_eq!(client.receive().await.1, "two");
    assert_eq!(client.receive().await.1, "one");
    // The last one makes it a tunnel.
    assert!(client.receive().await.0.starts_with("HTTP/1.1 200 Connection established\r\n"));
    assert_eq!(client.receive().await.1, "two");
    assert!(client.ends().await);
    assert!(seen(&log)[0].ends_with("\r\n\r\nGET http://127.0.0.1:9/ HTTP/1.1\r\n\r\nx"), "{:?}", seen(&log)[0]);
    assert_eq!(seen(&log)[1], "GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn a_refused_body_ends_the_connection() {
    let dead = dead();
    let forwarder = start("direct", &[&dead.to_string()]).await;
    for (target, status) in [("127.0.0.1:9".to_owned(), 403), (dead.to_string(), 502)] {
        let mut client = Client::connect(forwarder).await;
        client.send(format!("GET http://{target}/ HTTP/1.1\r\n\r\n")).await;
        assert!(client.receive().await.0.starts_with(&format!("HTTP/1.1 {status} ")));
        let smuggled = "GET http://127.0.0.1:9/ HTTP/1.1\r\n\r\n";
        client.send(format!("POST http://{target}/ HTTP/1.1\r\nContent-Length: 36\r\n\r\n{smuggled}")).await;
        let (head, _) = client.receive().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains("\r\nConnection: close\r\n"),
            "{head}"
        );
        assert!(client.ends().await);
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_open() {
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    for (method, answer, told) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n"),
        ("DELETE", "HTTP/1.1 204 None\r\nContent-Length: 9\r\n\r\nnot a body", "HTTP/1.1 204 None\r\n\r\n"),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let (origin, _) = origin(answer).await;
        client.send(format!("{method} http://{origin}/ HTTP/1.1\r\n\r\n")).await;
        assert_eq!(tokio::time::timeout(PATIENCE, head(&mut client.0)).await.expect("no answer"), told);
    }
    let (origin, _) = origin("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    client.send(format!("GET http://{origin}/ HTTP/1.1\r\n\r\n")).await;
    assert!(client.receive().await.0.contains("\r\nConnection: close\r\n"));
    assert_eq!(client.exactly(13).await, "until the end");
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_body_may_wait_for_a_hundred() {
    // Says 100, and what it got.
    let expecting = server(|stream| async move {
        let mut stream = BufReader::new(stream);
        let request = head(&mut stream).await;
        assert!(request.contains("\r\nExpect: 100-continue\r\n"), "{request}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &body[..]].concat()).await.unwrap();
    })
    .await;
    let refusing = origin_before_the_body("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    for word in ["hello", "again"] {
        client
            .send(format!("PUT http://{expecting}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"))
            .await;
        assert_eq!(client.receive().await.0, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(word).await;
        assert_eq!(client.receive().await.1, word);
    }
    // The body never comes: what would come next could be taken for it.
    client.send(format!("PUT http://{refusing}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    let (head, body) = client.receive().await;
    assert!(head.starts_with("HTTP/1.1 417 ") && head.contains("\r\nConnection: close\r\n") && body == "no", "{head}");
    client.send(format!("GET http://{expecting}/ HTTP/1.1\r\n\r\n")).await;
    assert!(client.ends().await);
}

/// A web server that answers a head and does not wait for what follows it.
async fn origin_before_the_body(answer: &'static str) -> SocketAddr {
    server(move |stream| async move {
        let mut stream = BufReader::new(stream);
        head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_can_read() {
    let chunked = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n";
    let (origin, log) = origin(chunked).await;
    let broken = origin_before_the_body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab").await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    client.send(format!("GET http://{origin}/ HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n")).await;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, client.0.read_to_string(&mut answer)).await.expect("no end").unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
    assert!(seen(&log)[0].starts_with("GET / HTTP/1.0\r\n"));
    // The end of the stream is the end of the body: half a body must not have one.
    let mut client = Client::connect(forwarder).await;
    client.send(format!("GET http://{broken}/ HTTP/1.0\r\n\r\n")).await;
    let end = tokio::time::timeout(PATIENCE, client.0.read_to_string(&mut answer)).await.expect("no end");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A web server that switches to echoing, with `answer`.
async fn websocket(answer: &'static str, log: Seen) -> SocketAddr {
    server(move |stream| {
        let log = log.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let request = head(&mut stream).await;
            log.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy_buf(&mut BufReader::new(&mut reader), &mut writer).await;
            let _ = writer.shutdown().await;
        }
    })
    .await
}

#[tokio::test]
async fn an_upgrade_makes_a_tunnel() {
    let log = Seen::default();
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nbanner";
    let origin = websocket(switching, log.clone()).await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n\r\n";
    client.send(format!("GET http://{origin}/chat HTTP/1.1\r\n{upgrade}early")).await;
    let told = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(client.receive().await.0, told);
    let first = client.exactly("bannerearly".len()).await;
    assert_eq!(first, "bannerearly");
    client.send("GET http://127.0.0.1:9/ HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.exactly(37 - 1).await, "GET http://127.0.0.1:9/ HTTP/1.1\r\n\r\n", "it is no request any more");
    client.0.get_mut().shutdown().await.unwrap();
    assert!(client.ends().await);
    let expected = format!(
        "GET /chat HTTP/1.1\r\nHost: {origin}\r\nSec-WebSocket-Key: y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(seen(&log), [expected]);
}

#[tokio::test]
async fn an_upgrade_may_be_declined_and_is_never_unasked() {
    let (declining, log) = web("no").await;
    let switching =
        websocket("HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", Seen::default()).await;
    let (proxy, heads) = http_proxy(None, "").await;
    let forwarder = start("direct", &["localhost"]).await;
    let mut client = Client::connect(forwarder).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for _ in 0..2 {
        client.send(format!("GET http://{declining}/ HTTP/1.1\r\n{upgrade}")).await;
        assert_eq!(client.receive().await.1, "no");
    }
    let java = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
    client.send(format!("GET http://{declining}/ HTTP/1.1\r\n{java}")).await;
    assert_eq!(client.receive().await.1, "no");
    assert!(!seen(&log)[2].contains("h2c") && !seen(&log)[2].contains("Settings"), "{:?}", seen(&log)[2]);
    client.send(format!("GET http://{switching}/ HTTP/1.1\r\n\r\n")).await;
    assert!(client.receive().await.0.starts_with("HTTP/1.1 502 "));

    // A proxy need not know the protocol: it makes a tunnel, in which it is spoken.
    let forwarder = start(&format!("http://{proxy}"), &[]).await;
    let mut client = Client::connect(forwarder).await;
    client.send(format!("GET http://a.test/ HTTP/1.1\r\n{upgrade}")).await;
    client.0.get_mut().shutdown().await.unwrap();
    client.receive().await;
    assert!(seen(&heads)[0].starts_with("CONNECT a.test:80 HTTP/1.1\r\n"), "{:?}", seen(&heads));
}

#[tokio::test]
async fn a_connection_waits_for_its_next_request_only_so_long() {
    let (origin, _) = web("one").await;
    let short = Duration::from_millis(300);
    let limits = Limits { keep_alive: short, handshake: short, ..Limits::default() };
    let forwarder = run(forwarder("direct", &["localhost"], limits)).await;
    let get = format!("GET http://{origin}/ HTTP/1.1\r\n\r\n");
    let mut idle = Client::connect(forwarder).await;
    idle.send(&get).await;
    idle.receive().await;
    let started = Instant::now();
    assert!(idle.ends().await);
    assert!(started.elapsed() >= short / 2, "it was not even given the time");
    // Once it begins, its head has as long as the first one had, and no longer.
    let mut slow = Client::connect(forwarder).await;
    slow.send(&get).await;
    slow.receive().await;
    let started = Instant::now();
    while slow.0.write_all(b"X").await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "a slow client is kept for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let (gone, mut waited) = tokio::sync::mpsc::channel(4);
    let silent = server(move |stream| {
        let gone = gone.clone();
        async move {
            let mut stream = BufReader::new(stream);
            head(&mut stream).await;
            // Never answers: whatever it reads now is the end.
            let mut rest = String::new();
            let _ = stream.read_line(&mut rest).await;
            let _ = gone.send(()).await;
        }
    })
    .await;
    let forwarder = start("direct", &["localhost"]).await;
    for request in ["GET http://{}/ HTTP/1.1\r\n\r\n", "POST http://{}/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n"] {
        let client = Client::connect(forwarder).await.0;
        let mut client = client.into_inner();
        client.write_all(request.replace("{}", &silent.to_string()).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.set_zero_linger().unwrap();
        drop(client);
        tokio::time::timeout(PATIENCE, waited.recv()).await.expect("the upstream is kept waiting").unwrap();
    }
}
