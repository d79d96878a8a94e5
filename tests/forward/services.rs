//! `--allow-destination` of what is on this host's loopback: it is reached from here, whatever the way out,
//! by the proxy and by a socket of its own; and nothing else is.

use std::sync::Arc;

use appfw::destination::Destination;
use appfw::forward::{Forwarder, Limits, serve_service};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::lab::*;

/// Leads a socket to `service`, as the one in the app's namespace does.
async fn lead(forwarder: Forwarder, service: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Destination::from_ip(service.ip(), service.port()).unwrap();
    tokio::spawn(serve_service(listener, service, Arc::new(forwarder)));
    address
}

/// Upstreams of every kind, and what they were asked.
async fn upstreams() -> (Vec<String>, [Seen; 2]) {
    let (socks, asked) = socks5(None, 0).await;
    let (proxy, heads) = http_proxy(None, "").await;
    let chain = format!("socks5://{socks}\nhttp://{proxy}");
    let vias = vec!["direct".into(), format!("socks5://{socks}"), format!("tor://{socks}"), format!("http://{proxy}")];
    ([vias, vec![chain]].concat(), [asked, heads])
}

#[tokio::test]
async fn what_is_opened_on_the_loopback_is_reached_from_here_whatever_the_way_out() {
    let (vias, asked) = upstreams().await;
    let (echo, other) = (echo().await, echo().await);
    let (web, requests) = origin("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere").await;
    for via in &vias {
        let forwarder = start(via, &[&echo.to_string(), &web.to_string()]).await;
        for spelling in ["127.0.0.1", "127.1", "::ffff:127.0.0.1"] {
            let (code, mut stream) = socks(forwarder, spelling, echo.port()).await;
            assert_eq!(code, 0, "{via} {spelling}");
            assert!(echoes(&mut stream, "hello").await);
        }
        assert!(
            say(forwarder, format!("CONNECT {echo} HTTP/1.1\r\n\r\nhello")).await.ends_with("\r\n\r\nhello"),
            "{via}"
        );
        assert!(say(forwarder, format!("GET http://{web}/ HTTP/1.1\r\n\r\n")).await.ends_with("here"), "{via}");
        // Not the other port, not by a name that was not given, and no other address.
        for (host, port) in [("127.0.0.1", other.port()), ("localhost", echo.port()), ("127.0.0.2", echo.port())] {
            assert_eq!(socks(forwarder, host, port).await.0, 2, "{via} {host}:{port}");
        }
    }
    assert_eq!(seen(&requests).len(), vias.len());
    assert!(asked.iter().all(|asked| seen(asked).is_empty()), "{:?}", asked.map(|asked| seen(&asked)));
}

#[tokio::test]
async fn localhost_is_this_hosts_whatever_the_way_out() {
    let (vias, asked) = upstreams().await;
    let echo = echo().await;
    for via in &vias {
        let forwarder = start(via, &["localhost", "db.localhost"]).await;
        for name in ["localhost", "LocalHost.", "db.localhost", "127.0.0.1"] {
            let (code, mut stream) = socks(forwarder, name, echo.port()).await;
            assert_eq!(code, 0, "{via} {name}");
            assert!(echoes(&mut stream, "hello").await);
        }
    }
    assert!(asked.iter().all(|asked| seen(asked).is_empty()), "{:?}", asked.map(|asked| seen(&asked)));
}

#[tokio::test]
async fn what_is_opened_elsewhere_goes_out_as_everything_does() {
    let (upstream, asked) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://{upstream}"), &["10.0.0.0/8", "nas.local"]).await;
    assert_eq!(socks(forwarder, "10.0.0.1", 80).await.0, 0);
    assert_eq!(socks(forwarder, "nas.local", 80).await.0, 0);
    assert_eq!(seen(&asked), ["connect 10.0.0.1 80", "connect name nas.local 80"]);
}

#[tokio::test]
async fn a_dead_service_is_refused_and_nobody_else_is_asked() {
    let (vias, asked) = upstreams().await;
    let dead = dead();
    for via in &vias {
        let forwarder = start(via, &["127.0.0.0/8"]).await;
        assert_eq!(socks(forwarder, "127.0.0.1", dead.port()).await.0, 5, "{via}");
    }
    assert!(asked.iter().all(|asked| seen(asked).is_empty()), "{:?}", asked.map(|asked| seen(&asked)));
}

#[tokio::test]
async fn rules_hold_for_what_is_opened() {
    let (vias, asked) = upstreams().await;
    let echo = echo().await;
    let opened = [echo.to_string(), "localhost".to_owned()];
    let opened: Vec<&str> = opened.iter().map(String::as_str).collect();
    for via in &vias {
        for (rules, passes) in [
            (format!("--block {echo}"), false),
            ("--block localhost".to_owned(), false),
            ("--only a.test".to_owned(), false),
            (format!("--only a.test --only {echo}"), true),
            (format!("--block 127.0.0.1:{}", echo.port() - 1), true),
        ] {
            let forwarder = start_ruled(via, &opened, &rules).await;
            let code = if passes { 0 } else { 2 };
            assert_eq!(socks(forwarder, "127.0.0.1", echo.port()).await.0, code, "{via} {rules}");
        }
        // A name that leads to what is blocked.
        let forwarder = start_ruled(via, &opened, "--block 127.0.0.0/8 --block ::1").await;
        assert_eq!(socks(forwarder, "localhost", echo.port()).await.0, 2, "{via}");
    }
    assert!(asked.iter().all(|asked| seen(asked).is_empty()), "{:?}", asked.map(|asked| seen(&asked)));
}

#[tokio::test]
async fn a_socket_in_the_namespace_leads_to_its_service() {
    let (vias, asked) = upstreams().await;
    // A server that speaks first, and an echo.
    let banner = server(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        stream.write_all(b"220 hello").await.unwrap();
    })
    .await;
    let echo = echo().await;
    for via in &vias {
        let opened = |service: std::net::SocketAddr| forwarder(via, &[&service.to_string()], Limits::default());
        let mut stream = TcpStream::connect(lead(opened(banner), banner).await).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "220 hello", "{via}");
        // What looks like a request to a proxy is none there.
        let at = lead(opened(echo), echo).await;
        for text in ["\x05\x01\x00", "CONNECT a.test:80 HTTP/1.1\r\n\r\n", "\x16\x03\x01"] {
            assert_eq!(say(at, text).await, text, "{via}");
        }
    }
    assert!(asked.iter().all(|asked| seen(asked).is_empty()), "{:?}", asked.map(|asked| seen(&asked)));
}

#[tokio::test]
async fn a_socket_in_the_namespace_is_reset_where_its_service_is_not_to_be_had() {
    let (echo, dead) = (echo().await, dead());
    let opened = |service: std::net::SocketAddr| forwarder("direct", &[&service.to_string()], Limits::default());
    let full = Limits { connections: 0, ..Limits::default() };
    for at in [
        lead(opened(dead), dead).await,
        // Not opened, whatever socket there is; and opened, but ruled out.
        lead(forwarder("direct", &[], Limits::default()), echo).await,
        lead(opened(echo).with_rules(rules(&format!("--block {echo}"))), echo).await,
        lead(opened(echo).with_rules(rules("--only a.test")), echo).await,
        lead(forwarder("direct", &[&echo.to_string()], full), echo).await,
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("no end");
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
