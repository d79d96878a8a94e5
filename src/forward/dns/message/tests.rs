use hickory_proto::rr::rdata::{A, NULL, TXT};
use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // Not parsed, as Name::from_ascii takes less than can come.
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    message.add_query(Query::query(Name::from_labels(labels).unwrap(), kind));
    message
}

fn question(message: &Message) -> Question {
    Question::read(&message.to_vec().unwrap()).unwrap()
}

fn with_edns(mut message: Message, bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(bytes).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn read(bytes: Option<Vec<u8>>) -> Message {
    Message::from_vec(&bytes.expect("no answer")).unwrap()
}

#[test]
fn what_a_question_is_about() {
    let name = |text: &str| Subject::Name(text.into());
    let address = |text: &str| Subject::Address(text.parse().unwrap());
    for (asked, subject) in [
        ("Web.TEST.", name("web.test")),
        ("_443._tcp.web.test.", name("_443._tcp.web.test")),
        ("xn--bcher-kva.test.", name("xn--bcher-kva.test")),
        ("abcdef.onion.", name("abcdef.onion")),
        ("web.", name("web")),
        (".", Subject::NoHost),
        ("*.web.test.", Subject::NoHost),
        ("a b.test.", Subject::NoHost),
        ("a\\b.test.", Subject::NoHost),
        ("127.0.0.1.", Subject::NoHost),
        ("0x7f.1.", Subject::NoHost),
        ("1.0.18.198.in-addr.arpa.", address("198.18.0.1")),
        ("10.IN-ADDR.arpa.", address("10.0.0.0")),
        ("d.f.ip6.arpa.", address("fd00::")),
    ] {
        assert_eq!(question(&query(asked, RecordType::A)).subject(), subject, "{asked}");
    }
    for odd in [0xff, b'.', 0] {
        let mut bytes = query("x.test.", RecordType::A).to_vec().unwrap();
        bytes[13] = odd;
        assert_eq!(Question::read(&bytes).unwrap().subject(), Subject::NoHost, "{odd}");
    }
}

#[test]
fn what_is_no_query_is_answered_in_kind_or_not_at_all() {
    let good = query("web.test.", RecordType::A);
    let code = |message: &Message| read(Question::read(&message.to_vec().unwrap()).unwrap_err()).response_code;
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut empty = good.clone();
    empty.queries.clear();
    assert_eq!(code(&empty), ResponseCode::FormErr);
    let mut double = good.clone();
    double.add_query(good.queries[0].clone());
    assert_eq!(code(&double), ResponseCode::FormErr);
    let mut version = with_edns(good.clone(), 1232);
    version.edns.as_mut().unwrap().set_version(1);
    // 16 is BADSIG as well.
    assert_eq!(u16::from(code(&version)), u16::from(ResponseCode::BADVERS));

    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(Question::read(&response.to_vec().unwrap()), Err(None)));
    let bytes = with_edns(good, 1232).to_vec().unwrap();
    for length in 0..bytes.len() {
        match Question::read(&bytes[..length]).unwrap_err() {
            None => assert!(length < 12, "{length}"),
            told => assert_eq!(read(told).response_code, ResponseCode::FormErr, "{length}"),
        }
    }
    let mut long = bytes.clone();
    long.resize(DNS_QUERY_BYTES + 1, 0);
    assert_eq!(read(Question::read(&long).unwrap_err()).response_code, ResponseCode::FormErr);
    // A second OPT record, and one that stands among the answers.
    let mut two = bytes.clone();
    two[11] = 2;
    two.extend_from_slice(&bytes[bytes.len() - 11..]);
    assert_eq!(read(Question::read(&two).unwrap_err()).response_code, ResponseCode::FormErr);
    let mut elsewhere = bytes;
    (elsewhere[7], elsewhere[11]) = (1, 0);
    assert_eq!(read(Question::read(&elsewhere).unwrap_err()).response_code, ResponseCode::FormErr);
}

#[test]
fn an_answer_repeats_the_question_in_its_own_letters() {
    let asked = query("wEB.tEST.", RecordType::A);
    let answer = question(&asked).records([RData::A(A::new(198, 18, 0, 1))], 10, Transport::Datagram);
    let answer = read(answer);
    assert!(answer.queries[0].name.eq_case(&asked.queries[0].name));
    assert_eq!((answer.id, answer.message_type), (7, MessageType::Response));
    assert!(answer.recursion_available && answer.recursion_desired && !answer.truncation);
    assert_eq!((answer.answers.len(), answer.answers[0].ttl, answer.edns), (1, 10, None));
    let refused = read(question(&asked).error(ResponseCode::Refused));
    assert_eq!((refused.response_code, refused.answers.len()), (ResponseCode::Refused, 0));
}

#[test]
fn an_answer_fits_into_what_the_client_takes() {
    let plain = query("web.test.", RecordType::TXT);
    let data = |count: usize| (0..count).map(|_| RData::TXT(TXT::new(vec!["x".repeat(80)])));
    for (asked, count, transport, fits) in [
        (plain.clone(), 4, Transport::Datagram, true),
        (plain.clone(), 6, Transport::Datagram, false),
        (with_edns(plain.clone(), 0), 4, Transport::Datagram, true),
        (with_edns(plain.clone(), 1232), 6, Transport::Datagram, true),
        (with_edns(plain.clone(), 1232), 20, Transport::Datagram, false),
        (with_edns(plain.clone(), u16::MAX), 100, Transport::Datagram, false),
        (plain, 600, Transport::Stream, true),
    ] {
        let question = question(&asked);
        let own = read(question.records(data(count), 1, transport));
        let mut upstreams = question.response(ResponseCode::NoError);
        upstreams.add_answers(data(count).map(|data| Record::from_rdata(question.query.name.clone(), 1, data)));
        let passed_on = read(question.passed_on(upstreams.to_vec().unwrap(), transport));
        for answer in [own, passed_on] {
            assert_eq!((answer.truncation, answer.answers.len()), (!fits, if fits { count } else { 0 }), "{count}");
            assert_eq!(answer.edns.is_some(), asked.edns.is_some());
            assert_eq!(answer.queries, asked.queries);
        }
    }
}

