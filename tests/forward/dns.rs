//! DNS over real sockets: what is answered, what is refused, and what a synthetic address leads to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use appfw::dns::Dns;
use appfw::forward::{Limits, serve, serve_datagrams, serve_streams};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::lab::*;

/// A forwarder with DNS: the addresses of its proxy and of its DNS.
async fn resolving(via: &str, allowed: &[&str], dns: &str) -> (SocketAddr, SocketAddr) {
    let forwarder = forwarder(via, allowed, Limits::default());
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    let forwarder = Arc::new(forwarder.with_dns(dns.parse::<Dns>().unwrap(), allowed).unwrap());
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let (datagrams, streams) = same_port().await;
    let address = streams.local_addr().unwrap();
    tokio::spawn(serve(proxy, Arc::clone(&forwarder), std::future::pending()));
    tokio::spawn(serve_datagrams(datagrams, Arc::clone(&forwarder)));
    tokio::spawn(serve_streams(streams, forwarder));
    (proxy_address, address)
}

async fn same_port() -> (UdpSocket, TcpListener) {
    for _ in 0..20 {
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()).await {
            return (datagrams, streams);
        }
    }
    panic!("no port is free for both");
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn client(dns: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_message(dns: SocketAddr, message: &Message) -> Message {
    let socket = client(dns).await;
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let answer = receive(&socket).await;
    assert_eq!((answer.id, answer.message_type), (message.id, MessageType::Response));
    answer
}

async fn ask(dns: SocketAddr, name: &str, kind: RecordType) -> Message {
    ask_message(dns, &query(name, kind)).await
}

async fn ask_by_tcp(dns: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(dns).await.unwrap();
    say_framed(&mut stream, &message.to_vec().unwrap()).await;
    hear_framed(&mut stream).await
}

async fn say_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await.unwrap();
}

