//! What the log says of requests: a hint where one helps, nothing about clients that come and go, and
//! never what they are known by.

use std::sync::{Arc, Mutex};

use appfw::forward::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;

use crate::lab::{rules as rules_of, *};

/// What is logged on this thread, on which the whole test runs, as long as the guard lives.
pub fn listen() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let lines = Arc::default();
    let writer = Lines(Arc::clone(&lines));
    let subscriber =
        tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false).with_writer(move || writer.clone());
    (lines, tracing::subscriber::set_default(subscriber.finish()))
}

/// Says `said`, ends, and waits until the forwarder has ended too.
async fn visit(forwarder: std::net::SocketAddr, said: &[u8]) {
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(said).await.unwrap();
    stream.shutdown().await.unwrap();
    let _reset_or_end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
}

/// What has been logged, once the forwarder has come to rest: it logs some ends after the client saw them.
pub async fn logged(lines: &Mutex<Vec<u8>>) -> String {
    let started = std::time::Instant::now();
    let mut before = usize::MAX;
    loop {
        let text = String::from_utf8_lossy(&lines.lock().unwrap()).into_owned();
        if !text.is_empty() && text.len() == before || started.elapsed() > PATIENCE {
            return text;
        }
        before = text.len();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn clients_that_come_and_go_are_normal() {
    let forwarder = start("direct", &[]).await;
    let (lines, _guard) = listen();
    for said in
        [&b""[..], b"\x05", b"\x05\x01\x00", b"\x05\x01\x00\x05\x01\x00\x03\x09a.te", b"\x04\x01", b"GET http://a"]
    {
        visit(forwarder, said).await;
    }
    // TLS gets a line, and nobody before it did.
    visit(forwarder, b"\x16").await;
    let logged = logged(&lines).await;
    assert!(logged.lines().count() == 1 && logged.contains("TLS"), "{logged}");
}

#[tokio::test]
async fn what_cannot_be_served_gets_a_hint() {
    let forwarder = start("direct", &[]).await;
    let (lines, _guard) = listen();
    for (said, hint) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "give it http:// as the proxy's scheme"),
        (b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0", "SOCKS5 for UDP"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x01\x01\x01\x01\0\x50", "SOCKS5 for command 0x02"),
        (b"\x04\x02\x00\x50\x01\x01\x01\x01\0", "SOCKS4 for command 0x02"),
        (b"GET ftp://a.test/ HTTP/1.1\r\n\r\n", "`ftp://` is not spoken"),
        (b"\x05\x01\x00\x05\xf0\x00\x03\x09localhost\x00\x00", "localhost"),
    ] {
        lines.lock().unwrap().clear();
        visit(forwarder, said).await;
        let logged = logged(&lines).await;
        assert!(logged.contains("WARN") && logged.contains(hint) && logged.lines().count() == 1, "{hint}: {logged}");
    }
}