#[test]
fn the_upstream_gets_the_question_and_none_of_the_options() {
    let mut asked = with_edns(query("web.test.", RecordType::HTTPS), 4000);
    asked.metadata.checking_disabled = true;
    let mut bytes = asked.to_vec().unwrap();
    // A client subnet: 4 bytes of option at the end of the OPT record.
    let length = bytes.len();
    bytes[length - 1] = 8;
    bytes.extend_from_slice(&[0, 8, 0, 4, 0, 1, 0, 0]);
    let sent = read(Question::read(&bytes).unwrap().for_upstream());
    assert_eq!(sent.queries, asked.queries);
    assert!(sent.recursion_desired && sent.checking_disabled);
    let edns = sent.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
    assert_eq!(question(&query("web.test.", RecordType::A)).for_upstream().map(read_some).unwrap().edns, None);
}

fn read_some(bytes: Vec<u8>) -> Message {
    read(Some(bytes))
}

#[test]
fn answers_to_something_else_are_none() {
    let asked = query("web.test.", RecordType::A);
    let question = question(&asked);
    let good = question.response(ResponseCode::NoError);
    let taken = |message: &Message| question.addresses_in(&message.to_vec().unwrap()).is_some();
    assert!(taken(&good));
    let mut error = question.response(ResponseCode::ServFail);
    error.queries.clear();
    assert!(taken(&error));
    let changed = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    for other in [
        changed(|message| message.metadata.id = 8),
        changed(|message| message.metadata.message_type = MessageType::Query),
        changed(|message| message.queries.clear()),
        changed(|message| message.queries[0].query_type = RecordType::AAAA),
        changed(|message| message.queries[0].name = Name::from_ascii("evil.test.").unwrap()),
        changed(|message| message.queries.push(message.queries[0].clone())),
    ] {
        assert!(!taken(&other), "{other}");
    }
    assert!(question.addresses_in(&[0, 7, 0x80]).is_none());
    let mut cut = question.records([RData::A(A::new(192, 0, 2, 1))], 1, Transport::Stream).unwrap();
    assert_eq!(question.addresses_in(&cut).unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    cut.pop();
    assert!(question.addresses_in(&cut).is_none());
}

#[test]
fn addresses_are_found_wherever_an_answer_has_them() {
    let asked = query("web.test.", RecordType::HTTPS);
    let question = question(&asked);
    // Priority 1, the name `.`, no ALPN id, two addresses and one.
    let service = [
        &[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 8, 192, 0, 2, 1, 10, 0, 0, 1, 0, 6, 0, 16][..],
        &"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
    ]
    .concat();
    let owner = question.query.name.clone();
    let unknown = |kind, data: &[u8]| RData::Unknown { code: kind, rdata: NULL::with(data.to_vec()) };
    let mut answer = question.response(ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(owner.clone(), 1, RData::TXT(TXT::new(vec!["10.0.0.9".into()]))));
    answer.add_answer(Record::from_rdata(owner.clone(), 1, unknown(RecordType::HTTPS, &service)));
    answer.add_authority(Record::from_rdata(owner.clone(), 1, RData::A(A::new(192, 0, 2, 2))));
    answer.add_additional(Record::from_rdata(owner, 1, RData::AAAA("::1".parse().unwrap())));
    let found = question.addresses_in(&answer.to_vec().unwrap()).unwrap();
    let expected = ["192.0.2.1", "10.0.0.1", "2001:db8::1", "192.0.2.2", "::1"];
    assert_eq!(found, expected.map(|text| text.parse::<IpAddr>().unwrap()));
}

proptest! {
    #[test]
    fn any_services_parameters_are_read_without_harm(data in prop::collection::vec(0..20_u8, 0..60)) {
        hints(&data);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(question) = Question::read(&bytes) {
            question.subject();
            prop_assert!(question.for_upstream().is_some());
            let answer = question.records([RData::A(A::new(198, 18, 0, 1))], 1, Transport::Datagram);
            prop_assert!(answer.is_some_and(|answer| answer.len() <= usize::from(DNS_ANSWER_BYTES)));
        }
    }

    #[test]
    fn a_query_with_any_change_is_read_without_harm(
        changes in prop::collection::vec((12..80_usize, any::<u8>()), 1..6)
    ) {
        let mut bytes = with_edns(query("a-name.of.some.length.web.test.", RecordType::HTTPS), 1232).to_vec().unwrap();
        for (place, byte) in changes {
            let length = bytes.len();
            bytes[place % length] = byte;
        }
        if let Ok(question) = Question::read(&bytes) {
            question.subject();
            question.addresses_in(&bytes);
            question.passed_on(bytes, Transport::Datagram);
            prop_assert!(question.error(ResponseCode::Refused).is_some());
        }
    }

    #[test]
    fn a_question_survives_the_way_to_the_upstream(
        labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..6), kind in any::<u16>()
    ) {
        let asked = query(&(labels.join(".") + "."), RecordType::from(kind));
        let sent = read(question(&asked).for_upstream());
        prop_assert!(sent.queries[0].name.eq_case(&asked.queries[0].name));
        prop_assert_eq!(&sent.queries, &asked.queries);
    }
}