async fn hear_framed(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.expect("no answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn address(answer: &Message) -> IpAddr {
    match answer.answers.iter().map(|record| &record.data).collect::<Vec<_>>()[..] {
        [RData::A(address)] => address.0.into(),
        [RData::AAAA(address)] => address.0.into(),
        _ => panic!("not one address: {answer}"),
    }
}

// Synthetic

#[tokio::test]
async fn a_synthetic_address_is_its_name_again_in_every_protocol() {
    let (upstream, log) = socks5(None, 0).await;
    let (proxy, dns) = resolving(&format!("socks5://{upstream}"), &[], "synthetic").await;
    let IpAddr::V4(v4) = address(&ask(dns, "Web.Test.", RecordType::A).await) else { panic!("no IPv4 address") };
    let IpAddr::V6(v6) = address(&ask(dns, "web.test.", RecordType::AAAA).await) else { panic!("no IPv6 address") };
    assert_eq!(&v4.octets()[..1], [198]);
    assert!([18, 19].contains(&v4.octets()[1]), "{v4}");
    assert_eq!(&v6.segments()[..4], [0xfd61, 0x7070, 0x6677, 0]);

    let mapped = v4.to_ipv6_mapped();
    let v4_raw = [&[1][..], &v4.octets()].concat();
    for raw in [v4_raw, [&[4][..], &v6.octets()].concat(), [&[4][..], &mapped.octets()].concat()] {
        let (code, mut stream) = socks_raw(proxy, &raw, 80).await;
        assert_eq!(code, 0);
        assert!(echoes(&mut stream, "hello").await);
    }
    assert_eq!(socks(proxy, &v4.to_string(), 81).await.0, 0);
    let mut tunnel = TcpStream::connect(proxy).await.unwrap();
    tunnel.write_all(format!("CONNECT [{v6}]:443 HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut granted = [0; 12];
    tunnel.read_exact(&mut granted).await.unwrap();
    assert_eq!(&granted, b"HTTP/1.1 200");
    let expected = ["name web.test 80"; 3].into_iter().chain(["name web.test 81", "name web.test 443"]);
    assert_eq!(seen(&log), expected.map(|asked| format!("connect {asked}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_plain_request_for_a_synthetic_address_says_the_name() {
    let (upstream, heads) = http_proxy(None, "").await;
    let (proxy, dns) = resolving(&format!("http://{upstream}"), &[], "synthetic").await;
    let address = address(&ask(dns, "abcdefghij.onion.", RecordType::A).await);
    let answer = say(proxy, format!("GET http://{address}/x HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    assert!(answer.ends_with("proxy"), "{answer}");
    let head = seen(&heads).concat();
    assert!(head.starts_with("GET http://abcdefghij.onion/x HTTP/1.1\r\nHost: abcdefghij.onion\r\n"), "{head}");
    assert!(!head.contains(&address.to_string()), "{head}");
}

#[tokio::test]
async fn a_synthetic_address_without_a_name_is_refused_and_never_dialled() {
    let (upstream, log) = socks5(None, 0).await;
    for via in [format!("socks5://{upstream}"), "direct".into()] {
        let (proxy, _) = resolving(&via, &["any"], "synthetic").await;
        for address in ["198.18.0.0", "198.18.7.7", "198.19.255.255", "::ffff:198.18.7.7", "fd61:7070:6677::9:9"] {
            assert_eq!(socks(proxy, address, 80).await.0, 4, "{via} {address}");
            let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
            for request in
                [format!("CONNECT {host}:80 HTTP/1.1\r\n\r\n"), format!("GET http://{host}/ HTTP/1.1\r\n\r\n")]
            {
                let answer = say(proxy, request).await;
                assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
                assert!(answer.contains("stands for no name (any more): resolve the name again"), "{answer}");
            }
        }
    }
    assert!(seen(&log).is_empty(), "{:?}", seen(&log));
    // Without synthetic answers the range is like any other.
    let proxy = start(&format!("socks5://{upstream}"), &[]).await;
    assert_eq!(socks(proxy, "198.18.7.7", 80).await.0, 0);
}

#[tokio::test]
async fn names_are_judged_when_they_are_asked_for() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &["box.internal:80", "*.localhost"], "synthetic").await;
    let node = rustix::system::uname().nodename().to_str().unwrap().to_ascii_lowercase();
    for refused in ["localhost.", "LocalHost.", "localhost.localdomain.", "ip6-localhost.", &format!("{node}."), "."] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::HTTPS] {
            let answer = ask(dns, refused, kind).await;
            assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::Refused, 0), "{refused}");
        }
    }
    for answered in ["x.localhost.", "box.internal.", "intranet.", "a_b.test."] {
        let answer = ask(dns, answered, RecordType::A).await;
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "{answered}");
    }
}

#[tokio::test]
async fn other_types_have_no_answer_and_what_is_no_question_for_us_says_so() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let others = [
        RecordType::HTTPS,
        RecordType::SVCB,
        RecordType::MX,
        RecordType::TXT,
        RecordType::SRV,
        RecordType::ANY,
        RecordType::PTR,
        RecordType::Unknown(4711),
    ];
    for kind in others {
        let answer = ask(dns, "web.test.", kind).await;
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert_eq!(ask(dns, "web.test.", RecordType::AXFR).await.response_code, ResponseCode::Refused);
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(ask_message(dns, &chaos).await.response_code, ResponseCode::Refused);
    let mut update = query("web.test.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask_message(dns, &update).await.response_code, ResponseCode::NotImp);
    let mut empty = query("web.test.", RecordType::A);
    empty.queries.clear();
    assert_eq!(ask_message(dns, &empty).await.response_code, ResponseCode::FormErr);
}

#[tokio::test]
async fn a_synthetic_address_tells_its_name() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    for kind in [RecordType::A, RecordType::AAAA] {
        let address = address(&ask(dns, "web.test.", kind).await);
        let reverse = Name::from(address).to_ascii();
        let answer = ask(dns, &reverse, RecordType::PTR).await;
        assert!(matches!(&answer.answers[..], [record] if record.data.to_string() == "web.test."), "{answer}");
        let other = ask(dns, &reverse, RecordType::TXT).await;
        assert_eq!((other.response_code, other.answers.len()), (ResponseCode::NoError, 0));
    }
    for unknown in ["0.0.18.198.in-addr.arpa.", "1.0.0.127.in-addr.arpa.", "9.9.9.9.in-addr.arpa.", "10.in-addr.arpa."]
    {
        assert_eq!(ask(dns, unknown, RecordType::PTR).await.response_code, ResponseCode::NXDomain, "{unknown}");
    }
}

// By TCP through the upstream

/// A resolver that writes questions down. `slow.test` it never answers, `lie.test` with another name,
/// `long.test` with 40 records, `nothing.test` by hanging up.
async fn resolver() -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |mut stream| {
        let log = Arc::clone(&log);
        async move {
            while let Ok(length) = stream.read_u16().await {
                let mut asked = vec![0; length.into()];
                if stream.read_exact(&mut asked).await.is_err() {
                    return;
                }
                let asked = Message::from_vec(&asked).unwrap();
                let question = asked.queries[0].clone();
                log.lock().unwrap().push(format!("{} {}", question.name, u16::from(question.query_type)));
                let mut answer = Message::response(asked.id, OpCode::Query);
                let owner = question.name.clone();
                answer.add_query(question.clone());
                match question.name.to_ascii().as_str() {
                    "slow.test." => std::future::pending().await,
                    "nothing.test." => return,
                    "lie.test." => answer.queries[0].name = Name::from_ascii("evil.test.").unwrap(),
                    "none.test." => answer.metadata.response_code = ResponseCode::NXDomain,
                    "long.test." => {
                        answer.add_answers((0..40).map(|number| {
                            let text = RData::TXT(TXT::new(vec![format!("{number} {}", "x".repeat(50))]));
                            Record::from_rdata(owner.clone(), 60, text)
                        }));
                    }
                    _ => {
                        answer.add_answer(Record::from_rdata(owner, 60, RData::A(A::new(203, 0, 113, 9))));
                    }
                }
                say_framed(&mut stream, &answer.to_vec().unwrap()).await;
            }
        }
    })
    .await;
    (address, kept)
}

