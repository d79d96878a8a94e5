//! Connections.

use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::net::UnixStream;

use appfw::forward::Reporter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// How a program sees that it is not served.
async fn is_reset(namespace: &Namespace, to: &str) -> bool {
    let mut stream = match namespace.connect(to).await {
        Ok(stream) => stream,
        Err(error) => return error.kind() == ErrorKind::ConnectionReset,
    };
    let ended = timeout(PATIENCE, stream.read_u8()).await.expect("no end");
    ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_connection_goes_where_it_was_made_to_go() {
    let (upstream, log) = socks5(None, 0).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for to in ["203.0.113.10:80", "[2001:db8::10]:80", "8.8.8.8:1081", "192.0.2.1:1080", "[2001:db8::1]:65535"] {
        let mut stream = app.connect(to).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), to);
        assert!(echoes(&mut stream, "hello").await, "{to}");
    }
    let asked = ["203.0.113.10 80", "[2001:db8::10] 80", "8.8.8.8 1081", "192.0.2.1 1080", "[2001:db8::1] 65535"];
    assert_eq!(seen(&log), asked.map(|asked| format!("connect {asked}")));
}

#[tokio::test]
async fn an_address_that_stands_for_a_name_goes_there_by_name() {
    let (upstream, log) = socks5(None, 0).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for (server, kind) in [("8.8.8.8:53", RecordType::A), ("[2001:db8::53]:53", RecordType::AAAA)] {
        let address = resolve(&app, server, "web.test.", kind).await;
        let mut stream = app.connect(&std::net::SocketAddr::new(address, 80).to_string()).await.unwrap();
        assert!(echoes(&mut stream, "hello").await);
    }
    assert_eq!(seen(&log), ["connect name web.test 80"; 2]);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_either_half_may_end() {
    let (hasty, heard) = hasty().await;
    let patient = patient().await;
    let Some(app) = start(BUT_DNS, forwarder("direct", &["localhost"], Limits::default())) else { return };
    let localhost = resolve(&app, "1.1.1.1:53", "localhost.", RecordType::A).await;
    let mut stream = app.connect(&format!("{localhost}:{}", hasty.port())).await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("no end").unwrap();
    assert_eq!(said, "bye");
    stream.write_all(b"after that").await.unwrap();
    stream.shutdown().await.unwrap();
    hears(&heard, "after that").await;

    let mut stream = app.connect(&format!("{localhost}:{}", patient.port())).await.unwrap();
    stream.write_all(&vec![7; 3_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    said.clear();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("no end").unwrap();
    assert_eq!(said, "got 3000000");
}

#[tokio::test]
async fn who_is_refused_is_reset_and_nobody_is_asked() {
    let (upstream, log) = socks5(None, 0).await;
    let via = format!("socks5://{upstream}");
    let ruled = |line| forwarder(&via, &[], Limits::default()).with_rules(rules(line));
    for (line, refused) in [
        // Inside; standing for no name; the listener itself.
        ("", &["10.0.0.1:80", "169.254.169.254:80", "[fd00::1]:80", "100.64.0.1:80"][..]),
        ("--only 0.0.0.0/0", &["10.0.0.1:80", "198.18.7.7:80", "[fd61:7070:6677::9:9]:80", "[2001:db8::1]:80"]),
        ("", &["127.100.90.50:1081", "127.0.0.1:1081", "[::1]:1081", "224.0.0.1:80"]),
        ("--block 203.0.113.0/24 --block [2001:db8::1]:443", &["203.0.113.10:80", "[2001:db8::1]:443"]),
        ("--only 192.0.2.1 --only a.test", &["203.0.113.10:80", "192.0.2.2:80", "[2001:db8::1]:443"]),
    ] {
        let Some(app) = start(BUT_DNS, ruled(line)) else { return };
        for to in refused {
            // What is no host's address cannot even be tried.
            if *to != "224.0.0.1:80" || app.connect(to).await.is_ok() {
                assert!(is_reset(&app, to).await, "{line}: {to}");
            }
        }
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn rules_let_through_what_they_name_by_address() {
    let (upstream, log) = socks5(None, 0).await;
    let line = "--only 203.0.113.0/24 --only 2001:db8::/32 --block 203.0.113.11";
    let ruled = forwarder(&format!("socks5://{upstream}"), &[], Limits::default()).with_rules(rules(line));
    let Some(app) = start(BUT_DNS, ruled) else { return };
    for to in ["203.0.113.10:80", "[2001:db8::10]:80"] {
        assert!(echoes(&mut app.connect(to).await.unwrap(), "hello").await, "{to}");
    }
    assert!(is_reset(&app, "203.0.113.11:80").await);
    assert_eq!(seen(&log), ["connect 203.0.113.10 80", "connect [2001:db8::10] 80"]);
}

#[tokio::test]
async fn an_upstream_that_does_not_get_there_resets_too() {
    let (upstream, _) = socks5(None, 5).await;
    for via in [format!("socks5://{upstream}"), format!("socks5://{}", dead())] {
        let Some(app) = start(BUT_DNS, forwarder(&via, &[], Limits::default())) else { return };
        assert!(is_reset(&app, "203.0.113.10:80").await, "{via}");
    }
}

#[tokio::test]
async fn a_captured_connection_is_a_request_to_the_launcher_and_its_refusal_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let reporter = Arc::new(Reporter::to(ours).unwrap());
    let forwarder = forwarder(&format!("socks5://{}", dead()), &[], Limits::default());
    let forwarder = forwarder.with_rules(rules("--block 203.0.113.10")).with_reporter(reporter);
    let Some(app) = start(BUT_DNS, forwarder) else { return };
    assert!(is_reset(&app, "203.0.113.10:80").await);
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let lines: Vec<_> = BufReader::new(theirs).lines().take(2).map(Result::unwrap).collect();
    let told = r#"{"event":"refused","destination":"203.0.113.10:80","by":"block"}"#;
    assert_eq!(lines, [r#"{"event":"request"}"#, told]);
}

#[tokio::test]
async fn a_program_of_its_own_loopback_is_not_captured() {
    let Some(app) = start(BUT_DNS, forwarder("direct", &["any"], Limits::default())) else { return };
    assert_eq!(app.connect("127.0.0.1:4").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(app.connect("[::1]:4").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn dns_by_tcp_is_ours_whichever_server_is_asked() {
    let (upstream, log) = socks5(None, 0).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    for server in ["8.8.8.8:53", "[2001:db8::53]:53", "10.0.0.1:53"] {
        let mut stream = app.connect(server).await.unwrap();
        for name in ["a.test.", "b.test."] {
            say_framed(&mut stream, &query(name, RecordType::A).to_vec().unwrap()).await;
            let found = address(&hear_framed(&mut stream).await);
            assert!(found.to_string().starts_with("198.1"), "{server}: {found}");
        }
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn five_hundred_at_once_each_reach_their_own() {
    let (upstream, log) = socks5(None, 0).await;
    let Some(app) = start(BUT_DNS, forwarder(&format!("socks5://{upstream}"), &[], Limits::default())) else { return };
    let app = Arc::new(app);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..500 {
        let app = Arc::clone(&app);
        clients.spawn(async move {
            let host = if number % 2 == 0 { "203.0.113.10".to_owned() } else { "[2001:db8::10]".to_owned() };
            let mut stream = app.connect(&format!("{host}:{}", 1000 + number)).await.unwrap();
            assert!(echoes(&mut stream, &format!("I am {number}")).await);
            stream
        });
    }
    let all: Vec<TcpStream> = timeout(2 * PATIENCE, clients.join_all()).await.expect("some do not come through");
    assert_eq!(all.len(), 500);
    let mut asked = seen(&log);
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 500);
}

#[tokio::test]
async fn a_full_house_resets() {
    let full = Limits { connections: 0, ..Limits::default() };
    let Some(app) = start(BUT_DNS, forwarder("direct", &[], full)) else { return };
    assert!(is_reset(&app, "203.0.113.10:80").await);
    assert!(is_reset(&app, "8.8.8.8:53").await);
}
