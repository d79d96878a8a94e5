//! DNS messages (RFC 1035, EDNS by RFC 6891): the question that a query asks, and answers to it.
//!
//! The codec is hickory-proto's. Of a query only what is used is decoded: the header, the question,
//! and the size and flags of an OPT record. Record data, the larger part of any DNS parser, is not.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, Restrict};

use crate::destination::Host;
use crate::forward::limits::{DNS_ANSWER_BYTES, DNS_QUERY_BYTES};

/// What a client that says nothing else takes by UDP (RFC 1035, 4.2.1).
const PLAIN_BYTES: u16 = 512;
/// The flag by which a client asks for signatures (RFC 3225), among the bits of an OPT record's TTL.
const DNSSEC_OK: u32 = 0x8000;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// By UDP: answers have to fit.
    Datagram,
    /// By TCP.
    Stream,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A host, or anything else with such a name.
    Name(String),
    /// An address, asked for by its name below in-addr.arpa or ip6.arpa; of a whole zone there, its first.
    Address(IpAddr),
    /// A name that no host can have. Nothing can be told of it.
    NoHost,
}

/// The question of one query.
#[derive(Debug)]
pub(super) struct Question {
    metadata: Metadata,
    query: Query,
    edns: Option<Opt>,
}

/// What we use of an OPT record.
#[derive(Clone, Copy, Debug)]
struct Opt {
    bytes: u16,
    version: u8,
    dnssec_ok: bool,
}

impl Question {
    /// Reads a query. What is none gets the answer in `Err`, if any: responses get none, or two
    /// servers could keep each other busy for ever.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let mut decoder = BinDecoder::new(bytes);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return Err(None) };
        if metadata.message_type == MessageType::Response {
            return Err(None);
        }
        let wrong = |code| Err(Message::error_msg(metadata.id, metadata.op_code, code).to_vec().ok());
        if metadata.op_code != OpCode::Query {
            return wrong(ResponseCode::NotImp);
        }
        // More than one question is nothing that anybody answers (RFC 9619).
        if counts.queries != 1 || bytes.len() > DNS_QUERY_BYTES {
            return wrong(ResponseCode::FormErr);
        }
        let Some((query, edns)) = read_rest(&mut decoder, &counts) else { return wrong(ResponseCode::FormErr) };
        let question = Self { metadata, query, edns };
        if edns.is_some_and(|edns| edns.version > 0) {
            return Err(question.error(ResponseCode::BADVERS));
        }
        Ok(question)
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type
    }

    pub(super) fn class(&self) -> DNSClass {
        self.query.query_class
    }

    pub(super) fn subject(&self) -> Subject {
        if let Ok(net) = self.query.name.parse_arpa_name() {
            return Subject::Address(net.network());
        }
        let mut text = String::new();
        for label in self.query.name.iter() {
            // A dot within a label would be taken for the end of it.
            match std::str::from_utf8(label) {
                Ok(label) if label.is_ascii() && !label.contains('.') => text.extend([label, "."]),
                _ => return Subject::NoHost,
            }
        }
        match text.parse() {
            Ok(Host::Name(name)) => Subject::Name(name),
            // `127.1` has no records, and is an address to whoever looks it up without DNS.
            Ok(Host::Ip(_)) | Err(_) => Subject::NoHost,
        }
    }

    /// The answer that says why there is none.
    pub(super) fn error(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.response(code).to_vec().ok()
    }

    /// The answer with these records: none means that there are none of this type.
    pub(super) fn records(
        &self,
        data: impl IntoIterator<Item = RData>,
        ttl: u32,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut response = self.response(ResponseCode::NoError);
        let record = |data| Record::from_rdata(self.query.name.clone(), ttl, data);
        response.add_answers(data.into_iter().map(record));
        let bytes = response.to_vec().ok()?;
        if bytes.len() > self.room(transport) { self.truncated() } else { Some(bytes) }
    }

    /// The same question for another server, without what programs tell of themselves by options.
    pub(super) fn for_upstream(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.metadata.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.metadata.authentic_data = self.metadata.authentic_data;
        message.add_query(self.query.clone());
        self.add_edns(&mut message);
        message.to_vec().ok()
    }

    /// Another server's answer, if it is one to this question; cut where it is too long.
    pub(super) fn relayed(&self, answer: Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
        let mut decoder = BinDecoder::new(&answer);
        let header = Header::read(&mut decoder).ok()?;
        let is_answer = header.message_type == MessageType::Response && header.id == self.metadata.id;
        // Some servers leave the question out of an error.
        let is_ours = match header.counts.queries {
            0 => header.response_code != ResponseCode::NoError,
            1 => Query::read(&mut decoder).is_ok_and(|query| query == self.query),
            _ => false,
        };
        if !is_answer || !is_ours {
            return None;
        }
        if answer.len() > self.room(transport) { self.truncated() } else { Some(answer) }
    }

    /// "There is more: ask by TCP."
    fn truncated(&self) -> Option<Vec<u8>> {
        let mut response = self.response(ResponseCode::NoError);
        response.metadata.truncation = true;
        response.to_vec().ok()
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut response = Message::response(self.metadata.id, OpCode::Query);
        response.metadata.recursion_desired = self.metadata.recursion_desired;
        response.metadata.checking_disabled = self.metadata.checking_disabled;
        response.metadata.recursion_available = true;
        response.metadata.response_code = code;
        response.add_query(self.query.clone());
        self.add_edns(&mut response);
        response
    }

    /// Who uses EDNS is answered with it, nobody else (RFC 6891, 7).
    fn add_edns(&self, message: &mut Message) {
        if let Some(opt) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DNS_ANSWER_BYTES).set_dnssec_ok(opt.dnssec_ok);
            message.set_edns(edns);
        }
    }

    /// How long an answer may be.
    fn room(&self, transport: Transport) -> usize {
        let bytes = match transport {
            Transport::Stream => u16::MAX,
            Transport::Datagram => self.edns.map_or(PLAIN_BYTES, |opt| opt.bytes.clamp(PLAIN_BYTES, DNS_ANSWER_BYTES)),
        };
        bytes.into()
    }
}

