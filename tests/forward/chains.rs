//! Chains of every kind of hop: each is told the next one's name, the last one the destination's.

use std::net::SocketAddr;
use std::sync::Arc;

use appfw::cli::Isolate;
use appfw::forward::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hops::*;
use crate::lab::*;

async fn start_chain(kinds: &'static str, end: SocketAddr) -> (SocketAddr, Seen) {
    let (specs, log) = chain(&hops(kinds), end).await;
    (run(forwarder(&specs, &[], Limits::default()).trusting(roots())).await, log)
}

#[tokio::test]
async fn names_reach_the_last_hop_and_no_other() {
    let echo = echo().await;
    for kinds in [
        "socks5",
        "+socks5",
        "socks4a",
        "+socks4a",
        "http",
        "+http",
        "https",
        "+https",
        "tor",
        "unix",
        "socks5 http",
        "+http socks4a",
        "+socks4a +socks5",
        "tor https",
        "https tor",
        "https +https",
        "unix https",
        "tor +http socks4a",
        "+socks5 https +socks4a",
        "https https https",
        "http +socks4a +https",
    ] {
        let (forwarder, log) = start_chain(kinds, echo).await;
        let (code, mut stream) = socks(forwarder, "Web.Test.", 80).await;
        assert_eq!(code, 0, "{kinds}");
        assert!(echoes(&mut stream, "hello").await, "{kinds}");
        let (code, mut by_address) = socks(forwarder, "192.0.2.7", 81).await;
        assert_eq!(code, 0, "{kinds}");
        assert!(echoes(&mut by_address, "hello").await, "{kinds}");

        let hops: Vec<_> = kinds.split(' ').map(|kind| kind.trim_start_matches('+')).collect();
        let seen = seen(&log);
        for (round, target) in seen.chunks(hops.len()).zip(["name web.test 80", "192.0.2.7 81"]) {
            let (last, middle) = round.split_last().unwrap();
            assert_eq!(last, &format!("{} {target}", hops[hops.len() - 1]), "{kinds}");
            for (index, asked) in middle.iter().enumerate() {
                let next = format!("{} name hop{}.test ", hops[index], index + 1);
                assert!(asked.starts_with(&next), "{kinds}: {asked}, not {next}");
            }
        }
        assert_eq!(seen.len(), 2 * hops.len(), "{kinds}: {seen:?}");
    }
}

#[tokio::test]
async fn plain_requests_are_absolute_for_a_last_hop_that_is_an_http_proxy() {
    let (origin, requests) = origin("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\norigin").await;
    for (kinds, asked, answered) in [
        ("+https", Some("https GET http://web.test/x HTTP/1.1"), "proxy"),
        ("socks5 http", Some("http GET http://web.test/x HTTP/1.1"), "proxy"),
        ("socks4a +https", Some("https GET http://web.test/x HTTP/1.1"), "proxy"),
        ("https socks5", None, "origin"),
        ("+http socks4a", None, "origin"),
    ] {
        let (forwarder, log) = start_chain(kinds, origin).await;
        let answer = say(forwarder, "GET http://web.test/x HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(answered), "{kinds}: {answer}");
        let last = seen(&log).last().unwrap().clone();
        match asked {
            Some(asked) => assert_eq!(last, asked, "{kinds}"),
            None => {
                assert!(last.ends_with("name web.test 80"), "{kinds}: {last}");
                assert!(seen(&requests).last().unwrap().starts_with("GET /x HTTP/1.1\r\nHost: web.test\r\n"));
            }
        }
    }
}

#[tokio::test]
async fn either_half_may_close_first_under_tls() {
    let patient = patient().await;
    let (hasty, heard) = hasty().await;
    for kinds in ["https", "https https"] {
        let (forwarder, _) = start_chain(kinds, patient).await;
        let (_, mut stream) = socks(forwarder, "a.test", 1).await;
        stream.write_all(&[7; 100_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "got 100000", "{kinds}");

        let (forwarder, _) = start_chain(kinds, hasty).await;
        let (_, mut stream) = socks(forwarder, "a.test", 1).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "bye", "{kinds}");
        stream.write_all(kinds.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        hears(&heard, kinds).await;
    }
}

#[tokio::test]
async fn megabytes_each_way_at_once_are_exact_under_tls_within_tls() {
    const SIZE: usize = 8_000_000;
    let byte = |index: usize| (index.wrapping_mul(2_654_435_761) >> 13) as u8;
    let (forwarder, _) = start_chain("https https", echo().await).await;
    let (code, stream) = socks(forwarder, "a.test", 1).await;
    assert_eq!(code, 0);
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        for begin in (0..SIZE).step_by(100_000) {
            let piece: Vec<u8> = (begin..begin + 100_000).map(byte).collect();
            writer.write_all(&piece).await.unwrap();
        }
        // Nothing more is said: what is under way must arrive by itself.
        writer
    });
    // The echo's pipes are full before anything is read here: back pressure, all the way round.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut all = vec![0; SIZE];
    tokio::time::timeout(PATIENCE, reader.read_exact(&mut all)).await.expect("bytes got stuck").unwrap();
    assert!(all.iter().enumerate().all(|(index, got)| *got == byte(index)));
    writing.await.unwrap().shutdown().await.unwrap();
    assert_eq!(reader.read(&mut all).await.unwrap(), 0);
}

