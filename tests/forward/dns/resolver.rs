//! Queries that somebody else answers: a resolver by TCP, the host's.

use super::*;

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
                    "inside.test." => {
                        answer.add_answer(Record::from_rdata(owner, 60, RData::A(A::new(10, 0, 0, 7))));
                    }
                    "mixed.test." => {
                        for found in [A::new(10, 0, 0, 8), A::new(203, 0, 113, 9)] {
                            answer.add_answer(Record::from_rdata(owner.clone(), 60, RData::A(found)));
                        }
                    }
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
    // Nor is what only Tor finds.
    for onion in ["abcdefghij.onion.", "www.Abcdefghij.Onion."] {
        for kind in [RecordType::A, RecordType::HTTPS] {
            assert_eq!(ask(dns, onion, kind).await.response_code, ResponseCode::NXDomain, "{onion}");
        }
    }
    assert_eq!(seen(&requests).len(), 6);
}

#[tokio::test]
async fn no_resolver_is_asked_about_this_hosts_loopback() {
    let (resolver, _) = resolver().await;
    let (upstream, requests) = leading_to(resolver).await;
    let (_, dns) = resolving(&format!("socks5://{upstream}"), &["localhost"], "tcp://192.0.2.53").await;
    assert_eq!(address(&ask(dns, "LocalHost.", RecordType::A).await), IpAddr::from(Ipv4Addr::LOCALHOST));
    assert_eq!(address(&ask(dns, "db.localhost.", RecordType::AAAA).await), IpAddr::from(Ipv6Addr::LOCALHOST));
    let pointer = ask(dns, "1.0.0.127.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(pointer.answers[0].data.to_string(), "localhost.");
    let none = ask(dns, "localhost.", RecordType::MX).await;
    assert_eq!((none.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    assert!(seen(&requests).is_empty(), "{:?}", seen(&requests));
}

#[tokio::test]
async fn addresses_inside_are_taken_out_of_a_resolvers_answer() {
    let (resolver, _) = resolver().await;
    let (upstream, _) = leading_to(resolver).await;
    for via in [format!("socks5://{upstream}"), "direct".to_owned()] {
        let allowed = resolver.to_string();
        let (_, dns) = resolving(&via, &[&allowed], &format!("tcp://{resolver}")).await;
        let inside = ask(dns, "inside.test.", RecordType::A).await;
        assert_eq!((inside.response_code, inside.answers.len()), (ResponseCode::Refused, 0));
        let outside = IpAddr::from(Ipv4Addr::new(203, 0, 113, 9));
        assert_eq!(address(&ask(dns, "mixed.test.", RecordType::A).await), outside);
        // Addresses behind another question's back.
        assert_eq!(ask(dns, "mixed.test.", RecordType::HTTPS).await.answers.len(), 0);

        let (_, dns) = resolving(&via, &[&allowed, "10.0.0.7:80", "10.0.0.8:80"], &format!("tcp://{resolver}")).await;
        assert_eq!(address(&ask(dns, "inside.test.", RecordType::A).await), IpAddr::from([10, 0, 0, 7]));
        assert_eq!(ask(dns, "mixed.test.", RecordType::A).await.answers.len(), 2);
    }
}

#[tokio::test]
async fn hundreds_of_slow_answers_hold_up_no_other() {
    let (resolver, _) = resolver().await;
    let allowed = resolver.to_string();
    let (_, dns) = resolving("direct", &[&allowed], &format!("tcp://{resolver}")).await;
    let slow = query("slow.test.", RecordType::A).to_vec().unwrap();
    let mut held = Vec::new();
    for _ in 0..25 {
        let mut stream = TcpStream::connect(dns).await.unwrap();
        for _ in 0..16 {
            say_framed(&mut stream, &slow).await;
        }
        held.push(stream);
    }
    let started = Instant::now();
    assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
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
    let dead = dead();
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

#[tokio::test]
async fn too_many_queries_are_told_so_at_once() {
    let (resolver, _) = resolver().await;
    let allowed = resolver.to_string();
    let (_, dns) = resolving("direct", &[&allowed], &format!("tcp://{resolver}")).await;
    let slow = query("slow.test.", RecordType::A).to_vec().unwrap();
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(dns).await.unwrap();
        for _ in 0..16 {
            say_framed(&mut stream, &slow).await;
        }
        held.push(stream);
    }
    let socket = client(dns).await;
    let started = Instant::now();
    // Long before any of them runs out of time.
    let answer = loop {
        socket.send(&query("web.test.", RecordType::A).to_vec().unwrap()).await.unwrap();
        if let Ok(answer) = timeout(Duration::from_millis(100), receive(&socket)).await {
            break answer;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "no answer");
    };
    assert_eq!(answer.response_code, ResponseCode::ServFail);
}
