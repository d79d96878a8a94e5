//! Through a SOCKS5 upstream, or not at all.

use appfw::dns::Dns;
use appfw::forward::serve_datagrams;

use super::*;

/// How a fake upstream takes an ASSOCIATE.
#[derive(Clone, Copy)]
pub struct Manner {
    pub login: Option<(&'static str, &'static str)>,
    pub code: u8,
    /// Where it says that it takes datagrams; by itself, at its own address.
    pub bound: Option<[u8; 4]>,
    /// What its answers are from: this address, or the name that was asked for.
    pub from: Option<[u8; 4]>,
}

pub const GOOD: Manner = Manner { login: None, code: 0, bound: None, from: Some([192, 0, 2, 7]) };

/// A SOCKS5 server that echoes datagrams as if each destination did, or whatever address they ask for, and writes
/// down what it sees.
pub async fn udp_upstream(manner: Manner) -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |stream| {
        let log = Arc::clone(&log);
        async move {
            let _ = association(stream, manner, &log).await;
        }
    })
    .await;
    (address, kept)
}

async fn association(mut stream: TcpStream, manner: Manner, log: &Seen) -> std::io::Result<()> {
    let note = |line: String| log.lock().unwrap().push(line);
    let Some((given, target)) = socks5_request(&mut stream, manner.login).await? else { return Ok(()) };
    given.into_iter().for_each(|given| note(format!("login {given}")));
    note(format!("associate {target}"));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let bound = manner.bound.unwrap_or([127, 0, 0, 1]);
    let port = socket.local_addr()?.port().to_be_bytes();
    stream.write_all(&[&[5, manner.code, 0, 1], &bound[..], &port].concat()).await?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => received?,
            _ = stream.read_u8() => {
                note("ended".into());
                return Ok(());
            }
        };
        let datagram = &buffer[..length];
        assert_eq!(datagram[..3], [0, 0, 0]);
        let (host, rest) = match datagram[3] {
            1 => (format!("{:?}", &datagram[4..8]), &datagram[8..]),
            3 => {
                let end = 5 + usize::from(datagram[4]);
                (String::from_utf8_lossy(&datagram[5..end]).into_owned(), &datagram[end..])
            }
            4 => (format!("{:?}", &datagram[4..20]), &datagram[20..]),
            other => panic!("{other}"),
        };
        let payload = String::from_utf8_lossy(&rest[2..]).into_owned();
        if payload == "end" {
            return Ok(());
        }
        note(format!("{host} {} {payload}", u16::from_be_bytes([rest[0], rest[1]])));
        if payload == "talk" {
            stream.write_all(b"x").await?;
        }
        let wanted = payload.strip_prefix("from ").map(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
        let from = match wanted.or(manner.from) {
            Some(ip) => [&[1][..], &ip].concat(),
            None => datagram[3..length - rest.len()].to_vec(),
        };
        socket.send_to(&[&[0, 0, 0], &from[..], rest].concat(), client).await?;
    }
}