#[tokio::test]
async fn a_tls_stream_that_is_cut_does_not_look_like_an_end() {
    let cutting = server(|stream| async move {
        let mut stream = accept_tls(stream).await.unwrap();
        let mut reader = tokio::io::BufReader::new(&mut stream);
        head(&mut reader).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
        stream.flush().await.unwrap();
        // The connection ends, but TLS was not told so.
        let (mut below, _) = stream.into_inner();
        below.shutdown().await.unwrap();
    })
    .await;
    let via = format!("https://{cutting}");
    let forwarder = run(forwarder(&via, &[], Limits::default()).trusting(roots())).await;
    let (code, mut stream) = socks(forwarder, "a.test", 1).await;
    assert_eq!(code, 0);
    let mut all = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn socks4a_carries_ipv4_addresses_and_says_that_it_cannot_carry_others() {
    let (forwarder, log) = start_chain("socks4a", echo().await).await;
    let v6: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    assert_eq!(socks_raw(forwarder, &[&[4][..], &v6.octets()].concat(), 83).await.0, 8);
    let answer = say(forwarder, "CONNECT [2001:db8::7]:83 HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("[2001:db8::7]:83 is an IPv6 address, which SOCKS4a cannot carry"), "{answer}");
    assert_eq!(socks_raw(forwarder, &[1, 192, 0, 2, 7], 81).await.0, 0);
    assert_eq!(seen(&log), ["socks4a 192.0.2.7 81"]);
}

/// What Tor was logged into with, by forwarders that divide circuits so, each asked for these hosts.
async fn circuits(isolate: Isolate, keys: &[Option<&str>], hosts: &[&str]) -> Vec<Vec<String>> {
    let (tor, log) = socks5(None, 0).await;
    let mut circuits = Vec::new();
    for key in keys {
        let forwarder = forwarder(&format!("tor://{tor}"), &[], Limits::default());
        let forwarder = run(forwarder.isolating(isolate, *key).unwrap()).await;
        for host in hosts {
            assert_eq!(socks(forwarder, host, 80).await.0, 0);
        }
        let logins = std::mem::take(&mut *log.lock().unwrap()).into_iter();
        circuits.push(logins.filter(|line| line.starts_with("login appfw-")).collect::<Vec<_>>());
        assert_eq!(circuits[circuits.len() - 1].len(), hosts.len());
    }
    circuits
}

#[tokio::test]
async fn circuits_are_shared_as_isolate_says() {
    let launch = circuits(Isolate::Launch, &[None, None], &["a.onion", "b.onion"]).await;
    assert_eq!(launch[0][0], launch[0][1]);
    assert_ne!(launch[0][0], launch[1][0]);

    let profile = circuits(Isolate::Profile, &[Some("0/web"), Some("0/web"), Some("1/web"), None], &["a.onion"]).await;
    assert_eq!(profile[0], profile[1]);
    assert!(profile[0] != profile[2] && profile[0] != profile[3]);

    let destination = circuits(Isolate::Destination, &[None, None], &["a.onion", "b.onion", "A.onion"]).await;
    assert_ne!(destination[0][0], destination[0][1]);
    assert_eq!(destination[0][0], destination[0][2]);
    assert_ne!(destination[0][0], destination[1][0]);
}

#[tokio::test]
async fn tor_in_the_middle_is_isolated_by_what_lies_at_the_end() {
    let (last, _) = socks5(None, 0).await;
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let tor = server(move |mut stream: TcpStream| {
        let log = Arc::clone(&log);
        async move {
            let (given, target) = socks5_request(&mut stream, None).await.unwrap().unwrap();
            log.lock().unwrap().push(format!("{} for {target}", given.unwrap()));
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut there = TcpStream::connect(last).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let forwarder = forwarder(&format!("tor://{tor}\nsocks5://last.test"), &[], Limits::default());
    let forwarder = run(forwarder.isolating(Isolate::Destination, None).unwrap()).await;
    for host in ["a.test", "b.test", "a.test"] {
        assert_eq!(socks(forwarder, host, 80).await.0, 0);
    }
    let seen = seen(&kept);
    assert!(seen.iter().all(|line| line.ends_with(" for name last.test 1080")), "{seen:?}");
    assert!(seen[0] != seen[1] && seen[0] == seen[2], "{seen:?}");
}
