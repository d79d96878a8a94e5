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

    /// The addresses that another server's answer tells, if it is one to this question.
    pub(super) fn addresses_in(&self, answer: &[u8]) -> Option<Vec<IpAddr>> {
        let mut decoder = BinDecoder::new(answer);
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
        let mut found = Vec::new();
        for _ in 0..records_behind(&header.counts) {
            found.extend(Raw::read(&mut decoder)?.addresses());
        }
        Some(found)
    }

    /// Another server's answer to this question; cut where it is too long.
    pub(super) fn passed_on(&self, answer: Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
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
    let before = records_behind(counts) - u32::from(counts.additionals);
    let mut found = None;
    for index in 0..records_behind(counts) {
        let Raw { owner, kind, class, ttl, .. } = Raw::read(decoder)?;
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

/// How many records follow the question.
fn records_behind(counts: &HeaderCounts) -> u32 {
    u32::from(counts.answers) + u32::from(counts.authorities) + u32::from(counts.additionals)
}

/// A record, its data as it came.
struct Raw<'a> {
    owner: Name,
    kind: RecordType,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(decoder: &mut BinDecoder<'a>) -> Option<Self> {
        let owner = Name::read(decoder).ok()?;
        let kind = RecordType::from(decoder.read_u16().ok()?.unverified());
        let class = decoder.read_u16().ok()?.unverified();
        let ttl = decoder.read_u32().ok()?.unverified();
        let length = decoder.read_u16().map(Restrict::unverified).ok()?;
        let data = decoder.read_slice(length.into()).ok()?.unverified();
        Some(Self { owner, kind, class, ttl, data })
    }

    /// The addresses in its data.
    fn addresses(&self) -> Vec<IpAddr> {
        match self.kind {
            RecordType::A => addresses::<4>(self.data),
            RecordType::AAAA => addresses::<16>(self.data),
            RecordType::SVCB | RecordType::HTTPS => hints(self.data).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

fn addresses<const BYTES: usize>(data: &[u8]) -> Vec<IpAddr>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (found, _) = data.as_chunks::<BYTES>();
    found.iter().map(|bytes| IpAddr::from(*bytes)).collect()
}

/// The addresses among a service's parameters (RFC 9460, 2.2: a priority, a name, and keys with values).
fn hints(data: &[u8]) -> Option<Vec<IpAddr>> {
    const IPV4HINT: [u8; 2] = [0, 4];
    const IPV6HINT: [u8; 2] = [0, 6];

    let mut rest = data.get(2..)?;
    while let (length @ 1.., after) = rest.split_first()? {
        rest = after.get(usize::from(*length)..)?;
    }
    rest = &rest[1..];
    let mut found = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let [key @ .., _, _] = *head;
        let (value, after) = after.split_at_checked(u16::from_be_bytes([head[2], head[3]]).into())?;
        match key {
            IPV4HINT => found.extend(addresses::<4>(value)),
            IPV6HINT => found.extend(addresses::<16>(value)),
            _ => {}
        }
        rest = after;
    }
    Some(found)
}

#[cfg(test)]
mod tests;