#[tokio::test]
async fn names_go_to_the_upstream_as_names() {
    let (upstream, log) = udp_upstream(Manner { login: Some(("me", "p@ss")), ..GOOD }).await;
    let client = Client::new(start_udp(&format!("socks5://me:p%40ss@{upstream}"), &[]).await).await;
    let from = ip("192.0.2.7:53".parse().unwrap());
    client.send(&name("Web.Test.", 53), "hello").await;
    assert_eq!(client.receive().await, (from.clone(), "hello".into()));
    client.send(&from, "address").await;
    assert_eq!(client.receive().await, (from.clone(), "address".into()));
    client.send(&name("192.0.2.7", 53), "written").await;
    assert_eq!(client.receive().await, (from, "written".into()));
    let expected = ["login me p@ss", "associate 0.0.0.0 0", "web.test 53 hello"].map(str::to_owned);
    let expected = [&expected[..], &["address", "written"].map(|word| format!("[192, 0, 2, 7] 53 {word}"))].concat();
    assert_eq!(seen(&log), expected);
    drop(client.control);
    let started = std::time::Instant::now();
    while seen(&log).last().map(String::as_str) != Some("ended") {
        assert!(started.elapsed() < PATIENCE, "the upstream's association is kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_datagram_that_is_too_long_is_lost_and_the_next_one_is_not() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    // Normalised, the name is longer than it was, and the datagram longer than one can be.
    let name = name("\u{fc}\u{fc}\u{fc}.test", 53);
    client.send(&name, &"x".repeat(65_507 - 3 - name.len())).await;
    client.send(&name, "next").await;
    assert_eq!(client.receive().await.1, "next");
    assert_eq!(seen(&log), ["associate 0.0.0.0 0", "xn--tdaaa.test 53 next"]);
}

#[tokio::test]
async fn a_name_is_answered_from_one_place_and_from_none_inside() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    let name = name("a.test", 53);
    for inside in ["10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1"] {
        client.send(&name, &format!("from {inside}")).await;
    }
    for round in 0..2 {
        client.send(&name, "genuine").await;
        let genuine = (ip("192.0.2.7:53".parse().unwrap()), "genuine".into());
        assert_eq!(client.receive().await, genuine, "round {round}");
        client.send(&name, "from 203.0.113.66").await;
    }
    client.send(&name, "last").await;
    assert_eq!(client.receive().await.1, "last");
    assert_eq!(seen(&log).len(), 1 + 4 + 4 + 1);
}

#[tokio::test]
async fn who_speaks_on_the_connection_ends_its_association() {
    let (upstream, _) = udp_upstream(GOOD).await;
    let forwarder = start_udp(&format!("socks5://{upstream}"), &[]).await;
    let mut client = Client::new(forwarder).await;
    client.send(&name("a.test", 53), "talk").await;
    assert!(is_ended(&mut client).await, "the upstream's");
    let mut client = Client::new(forwarder).await;
    client.control.write_all(b"x").await.unwrap();
    assert!(is_ended(&mut client).await, "the client's");
}

#[tokio::test]
async fn what_an_upstream_calls_by_name_keeps_it() {
    let (upstream, _) = udp_upstream(Manner { from: None, ..GOOD }).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    client.send(&name("Web.Test", 53), "hello").await;
    assert_eq!(client.receive().await, (name("web.test", 53), "hello".into()));
}

#[tokio::test]
async fn an_address_that_stands_for_a_name_answers_as_itself() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let synthetic = forwarder(&format!("socks5://{upstream}"), &[], Limits::default());
    let synthetic = synthetic.with_dns(Dns::Synthetic, vec![]).unwrap();
    let ((listener, relay), dns) = (on_both().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (proxy, resolver) = (relay.local_addr().unwrap(), dns.local_addr().unwrap());
    let synthetic = Arc::new(synthetic.with_relay(relay).unwrap());
    tokio::spawn(serve_datagrams(dns, Arc::clone(&synthetic)));
    tokio::spawn(appfw::forward::serve_relay(Arc::clone(&synthetic)));
    tokio::spawn(appfw::forward::serve(listener, synthetic, std::future::pending()));

    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x04test\0\0\x01\0\x01";
    let client = Client::new(proxy).await;
    client.socket.send_to(question, resolver).await.unwrap();
    let mut answer = [0; 512];
    let (length, _) = timeout(PATIENCE, client.socket.recv_from(&mut answer)).await.expect("no answer").unwrap();
    let address: [u8; 4] = answer[length - 4..length].try_into().unwrap();
    assert_eq!(address[0], 198);
    let at = ip(SocketAddr::from((address, 443)));
    client.send(&at, "from 198.18.0.99").await;
    client.send(&at, "hello").await;
    assert_eq!(client.receive().await, (at, "hello".into()));
    // One that stands for nothing leads nowhere.
    client.send(&ip("198.19.255.254:443".parse().unwrap()), "nothing").await;
    client.send(&ip("192.0.2.7:1".parse().unwrap()), "last").await;
    client.receive().await;
    let hello = ["web.test 443 from 198.18.0.99", "web.test 443 hello"];
    assert_eq!(seen(&log), ["associate 0.0.0.0 0", hello[0], hello[1], "[192, 0, 2, 7] 1 last"]);
}

#[tokio::test]
async fn inside_goes_to_no_upstream_and_answers_come_from_where_it_was_sent() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    for spelling in crate::refusals::INSIDE {
        client.send(&name(spelling, 53), spelling).await;
    }
    // Its answer says that it is from 192.0.2.7, where nothing was sent to.
    client.send(&ip("192.0.2.8:53".parse().unwrap()), "elsewhere").await;
    client.send(&ip("192.0.2.7:54".parse().unwrap()), "good").await;
    assert_eq!(client.receive().await, (ip("192.0.2.7:54".parse().unwrap()), "good".into()));
    assert_eq!(seen(&log), ["associate 0.0.0.0 0", "[192, 0, 2, 8] 53 elsewhere", "[192, 0, 2, 7] 54 good"]);
}

#[tokio::test]
async fn what_is_opened_on_the_loopback_is_no_upstreams() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &["localhost", "10.0.0.1"]).await).await;
    for host in ["127.0.0.1", "localhost", "db.localhost", "::1", "::ffff:127.0.0.1"] {
        client.send(&name(host, 53), host).await;
    }
    client.send(&ip("10.0.0.1:53".parse().unwrap()), "elsewhere").await;
    client.send(&ip("192.0.2.7:54".parse().unwrap()), "good").await;
    assert_eq!(client.receive().await, (ip("192.0.2.7:54".parse().unwrap()), "good".into()));
    assert_eq!(seen(&log), ["associate 0.0.0.0 0", "[10, 0, 0, 1] 53 elsewhere", "[192, 0, 2, 7] 54 good"]);
}

