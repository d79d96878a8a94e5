//! Queries handed on to a resolver by TCP (RFC 7766), through the way out like any other connection.

use std::io::{self, Cursor};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::destination::{Destination, Host};
use crate::forward::admission::Admission;
use crate::forward::failure::Failure;
use crate::forward::limits::DNS_TIME;
use crate::forward::upstream::{Connected, Upstream};

use super::message::{Question, Transport};

/// The resolver's answer.
pub(super) async fn answer(
    upstream: &Upstream,
    admission: &Admission,
    resolver: SocketAddr,
    question: &Question,
    transport: Transport,
) -> Result<Option<Vec<u8>>, Failure> {
    let resolver = Destination { host: Host::Ip(resolver.ip()), port: resolver.port() };
    admission.check(&resolver)?;
    let Some(query) = question.for_upstream() else { return Ok(None) };
    let exchange = async {
        // A connection a query: one that answers slowly holds up no other.
        let connected = upstream.tunnel(&resolver, None, admission).await?;
        let broken = |error: io::Error| Failure::system(format_args!("the resolver {resolver} gave no answer"), &error);
        ask(connected, &query).await.map_err(broken)
    };
    let answered = timeout(DNS_TIME, exchange).await;
    let answer =
        answered.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("asking the resolver {resolver}"))))?;
    match question.relayed(answer, transport) {
        Some(answer) => Ok(Some(answer)),
        None => Err(Failure::general(format!("the resolver {resolver} answered something else than it was asked"))),
    }
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
