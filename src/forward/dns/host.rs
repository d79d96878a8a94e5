//! Addresses by this host's resolver, for programs that go out by the host's own network anyway.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use tokio::time::timeout;

use crate::destination::Host;
use crate::forward::admission::Admission;
use crate::forward::failure::Failure;
use crate::forward::limits::DNS_TIME;
use crate::forward::lookup::{self, Family};

use super::TTL;
use super::message::{Question, Transport};

/// The answer about `name`: its addresses, less those that are inside.
pub(super) async fn answer(
    admission: &Admission,
    question: &Question,
    name: String,
    transport: Transport,
) -> Result<Option<Vec<u8>>, Failure> {
    let family = match question.kind() {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => return Ok(question.records([], TTL, transport)),
    };
    let looked_up = timeout(DNS_TIME, lookup::addresses(&name, family)).await;
    let found = looked_up.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("resolving {name}"))))?;
    let Some(found) = found else { return Ok(question.error(ResponseCode::NXDomain)) };
    let answerable = admission.answerable(&Host::Name(name), found)?;
    Ok(question.records(answerable.into_iter().map(record), TTL, transport))
}

/// As a record.
pub(super) fn record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}