/// The question and the OPT record behind it, if there is one. `None`: the message is malformed.
fn read_rest(decoder: &mut BinDecoder<'_>, counts: &HeaderCounts) -> Option<(Query, Option<Opt>)> {
    let query = Query::read(decoder).ok()?;
    let before = u32::from(counts.answers) + u32::from(counts.authorities);
    let mut found = None;
    for index in 0..before + u32::from(counts.additionals) {
        let owner = Name::read(decoder).ok()?;
        let kind = RecordType::from(decoder.read_u16().ok()?.unverified());
        let class = decoder.read_u16().ok()?.unverified();
        let ttl = decoder.read_u32().ok()?.unverified();
        let length = decoder.read_u16().map(Restrict::unverified).ok()?;
        decoder.read_slice(length.into()).ok()?;
        if kind == RecordType::OPT {
            // One, among the additional records, owned by the root (RFC 6891, 6.1.1).
            if found.is_some() || index < before || !owner.is_root() {
                return None;
            }
            let [_, version, ..] = ttl.to_be_bytes();
            found = Some(Opt { bytes: class, version, dnssec_ok: ttl & DNSSEC_OK != 0 });
        }
    }
    Some((query, found))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, TXT};
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
            let relayed = read(question.relayed(upstreams.to_vec().unwrap(), transport));
            for answer in [own, relayed] {
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
        let taken = |message: &Message| question.relayed(message.to_vec().unwrap(), Transport::Stream).is_some();
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
        assert!(question.relayed(vec![0, 7, 0x80], Transport::Stream).is_none());
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
                question.relayed(bytes, Transport::Datagram);
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
}