/// A SOCKS5 upstream that leads everything to `target`.
async fn leading_to(target: SocketAddr) -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |mut stream| {
        let log = Arc::clone(&log);
        async move {
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            stream.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 10];
            stream.read_exact(&mut request).await.unwrap();
            log.lock().unwrap().push(format!("{request:?}"));
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut far = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
        }
    })
    .await;
    (address, kept)
}

#[tokio::test]
async fn every_type_goes_through_the_upstream_to_the_resolver_by_tcp() {
    let (resolver, questions) = resolver().await;
    let (upstream, requests) = leading_to(resolver).await;
    let (_, dns) = resolving(&format!("socks5://{upstream}"), &[], "tcp://192.0.2.53").await;
    let answer = ask(dns, "Web.test.", RecordType::A).await;
    assert_eq!(address(&answer), IpAddr::from(Ipv4Addr::new(203, 0, 113, 9)));
    for kind in [RecordType::HTTPS, RecordType::MX, RecordType::Unknown(4711)] {
        assert_eq!(ask(dns, "web.test.", kind).await.response_code, ResponseCode::NoError);
    }
    assert_eq!(ask(dns, "none.test.", RecordType::A).await.response_code, ResponseCode::NXDomain);
    assert_eq!(ask(dns, "4.4.0.9.in-addr.arpa.", RecordType::PTR).await.response_code, ResponseCode::NoError);
    let asked = ["Web.test. 1", "web.test. 65", "web.test. 15", "web.test. 4711", "none.test. 1"];
    assert_eq!(seen(&questions)[..5], asked);
    // A connection each, to the resolver's address.
    assert_eq!(seen(&requests), vec!["[5, 1, 0, 1, 192, 0, 2, 53, 0, 53]"; 6]);

    // What is inside is not asked of anybody outside.
    for inside in ["localhost.", "1.0.0.127.in-addr.arpa.", "7.0.0.10.in-addr.arpa.", "10.in-addr.arpa."] {
        assert_eq!(ask(dns, inside, RecordType::PTR).await.response_code, ResponseCode::Refused, "{inside}");
    }
    assert_eq!(seen(&requests).len(), 6);
}