#[tokio::test]
async fn what_an_app_can_do_at_will_does_not_fill_the_journal() {
    let (origin, _) = origin("HTTP/1.1 200 OK\r\n\r\n").await;
    let forwarder = start("direct", &[&origin.to_string()]).await;
    let (lines, _guard) = listen();
    for _ in 0..60 {
        visit(forwarder, b"\x16").await;
        visit(forwarder, b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n").await;
        visit(forwarder, b"CONNECT x.onion:80 HTTP/1.1\r\n\r\n").await;
    }
    // What is served is recorded all the same.
    visit(forwarder, format!("GET http://{origin}/ HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes()).await;
    let logged = logged(&lines).await;
    let of = |text: &str| logged.lines().filter(|line| line.contains(text)).count();
    // One kind does not use up another's lines.
    assert_eq!((of("speaks TLS"), of("is inside"), of("onion")), (50, 50, 50), "{logged}");
    assert_eq!((of("more like these are not logged"), of("done"), logged.lines().count()), (3, 1, 154), "{logged}");
}

#[tokio::test]
async fn what_came_of_a_broken_download_is_counted() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf";
    let (origin, _) = origin(half).await;
    let forwarder = start("direct", &["localhost"]).await;
    let (lines, _guard) = listen();
    visit(forwarder, format!("GET http://{origin}/ HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes()).await;
    let logged = logged(&lines).await;
    let received = half.len() + "Connection: close\r\n".len();
    assert!(logged.contains("broke off") && logged.contains(&format!("received={received} ")), "{logged}");
}

#[tokio::test]
async fn without_destinations_no_line_has_one() {
    let (upstream, _) = socks5(None, 4).await;
    let (lines, _guard) = listen();
    for (via, rules) in [
        (format!("socks5://{upstream}"), "--only secret.test --only *.x.test"),
        ("direct".into(), "--block other.test"),
        ("direct".into(), "--only secret.test"),
    ] {
        let forwarder = forwarder(&via, &[], Limits::default()).with_rules(rules_of(rules)).logging_destinations(false);
        let forwarder = run(forwarder).await;
        for said in [
            &b"\x05\x01\x00\x05\x01\x00\x03\x0bsecret.test\x00\x50"[..],
            b"\x05\x01\x00\x05\x01\x00\x03\x0aother.test\x00\x50",
            b"\x05\x01\x00\x05\xf0\x00\x03\x0aother.test\x00\x50",
            b"\x05\x01\x00\x05\xf1\x00\x03\x0aother.test\x00\x50",
            b"CONNECT secret.test:80 HTTP/1.1\r\n\r\n",
            b"CONNECT secret.test HTTP/1.1\r\n\r\n",
            b"GET http://other.test/secret.test HTTP/1.1\r\n\r\n",
            b"GET ftp://other.test/ HTTP/1.1\r\n\r\n",
            b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        ] {
            visit(forwarder, said).await;
        }
    }
    let logged = logged(&lines).await;
    for place in ["secret", "other", "127.0.0.1:80", "x.test"] {
        assert!(!logged.contains(place), "{place}: {logged}");
    }
    assert!(logged.lines().count() > 20 && logged.contains("refused") && logged.contains("unreachable"), "{logged}");
}

#[tokio::test]
async fn each_request_has_a_record_and_no_record_has_credentials() {
    let (upstream, _) = socks5(None, 0).await;
    let (origin, _) = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let (lines, _guard) = listen();
    // Only the second has an answer to plain requests.
    for (via, allowed, target) in [
        (format!("socks5://{upstream}"), vec![], "a.test:80".to_owned()),
        ("direct".into(), vec!["localhost"], origin.to_string()),
    ] {
        let forwarder = start(&via, &allowed).await;
        // opensesame, as user and password.
        let basic = "Proxy-Authorization: Basic b3BlbnNlc2FtZTpvcGVuc2VzYW1l\r\n";
        let (host, port) = target.rsplit_once(':').unwrap();
        let port = port.parse::<u16>().unwrap().to_be_bytes();
        let name = [&[u8::try_from(host.len()).unwrap()], host.as_bytes()].concat();
        let login = b"\x05\x01\x02\x01\x0aopensesame\x0aopensesame";
        for said in [
            [&login[..], b"\x05\x01\x00\x03", &name, &port].concat(),
            [&login[..], b"\x05\xf1\x00\x03", &name, &port].concat(),
            [b"\x04\x01", &port[..], b"\0\0\0\x01opensesame\0", host.as_bytes(), b"\0"].concat(),
            format!("CONNECT {target} HTTP/1.1\r\n{basic}\r\n").into_bytes(),
            format!("GET http://opensesame@{target}/ HTTP/1.1\r\n{basic}\r\n").repeat(2).into_bytes(),
            format!("GET http://opensesame@{target}/ HTTP/1.1\r\n{basic}Content-Length: x\r\n\r\n").into_bytes(),
        ] {
            visit(forwarder, &said).await;
        }
    }
    let logged = logged(&lines).await;
    assert!(!logged.contains("opensesame") && !logged.contains("b3Blb"), "{logged}");
    let done = logged.lines().filter(|line| line.contains(&format!("destination={origin}")) && line.contains("done"));
    // Three tunnels, and each of the two requests on one connection.
    assert_eq!(done.count(), 5, "{logged}");
}
