//! Addresses by this host's resolver, for programs that go out by the host's own network anyway.

use std::net::IpAddr;
use std::sync::Arc;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use nix::libc::{AF_INET, AF_INET6, EAI_NODATA};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::destination::Host;
use crate::forward::admission::Admission;
use crate::forward::failure::Failure;
use crate::forward::limits::DNS_TIME;

use super::TTL;
use super::message::{Question, Transport};

/// The answer about `name`: its addresses, less those that are inside.
pub(super) async fn answer(
    lookups: &Arc<Semaphore>,
    admission: &Admission,
    question: &Question,
    name: String,
    transport: Transport,
) -> Result<Option<Vec<u8>>, Failure> {
    let family = match question.kind() {
        RecordType::A => AF_INET,
        RecordType::AAAA => AF_INET6,
        _ => return Ok(question.records([], TTL, transport)),
    };
    let host = Host::Name(name.clone());
    let lookup = async {
        let place = Arc::clone(lookups).acquire_owned().await;
        // Nobody can stop a lookup: it keeps its place until it is over, whoever still waits for it.
        tokio::task::spawn_blocking(move || {
            let _place = place;
            addresses(&name, family)
        })
        .await
    };
    let failed = |why: String| Failure::general(format!("{} cannot be resolved: {why}", host));
    let found = match timeout(DNS_TIME, lookup).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(Failure::timed_out(format_args!("resolving {}", host))),
    };
    match found {
        Ok(found) => {
            let record = |address: IpAddr| match address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            let answerable = admission.answerable(&host, found)?;
            Ok(question.records(answerable.into_iter().map(record), TTL, transport))
        }
        // The name is there, but not with an address of this family.
        Err(error) if error.error_num() == EAI_NODATA => Ok(question.records([], TTL, transport)),
        Err(error) if matches!(error.kind(), LookupErrorKind::NoName) => Ok(question.error(ResponseCode::NXDomain)),
        Err(error) => Err(failed(std::io::Error::from(error).to_string())),
    }
}

/// By getaddrinfo(3), for its error codes: the standard library's lookup does not tell a name that
/// there isn't from a resolver that doesn't answer.
fn addresses(name: &str, family: i32) -> Result<Vec<IpAddr>, LookupError> {
    let hints = AddrInfoHints { address: family, socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = getaddrinfo(Some(name), None, Some(hints))?;
    Ok(found.flatten().map(|found| found.sockaddr.ip()).collect())
}