#[tokio::test]
async fn a_long_answer_is_cut_for_udp_and_whole_by_tcp() {
    let (resolver, _) = resolver().await;
    let allowed = resolver.to_string();
    let (_, dns) = resolving("direct", &[&allowed], &format!("tcp://{resolver}")).await;
    let plain = query("long.test.", RecordType::TXT);
    let cut = ask_message(dns, &plain).await;
    assert!(cut.truncation && cut.answers.is_empty() && cut.to_vec().unwrap().len() <= 512, "{cut}");
    let mut roomy = plain.clone();
    roomy.set_edns(Edns::new());
    roomy.edns.as_mut().unwrap().set_max_payload(4096);
    let whole = ask_message(dns, &roomy).await;
    assert_eq!((whole.truncation, whole.answers.len()), (false, 40));
    let by_tcp = ask_by_tcp(dns, &plain).await;
    assert_eq!((by_tcp.truncation, by_tcp.answers.len()), (false, 40));
}

#[tokio::test]
async fn a_slow_answer_holds_up_no_other() {
    let (resolver, _) = resolver().await;
    let allowed = resolver.to_string();
    let (_, dns) = resolving("direct", &[&allowed], &format!("tcp://{resolver}")).await;
    let slow = query("slow.test.", RecordType::A).to_vec().unwrap();
    let started = Instant::now();
    let socket = client(dns).await;
    let mut stream = TcpStream::connect(dns).await.unwrap();
    for _ in 0..10 {
        socket.send(&slow).await.unwrap();
        say_framed(&mut stream, &slow).await;
    }
    socket.send(&query("web.test.", RecordType::A).to_vec().unwrap()).await.unwrap();
    assert_eq!(receive(&socket).await.answers.len(), 1);
    say_framed(&mut stream, &query("web.test.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(hear_framed(&mut stream).await.answers.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_resolver_that_fails_is_servfail() {
    let (resolver, _) = resolver().await;
    let allowed = resolver.to_string();
    let (_, dns) = resolving("direct", &[&allowed], &format!("tcp://{resolver}")).await;
    for name in ["nothing.test.", "lie.test."] {
        assert_eq!(ask(dns, name, RecordType::A).await.response_code, ResponseCode::ServFail, "{name}");
    }
    let dead = dead().await;
    for via in [format!("socks5://{dead}"), format!("http://{dead}")] {
        let (_, dns) = resolving(&via, &[], "tcp://192.0.2.53").await;
        assert_eq!(ask(dns, "web.test.", RecordType::A).await.response_code, ResponseCode::ServFail, "{via}");
    }
}

#[tokio::test]
async fn a_resolver_inside_is_asked_only_if_it_is_let_through() {
    let (resolver, questions) = resolver().await;
    let (upstream, log) = socks5(None, 0).await;
    for via in ["direct".to_owned(), format!("socks5://{upstream}")] {
        let (_, dns) = resolving(&via, &[], &format!("tcp://{resolver}")).await;
        assert_eq!(ask(dns, "web.test.", RecordType::A).await.response_code, ResponseCode::Refused, "{via}");
    }
    assert!(seen(&questions).is_empty() && seen(&log).is_empty());
}

// By the host's resolver

#[tokio::test]
async fn the_hosts_answers_are_judged_and_other_types_are_none() {
    // A name that every machine resolves, to an inside address.
    let (_, dns) = resolving("direct", &[], "host").await;
    assert_eq!(ask(dns, "localhost.", RecordType::A).await.response_code, ResponseCode::Refused);
    let (_, dns) = resolving("direct", &["localhost:80"], "host").await;
    assert_eq!(address(&ask(dns, "localhost.", RecordType::A).await), IpAddr::from(Ipv4Addr::LOCALHOST));
    let other = ask(dns, "localhost.", RecordType::HTTPS).await;
    assert_eq!((other.response_code, other.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(ask(dns, "8.8.8.8.in-addr.arpa.", RecordType::PTR).await.response_code, ResponseCode::NoError);
}

// Hostile input

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut state = 0x5eed_cafe_5eed_cafe;
    let good = query("a.name.of.some.length.test.", RecordType::A).to_vec().unwrap();
    let socket = client(dns).await;
    for round in 0..2000_usize {
        let mut bytes = if round % 2 == 0 { Vec::new() } else { good.clone() };
        for _ in 0..random(&mut state) % 60 {
            let byte = (random(&mut state) >> 32) as u8;
            match bytes.len() {
                length if round % 2 == 1 && length > 0 => {
                    let place = usize::try_from(random(&mut state) % 1000).unwrap() % length;
                    bytes[place] = byte;
                }
                _ => bytes.push(byte),
            }
        }
        socket.send(&bytes).await.unwrap();
        if round % 20 == 0 {
            let mut stream = TcpStream::connect(dns).await.unwrap();
            let _ = stream.write_all(&bytes).await;
        }
        if round % 200 == 0 {
            assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
        }
    }
    assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[tokio::test]
async fn responses_and_stumps_get_no_answer_and_long_queries_an_error() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let socket = client(dns).await;
    let mut response = query("web.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for silent in [response.to_vec().unwrap(), vec![], vec![0; 11]] {
        socket.send(&silent).await.unwrap();
    }
    let mut long = query("web.test.", RecordType::A).to_vec().unwrap();
    long.resize(5000, 0);
    socket.send(&long).await.unwrap();
    // The first answer is that to the last message.
    assert_eq!(receive(&socket).await.response_code, ResponseCode::FormErr);

    let mut stream = TcpStream::connect(dns).await.unwrap();
    let _ = stream.write_all(&[0xff, 0xff]).await;
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 8])).await.expect("kept open").unwrap_or(0), 0);
}

