//! The forwarder's DNS: answers to the app's queries, each name judged before anything is said of it.
//!
//! ```text
//! serve (UDP, TCP) ─▶ message (question) ─▶ admission ─▶ names | host | upstream ─▶ message (answer)
//! ```

#[doc(hidden)]
pub mod fuzzing;
mod host;
mod message;
mod names;
mod serve;
mod upstream;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use fast_socks5::ReplyError;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::sync::Semaphore;

use crate::destination::{Destination, Host, Pattern, is_onion};
use crate::dns::Dns;

use super::Forwarder;
use super::admission::Admission;
use super::failure::Failure;
use super::limits::{DNS_CONNECTIONS, Limits};
use message::{Question, Subject, Transport};
pub(super) use names::LAST as MOST_NAMES;
use names::{Names, Number};
pub(super) use serve::{answer_datagram, serve_stream};
pub use serve::{serve_datagrams, serve_streams};

/// How long a program may keep an answer of ours, in seconds: not so long that the table, which
/// forgets the least recently used, could forget what a program still keeps.
const TTL: u32 = 10;

/// Who answers.
pub(super) struct Resolver {
    source: Source,
    /// Queries at once.
    queries: Semaphore,
    /// Connections by TCP.
    connections: Semaphore,
}

/// Where answers come from.
enum Source {
    Synthetic(Mutex<Names>),
    Host,
    /// By TCP, through the way out. The rule is for the resolver itself: the user named it.
    Tcp(SocketAddr, Admission),
}

impl Resolver {
    /// The resolver that `dns` describes, within `limits`; `None`, where there is none.
    pub(super) fn new(dns: Dns, allowed: Vec<Pattern>, limits: &Limits) -> Result<Option<Self>> {
        let source = match dns {
            Dns::Off => return Ok(None),
            Dns::Host => Source::Host,
            Dns::Tcp(address) => Source::Tcp(address, Admission::new(allowed, std::path::Path::new("/"))),
            Dns::Synthetic => {
                let mut seed = [0; 4];
                rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
                    .context("no random numbers")?;
                Source::Synthetic(Mutex::new(Names::new(u32::from_ne_bytes(seed), limits.names)))
            }
        };
        Ok(Some(Self { source, queries: Semaphore::new(limits.queries), connections: Semaphore::new(DNS_CONNECTIONS) }))
    }

    /// The answer to a message, if it gets one.
    async fn answer(&self, forwarder: &Forwarder, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(told) => return told,
        };
        let Ok(_place) = self.queries.try_acquire() else { return question.error(ResponseCode::ServFail) };
        // Whole zones are not for programs (and come in more than one message).
        if question.class() != DNSClass::IN || matches!(question.kind(), RecordType::AXFR | RecordType::IXFR) {
            return question.error(ResponseCode::Refused);
        }
        let subject = question.subject();
        if let (Source::Synthetic(names), Subject::Address(_)) = (&self.source, &subject) {
            return pointer(&lock(names), &question, &subject, transport);
        }
        let judged = match &subject {
            Subject::Name(name) => Ok(Host::Name(name.clone())),
            Subject::Address(address) => Ok(Host::Ip(*address)),
            Subject::NoHost => Err(Failure::refused("a query is for a name that no host can have")),
        };
        let judged = judged.and_then(|host| forwarder.admission.check_host(&host).map(|()| host));
        let host = match judged {
            Ok(host) => host,
            Err(failure) => return fail(forwarder, &question, &failure),
        };
        if let (Source::Tcp(..), Some(records)) = (&self.source, of_loopback(&subject, question.kind())) {
            return question.records(records, TTL, transport);
        }
        let answered = match (&self.source, subject) {
            (Source::Synthetic(names), Subject::Name(name)) => {
                return question.records(addresses(names, &name, question.kind()), TTL, transport);
            }
            (_, Subject::Name(name)) if is_onion(&name) => return question.error(ResponseCode::NXDomain),
            (Source::Host, Subject::Name(name)) => host::answer(&forwarder.admission, &question, name, transport).await,
            (Source::Tcp(resolver, admission), _) => {
                upstream::answer(forwarder, admission, *resolver, &host, &question, transport).await
            }
            // Of addresses nothing is known.
            (Source::Synthetic(_) | Source::Host, _) => return question.records([], TTL, transport),
        };
        answered.unwrap_or_else(|failure| fail(forwarder, &question, &failure))
    }

    /// Whether an address is of those that stand for names.
    pub(super) fn is_synthetic(&self, address: IpAddr) -> bool {
        matches!(self.source, Source::Synthetic(_)) && Number::of(address).is_some()
    }

    /// The destination that a synthetic one stands for; `None` where it is not synthetic.
    ///
    /// # Errors
    /// It stands for nothing: nobody is to be dialled there.
    pub(super) fn named(&self, destination: &Destination) -> Result<Option<Destination>, Failure> {
        let (Source::Synthetic(names), Host::Ip(address)) = (&self.source, &destination.host) else { return Ok(None) };
        let Some(number) = Number::of(*address) else { return Ok(None) };
        match lock(names).connected(number, Instant::now()) {
            Some(name) => Ok(Some(Destination { host: Host::Name(name.to_string()), port: destination.port })),
            None => Err(Failure {
                reply: ReplyError::HostUnreachable,
                ..Failure::general(format!(
                    "{destination} is an address of --dns synthetic that stands for no name (any more): resolve the name again"
                ))
            }),
        }
    }
}

