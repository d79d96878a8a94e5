//! Queries handed on to a resolver by TCP (RFC 7766), through the way out like any other connection.

use std::io::{self, Cursor};
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::destination::{Destination, Host};
use crate::forward::Forwarder;
use crate::forward::admission::Admission;
use crate::forward::failure::Failure;
use crate::forward::limits::DNS_TIME;
use crate::forward::upstream::Connected;

use super::TTL;
use super::host::record;
use super::message::{Question, Transport};

/// The resolver's answer about `host`, less addresses that are inside. `admission` is for the resolver itself.
pub(super) async fn answer(
    forwarder: &Forwarder,
    admission: &Admission,
    resolver: SocketAddr,
    host: &Host,
    question: &Question,
    transport: Transport,
) -> Result<Option<Vec<u8>>, Failure> {
    let resolver = Destination { host: Host::Ip(resolver.ip()), port: resolver.port() };
    admission.check(&resolver)?;
    let Some(query) = question.for_upstream() else { return Ok(None) };
    let exchange = async {
        // A connection a query: one that answers slowly holds up no other.
        let connected = forwarder.upstream.tunnel(&resolver, None, admission).await?;
        let broken = |error: io::Error| Failure::system(format_args!("the resolver {resolver} gave no answer"), &error);
        ask(connected, &query).await.map_err(broken)
    };
    let answered = timeout(DNS_TIME, exchange).await;
    let answer =
        answered.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("asking the resolver {resolver}"))))?;
    let Some(found) = question.addresses_in(&answer) else {
        return Err(Failure::general(format!("the resolver {resolver} answered something else than it was asked")));
    };
    let told = found.len();
    let answerable = forwarder.admission.answerable(host, found)?;
    if answerable.len() == told {
        return Ok(question.passed_on(answer, transport));
    }
    // None of its records can be taken out: names are compressed by references to others (RFC 1035, 4.1.4).
    let is_asked_for = |address: &IpAddr| match question.kind() {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    Ok(question.records(answerable.into_iter().filter(is_asked_for).map(record), TTL, transport))
}

async fn ask(Connected { mut stream, early }: Connected, query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    stream.flush().await?;
    let mut from = Cursor::new(early).chain(stream);
    let mut answer = vec![0; from.read_u16().await?.into()];
    from.read_exact(&mut answer).await?;
    Ok(answer)
}
