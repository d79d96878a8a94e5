//! Upstreams that are dead, silent, wrong or not who they say: a failure that names the hop, in time,
//! and nothing that goes another way.

use std::io::{BufRead, BufReader as StdBufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use appfw::forward::{Limits, Report, Reporter};
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hops::*;
use crate::lab::*;

/// Time for what is on this machine and answers, even if it is busy; each hang costs it.
const SHORT: Duration = Duration::from_millis(600);

fn short() -> Limits {
    Limits { connect: SHORT, answer: SHORT, ..Limits::default() }
}

/// What comes of a request by `specs`: the reply code, and what the launcher is told of the upstream.
async fn attempt(specs: &str, limits: Limits, roots: RootCertStore) -> (u8, String) {
    let (origin, requests) = origin("HTTP/1.1 200 OK\r\n\r\n").await;
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let forwarder = forwarder(specs, &[UNSPECIFIED], limits).trusting(roots);
    let forwarder = run(forwarder.with_reporter(Reporter::to(ours).unwrap().into())).await;
    let (code, _) = socks(forwarder, UNSPECIFIED, origin.port()).await;
    theirs.set_nonblocking(true).unwrap();
    let lines = StdBufReader::new(theirs).lines().map_while(Result::ok);
    let mut reports: Vec<Report> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(seen(&requests).is_empty(), "{specs}: something went direct: {:?}", seen(&requests));
    match reports.pop() {
        Some(Report::UpstreamFailed { message }) => {
            for secret in ["me:", "p@", "p%40", "hunter2"] {
                assert!(!message.contains(secret), "{message}");
            }
            (code, message)
        }
        report => panic!("{specs}: the upstream is not blamed: {report:?}"),
    }
}

/// Upstreams that fail, and what is said of them: the reply code, and a phrase.
struct Broken {
    address: SocketAddr,
    code: u8,
    phrase: &'static str,
}

async fn broken(scheme: &str) -> Vec<Broken> {
    let silent = server(|stream| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let nonsense = server(|mut stream| async move {
        let _ = stream.write_all(&[b'x'; 100_000]).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let closing = server(|_| async {}).await;
    let speaks = match scheme {
        "socks5" | "tor" => "does not speak SOCKS5",
        "socks4a" => "does not speak SOCKS4a",
        "https" => "does not speak TLS",
        _ => "sent too large a head",
    };
    vec![
        Broken { address: silent, code: 6, phrase: "timed out" },
        Broken { address: nonsense, code: 1, phrase: speaks },
        Broken { address: closing, code: 1, phrase: "closed the connection" },
    ]
}

#[tokio::test]
async fn a_first_hop_that_fails_is_named() {
    for scheme in ["socks5", "socks4a", "http", "https", "tor"] {
        let dead = Broken { address: dead(), code: 1, phrase: "cannot be reached" };
        for Broken { address, code, phrase } in broken(scheme).await.into_iter().chain([dead]) {
            let started = Instant::now();
            let (told, message) = attempt(&format!("{scheme}://{address}"), short(), roots()).await;
            assert_eq!(told, code, "{scheme} {message}");
            assert!(message.contains(&address.to_string()) && message.contains(phrase), "{scheme} {message}");
            assert!(started.elapsed() < SHORT * 4, "{scheme} {message}: {:?}", started.elapsed());
        }
    }
}

#[tokio::test]
async fn a_later_hop_that_fails_is_named() {
    let mut cases = Vec::new();
    for (before, scheme) in [
        ("socks5", "http"),
        ("socks4a", "https"),
        ("+http", "socks5"),
        ("https", "socks4a"),
        ("https", "https"),
        ("+socks5 http", "tor"),
    ] {
        let dead = Broken { address: dead(), code: 1, phrase: "did not connect to broken.test:7" };
        for broken in broken(scheme).await.into_iter().chain([dead]) {
            cases.push((before, scheme, broken));
        }
    }
    for (before, scheme, Broken { address, code, phrase }) in cases {
        // One more behind it, which must never hear of anything; and it alone, as the last one.
        for behind in ["", "\nsocks5://beyond.test"] {
            let (specs, log) = chain(&hops(before), address).await;
            let specs = format!("{specs}\n{scheme}://broken.test:7{behind}");
            let started = Instant::now();
            let (told, message) = attempt(&specs, short(), roots()).await;
            assert_eq!(told, code, "{specs} {message}");
            assert!(message.contains("broken.test:7"), "{specs} {message}");
            // Where its first words come with the answer of the hop before, they betray it already.
            let early = phrase != "timed out" && message.contains("spoke before it was asked");
            assert!(message.contains(phrase) || early, "{specs} {message}");
            assert!(started.elapsed() < SHORT * 4, "{specs} {message}: {:?}", started.elapsed());
            assert_eq!(seen(&log).len(), before.split(' ').count());
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_hops_that_refuses_it() {
    let end = echo().await;
    for (before, kind, phrase) in [
        ("", "+socks5", "refused our user and password"),
        ("", "+socks4a", "refused our user id"),
        ("", "+http", "wants another user and password"),
        ("", "+https", "wants another user and password"),
        ("https", "+socks5", "refused our user and password"),
        ("+socks5", "+http", "wants another user and password"),
        ("http +socks5", "+socks4a", "refused our user id"),
    ] {
        let hop = hops(kind)[0];
        let strict = upstream(hop, end, Seen::default()).await;
        let specs = match before {
            "" => String::new(),
            before => chain(&hops(before), strict).await.0 + "\n",
        };
        let host = if before.is_empty() { strict.ip().to_string() } else { "hop1.test".into() };
        let place = format!("{host}:{}", strict.port());
        let login = if kind == "+socks4a" { "hunter2" } else { "me:hunter2" };
        let (code, message) = attempt(&format!("{specs}{}://{login}@{place}", hop.kind), short(), roots()).await;
        assert_eq!(code, 1, "{kind} {message}");
        assert!(message.contains(&place) && message.contains(phrase), "{kind} {message}");
    }
}

#[tokio::test]
async fn an_http_hop_that_gives_a_plain_request_no_answer_is_named() {
    let mut cases: Vec<_> = broken("http").await.into_iter().filter(|broken| broken.phrase != "timed out").collect();
    let (refusing, _) = http_proxy(Some("me:pw"), "").await;
    cases.push(Broken { address: refusing, code: 1, phrase: "wants another user and password" });
    for Broken { address, phrase, .. } in cases {
        for before in ["", "socks5", "https socks4a"] {
            let (specs, named) = match before {
                "" => (format!("http://{address}"), address.to_string()),
                _ => (chain(&hops(before), address).await.0 + "\nhttp://broken.test:7", "broken.test:7".to_owned()),
            };
            let (ours, theirs) = StdUnixStream::pair().unwrap();
            let forwarder = forwarder(&specs, &[], short()).trusting(roots());
            let forwarder = run(forwarder.with_reporter(Reporter::to(ours).unwrap().into())).await;
            let answer = say(forwarder, "GET http://a.test/ HTTP/1.1\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(&named), "{specs}: {answer}");
            assert!(answer.contains(phrase), "{specs}: {answer}");
            if phrase.contains("password") {
                // In the same words as for a tunnel.
                assert!(answer.ends_with(&format!("appfw: the HTTP upstream {named} {phrase}\n")), "{specs}: {answer}");
            }
            theirs.set_nonblocking(true).unwrap();
            let reports: Vec<_> = StdBufReader::new(theirs).lines().map_while(Result::ok).collect();
            let blamed = reports.iter().filter(|line| line.contains("upstream-failed") && line.contains(&named));
            assert_eq!(blamed.count(), 1, "{specs}: {reports:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_is_for_the_right_name_and_by_somebody_trusted() {
    let end = echo().await;
    for (host, roots) in [("127.0.0.1", RootCertStore::empty()), ("localhost", roots())] {
        let log = Seen::default();
        let https = upstream(hops("https")[0], end, log.clone()).await;
        let (code, message) = attempt(&format!("https://{host}:{}", https.port()), short(), roots).await;
        assert_eq!(code, 1, "{message}");
        let expected = format!("{host}:{} has a certificate that cannot be trusted", https.port());
        assert!(message.contains(&expected) && seen(&log).is_empty(), "{message}");
    }
    // By name behind another hop, where nothing but the name is known.
    let log = Seen::default();
    let https = upstream(hops("https")[0], end, log.clone()).await;
    let (before, _) = chain(&hops("socks5"), https).await;
    let (_, message) = attempt(&format!("{before}\nhttps://elsewhere.test"), short(), roots()).await;
    assert!(message.contains("elsewhere.test:443 has a certificate that cannot be trusted"), "{message}");
    assert!(seen(&log).is_empty(), "the request went to somebody else: {:?}", seen(&log));
}

#[tokio::test]
async fn the_whole_way_is_bounded_too() {
    let silent = server(|stream| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let (specs, _) = chain(&hops("socks5 http"), silent).await;
    let limits = Limits { way: SHORT, ..Limits::default() };
    let started = Instant::now();
    let (code, message) = attempt(&format!("{specs}\nsocks5://hop2.test:9"), limits, roots()).await;
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("the upstream hop2.test:9 timed out"), "{message}");
    assert!(started.elapsed() < SHORT * 4, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_destination_that_fails_is_not_the_last_hops_fault() {
    let (specs, _) = chain(&hops("https socks5"), dead()).await;
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let forwarder = forwarder(&specs, &[], short()).trusting(roots());
    let forwarder = run(forwarder.with_reporter(Reporter::to(ours).unwrap().into())).await;
    assert_eq!(socks(forwarder, "a.test", 1).await.0, 5);
    theirs.set_nonblocking(true).unwrap();
    let reports: Vec<_> = StdBufReader::new(theirs).lines().map_while(Result::ok).collect();
    assert_eq!(reports, [r#"{"event":"request"}"#]);
}