#[tokio::test]
async fn one_connection_takes_many_queries_and_its_end_loses_no_answer() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut stream = TcpStream::connect(dns).await.unwrap();
    for number in 0..100_u16 {
        let mut asked = query(&format!("n{number}.test."), RecordType::A);
        asked.metadata.id = number;
        say_framed(&mut stream, &asked.to_vec().unwrap()).await;
    }
    stream.shutdown().await.unwrap();
    let mut answered: Vec<u16> = Vec::new();
    for _ in 0..100 {
        answered.push(hear_framed(&mut stream).await.id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn connections_are_bounded_and_udp_is_served_meanwhile() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(TcpStream::connect(dns).await.unwrap());
    }
    let is_closed = |stream: &TcpStream| match stream.try_read(&mut [0]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    let started = Instant::now();
    let closed = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let closed = held.iter().filter(|stream| is_closed(stream)).count();
        if closed >= 32 || started.elapsed() > Duration::from_secs(5) {
            break closed;
        }
    };
    assert_eq!(closed, 32);
    assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
    drop(held);
    let started = Instant::now();
    loop {
        let mut stream = TcpStream::connect(dns).await.unwrap();
        say_framed(&mut stream, &query("web.test.", RecordType::A).to_vec().unwrap()).await;
        if stream.read_u16().await.is_ok() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "there is no room again");
    }
}
