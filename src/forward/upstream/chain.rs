//! The hops, one through the other. Each is told the next one's name, and the last one the destination's:
//! nobody resolves what lies behind another.

use anyhow::{Result, anyhow, bail};
use fast_socks5::ReplyError;
use tokio::net::UnixStream;

use crate::destination::Destination;
use crate::via::{Endpoint, Hop};

use super::link::Link;
use super::{Budget, Connected, Errand, Failure, Stream, direct};

/// One hop at least.
pub(super) struct Chain {
    /// Where the first one is.
    entry: Endpoint,
    first: Link,
    /// The others, and where the hop before finds them.
    further: Vec<(Destination, Link)>,
}

impl Chain {
    pub(super) fn new(hops: &[Hop]) -> Result<Self> {
        let [first, further @ ..] = hops else { bail!("--via is empty: appfw forward needs a way out") };
        let place = |hop: &Hop| match &hop.endpoint {
            Endpoint::Tcp { host, port } => Ok(Destination { host: host.clone(), port: *port }),
            other => Err(anyhow!("{other} is on this machine, and no other hop can reach it: put it first")),
        };
        Ok(Self {
            entry: first.endpoint.clone(),
            first: Link::new(first)?,
            further: further.iter().map(|hop| Ok((place(hop)?, Link::new(hop)?))).collect::<Result<_>>()?,
        })
    }

    /// The hop that is told the destination.
    pub(super) fn last(&self) -> &Link {
        self.further.last().map_or(&self.first, |(_, link)| link)
    }

    /// The last hop, and a stream to it, on which it has been greeted.
    pub(super) async fn reach(&self, errand: &Errand<'_>, budget: &Budget) -> Result<(&Link, Stream), Failure> {
        let mut link = &self.first;
        let mut stream = link.enter(dial(&self.entry), errand, budget).await.map_err(Failure::of_upstream)?;
        for (place, next) in &self.further {
            let Connected { stream: onward, early } = link.ask(stream, place, budget).await.map_err(astray)?;
            if !early.is_empty() {
                // Every protocol that we speak to a hop is begun by us.
                return Err(astray(Failure::general(format!("the upstream {place} spoke before it was asked"))));
            }
            link = next;
            stream = link.enter(async { Ok(onward) }, errand, budget).await.map_err(astray)?;
        }
        Ok((link, stream))
    }
}

/// What goes wrong between hops is not the destination's doing, so no code may say that it were.
fn astray(failure: Failure) -> Failure {
    let reply = match failure.reply {
        ReplyError::TtlExpired if failure.status == 504 => ReplyError::TtlExpired,
        _ => ReplyError::GeneralFailure,
    };
    Failure { reply, ..failure.of_upstream() }
}

/// Connects to the first hop, which may well be on this host.
async fn dial(at: &Endpoint) -> Result<Stream, Failure> {
    let unreachable = |why: String| Failure::general(format!("the upstream {at} cannot be reached: {why}"));
    let connected = match at {
        Endpoint::Tcp { host, port } => {
            let addresses =
                direct::resolve_upstream(host, *port).await.map_err(|failure| unreachable(failure.message))?;
            direct::connect_any(addresses).await.map(Stream::Tcp)
        }
        Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Endpoint::FindTor => return Err(unreachable("it has not been looked for".into())),
    };
    connected.map_err(|error| unreachable(error.to_string()))
}