/// Says why there is no answer: to the client in a word, to the user in a sentence.
fn fail(forwarder: &Forwarder, question: &Question, failure: &Failure) -> Option<Vec<u8>> {
    forwarder.reporter.failure(failure);
    forwarder.log_unanswered(failure);
    let is_refusal = matches!(failure.reply, ReplyError::ConnectionNotAllowed);
    question.error(if is_refusal { ResponseCode::Refused } else { ResponseCode::ServFail })
}

/// The records of a name: addresses, and none of any other type, so that programs do with these.
fn addresses(names: &Mutex<Names>, name: &str, kind: RecordType) -> Vec<RData> {
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Vec::new();
    }
    let number = lock(names).place(name, Instant::now());
    vec![if kind == RecordType::A { RData::A(number.v4().into()) } else { RData::AAAA(number.v6().into()) }]
}

/// What there is to say of this host's loopback, which is no other's to answer (RFC 6761, 6.3).
fn of_loopback(subject: &Subject, kind: RecordType) -> Option<Vec<RData>> {
    let host = match subject {
        Subject::Name(name) => Host::Name(name.clone()),
        Subject::Address(address) => Host::Ip(*address),
        Subject::NoHost => return None,
    };
    host.is_loopback().then(|| match (host, kind) {
        (Host::Name(_), RecordType::A) => vec![RData::A(Ipv4Addr::LOCALHOST.into())],
        (Host::Name(_), RecordType::AAAA) => vec![RData::AAAA(Ipv6Addr::LOCALHOST.into())],
        (Host::Ip(_), RecordType::PTR) => {
            Name::from_ascii("localhost.").map(|name| vec![RData::PTR(PTR(name))]).unwrap_or_default()
        }
        _ => Vec::new(),
    })
}

/// The name of a synthetic address. Nobody is asked for another's.
fn pointer(names: &Names, question: &Question, subject: &Subject, transport: Transport) -> Option<Vec<u8>> {
    let Subject::Address(address) = subject else { return question.error(ResponseCode::NXDomain) };
    match Number::of(*address).and_then(|number| names.name(number)) {
        Some(name) if question.kind() == RecordType::PTR => {
            let name = Name::from_ascii(format!("{name}.")).ok()?;
            question.records([RData::PTR(PTR(name))], TTL, transport)
        }
        Some(_) => question.records([], TTL, transport),
        None => question.error(ResponseCode::NXDomain),
    }
}

/// What is in there is whole after each change: nothing can panic in the middle of one.
fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