#[tokio::test]
async fn an_upstream_that_carries_no_udp_is_passed_on_and_nothing_goes_direct() {
    let (echo, heard) = udp_echo().await;
    for (code, told) in [(1, 1), (2, 2), (7, 7), (0xf0, 1)] {
        let (upstream, log) = udp_upstream(Manner { code, ..GOOD }).await;
        let forwarder = start_udp(&format!("socks5://{upstream}"), &["127.0.0.1"]).await;
        assert_eq!(asked(forwarder, ANY_SOURCE).await.unwrap_err(), told);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&[&[0, 0, 0], &ip(echo)[..], b"direct"].concat(), forwarder).await.unwrap();
        assert_eq!(seen(&log)[0], "associate 0.0.0.0 0");
        assert!(seen(&log)[1..].iter().all(|line| line == "ended"));
    }
    let gone = dead();
    assert_eq!(asked(start_udp(&format!("socks5://{gone}"), &[]).await, ANY_SOURCE).await.unwrap_err(), 1);
    assert!(payloads(&heard).is_empty());
}

#[tokio::test]
async fn an_upstream_that_takes_datagrams_elsewhere_is_not_followed() {
    for bound in [[127, 0, 0, 2], [10, 0, 0, 1], [192, 0, 2, 1]] {
        let (upstream, _) = udp_upstream(Manner { bound: Some(bound), ..GOOD }).await;
        let forwarder = start_udp(&format!("socks5://{upstream}"), &["127.0.0.1"]).await;
        assert_eq!(asked(forwarder, ANY_SOURCE).await.unwrap_err(), 1, "{bound:?}");
    }
    // 0.0.0.0 is wherever it is itself.
    let (upstream, _) = udp_upstream(Manner { bound: Some([0; 4]), ..GOOD }).await;
    let client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    client.send(&name("a.test", 53), "hello").await;
    assert_eq!(client.receive().await.1, "hello");
}

#[tokio::test]
async fn an_upstream_that_ends_ends_the_association() {
    let (upstream, _) = udp_upstream(GOOD).await;
    let mut client = Client::new(start_udp(&format!("socks5://{upstream}"), &[]).await).await;
    client.send(&name("a.test", 53), "end").await;
    assert!(is_ended(&mut client).await);
}

#[tokio::test]
async fn ways_that_carry_no_udp_refuse_it() {
    let (upstream, log) = udp_upstream(GOOD).await;
    let (proxy, heads) = http_proxy(None, "").await;
    for via in [
        format!("tor://{upstream}"),
        format!("socks4a://{upstream}"),
        format!("http://{proxy}"),
        format!("socks5://{upstream}\nsocks5://{upstream}"),
        format!("tor://{upstream}\nsocks5://{upstream}"),
        "unix:/run/none".into(),
    ] {
        assert_eq!(asked(start_udp(&via, &[]).await, ANY_SOURCE).await.unwrap_err(), 7, "{via}");
    }
    assert!(seen(&log).is_empty() && seen(&heads).is_empty(), "{:?} {:?}", seen(&log), seen(&heads));
}

#[tokio::test]
async fn a_client_that_breaks_off_leaves_its_place_while_the_upstream_is_asked() {
    for resets in [true, false] {
        let asked_for = Arc::new(tokio::sync::Notify::new());
        let (told, is_first) = (Arc::clone(&asked_for), Arc::new(Mutex::new(true)));
        let upstream = server(move |mut stream| {
            let (told, is_first) = (Arc::clone(&told), std::mem::take(&mut *is_first.lock().unwrap()));
            async move {
                if !is_first {
                    return drop(association(stream, GOOD, &Seen::default()).await);
                }
                // One that never answers.
                socks5_request(&mut stream, None).await.unwrap();
                told.notify_one();
                std::future::pending().await
            }
        })
        .await;
        let limits = Limits { associations: 1, ..Limits::default() };
        let forwarder = run_with_relay(forwarder(&format!("socks5://{upstream}"), &[], limits)).await;
        let mut control = TcpStream::connect(forwarder).await.unwrap();
        control.write_all(&[&[5, 1, 0, 5, 3, 0], ANY_SOURCE].concat()).await.unwrap();
        asked_for.notified().await;
        if resets {
            control.set_zero_linger().unwrap();
        }
        drop(control);
        let started = std::time::Instant::now();
        while asked(forwarder, ANY_SOURCE).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the place is kept, by a reset: {resets}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
