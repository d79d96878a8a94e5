//! Addresses that stand for names.

use super::*;

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
