//! SOCKS4, SOCKS4a, and of SOCKS5 what is not a plain CONNECT.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::*;

/// Says `request` by SOCKS4 and returns the code of the answer.
async fn socks4(forwarder: SocketAddr, request: &[u8]) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut reply = [0; 8];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await.expect("no reply").unwrap();
    assert_eq!(reply[0], 0);
    (reply[1], stream)
}

/// Says `command` of SOCKS5 about `address` and returns everything that comes back, the greeting aside.
async fn command(forwarder: SocketAddr, command: u8, address: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(&[&[5, 1, 0, 5, command, 0], address, &[0, 0]].concat()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end").unwrap();
    assert_eq!(answer[..2], [5, 0]);
    answer[2..].to_vec()
}

fn name(name: &str) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

#[tokio::test]
async fn socks4_goes_to_addresses_and_socks4a_to_names() {
    let (upstream, log) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://{upstream}"), &[]).await;
    let (code, mut stream) = socks4(forwarder, b"\x04\x01\x00\x50\xc0\x00\x02\x07\x00").await;
    assert_eq!(code, 0x5a);
    assert!(echoes(&mut stream, "hello").await);
    let (code, mut stream) = socks4(forwarder, b"\x04\x01\x01\xbb\x00\x00\x00\x01me\x00Web.Test.\x00early").await;
    assert_eq!(code, 0x5a);
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early", "what stands behind the request belongs to the tunnel");
    assert_eq!(socks4(forwarder, b"\x04\x01\x00\x51\x00\x00\x00\xff\x00192.0.2.8\x00").await.0, 0x5a);
    assert_eq!(seen(&log), ["connect 192.0.2.7 80", "connect name web.test 443", "connect 192.0.2.8 81"]);
}

#[tokio::test]
async fn socks4_requests_are_judged_and_may_fail() {
    let (upstream, log) = socks5(None, 5).await;
    let forwarder = start(&format!("socks5://{upstream}"), &[]).await;
    for inside in [
        &b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"[..],
        b"\x04\x01\x00\x50\x00\x00\x00\x00\x00",
        b"\x04\x01\x00\x50\x00\x00\x01\x00\x00",
        b"\x04\x01\x00\x50\x0a\x00\x00\x01\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00localhost.\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x000x7f.1\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00::ffff:127.0.0.1\x00",
    ] {
        assert_eq!(socks4(forwarder, inside).await.0, 0x5b, "{inside:?}");
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
    // The upstream refuses this one.
    assert_eq!(socks4(forwarder, b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.test\x00").await.0, 0x5b);
    assert_eq!(seen(&log), ["connect name a.test 80"]);
}

#[tokio::test]
async fn a_tunnel_gets_what_stands_behind_its_request() {
    let (upstream, _) = socks5(None, 0).await;
    let forwarder = start(&format!("socks5://{upstream}"), &[]).await;
    // All at once, as clients do that save round trips; more than one buffer of it.
    let early = vec![b'e'; 3000];
    let request = [&b"\x05\x02\x00\x02\x01\x01u\x00\x05\x01\x00\x03\x06a.test\x00\x50"[..], &early].concat();
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut answer = vec![0; 4 + 10 + early.len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
    assert_eq!(answer[..6], [5, 2, 1, 0, 5, 0]);
    assert!(answer[14..] == early);
}

#[tokio::test]
async fn names_are_looked_up_where_they_are_resolved() {
    let forwarder = start("direct", &[]).await;
    // Whoever asks for the address of an address gets it, whatever its spelling.
    assert_eq!(command(forwarder, 0xf0, &name("192.0.2.7")).await, [5, 0, 0, 1, 192, 0, 2, 7, 0, 0]);
    assert_eq!(command(forwarder, 0xf0, &[1, 192, 0, 2, 7]).await, [5, 0, 0, 1, 192, 0, 2, 7, 0, 0]);
    let v6: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    let answer = [&[5, 0, 0, 4][..], &v6.octets(), &[0, 0]].concat();
    assert_eq!(command(forwarder, 0xf0, &name("[2001:db8::7]")).await, answer);
    // What may be connected to may be asked about, and its name.
    let open = start("direct", &["localhost"]).await;
    assert_eq!(command(open, 0xf0, &name("localhost")).await, [5, 0, 0, 1, 127, 0, 0, 1, 0, 0]);
    let answer = command(open, 0xf1, &[1, 127, 0, 0, 1]).await;
    let length = usize::from(answer[4]);
    assert_eq!(answer[..4], [5, 0, 0, 3]);
    assert_eq!((&answer[5..5 + length], &answer[5 + length..]), (&b"localhost"[..], &[0, 0][..]));
    // .invalid never resolves (RFC 6761).
    assert_eq!(command(forwarder, 0xf0, &name("appfw.invalid")).await[1], 4);
}

#[tokio::test]
async fn lookups_are_judged() {
    let (upstream, log) = socks5(None, 0).await;
    for via in ["direct".to_owned(), format!("socks5://{upstream}")] {
        let forwarder = start(&via, &["192.168.7.7:9"]).await;
        for inside in [name("localhost"), name("127.0.0.1"), name("0x7f.1"), vec![1, 10, 0, 0, 1]] {
            assert_eq!(command(forwarder, 0xf0, &inside).await[1], 2, "{via} {inside:?}");
        }
        for inside in [name("127.0.0.1"), vec![1, 127, 0, 0, 1], vec![1, 192, 168, 0, 1]] {
            assert_eq!(command(forwarder, 0xf1, &inside).await[1], 2, "{via} {inside:?}");
        }
        assert_eq!(command(forwarder, 0xf1, &name("a.test")).await[1], 8);
        assert_eq!(command(forwarder, 0xf0, &name("a b")).await[1], 1);
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
}

#[tokio::test]
async fn a_way_out_that_resolves_nothing_says_so() {
    let (proxy, heads) = http_proxy(None, "").await;
    let forwarder = start(&format!("http://{proxy}"), &[]).await;
    assert_eq!(command(forwarder, 0xf0, &name("a.test")).await[1], 7);
    assert_eq!(command(forwarder, 0xf1, &[1, 192, 0, 2, 7]).await[1], 7);
    assert!(seen(&heads).is_empty(), "{:?}", seen(&heads));
}
