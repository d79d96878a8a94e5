//! The way out, as the forwarder walks it. There is none beside it: what fails, fails.

mod budget;
mod chain;
mod direct;
mod http;
mod isolation;
mod link;
mod resolve;
mod socks4a;
mod socks5;
mod trust;
mod udp;

use anyhow::{Result, bail};
use rustls::RootCertStore;

use crate::cli::Isolate;
use crate::destination::{Destination, Host};
use crate::via::{Credentials, Via};

use super::admission::Admission;
use super::failure::Failure;
use super::limits::Limits;
use super::request::Form;
use super::stream::Stream;
use budget::Budget;
use chain::Chain;
use isolation::{Errand, Isolation};
use trust::Trust;
pub(super) use udp::{Outlet, Route, dialable, look_up};

/// Where connections come from.
pub(super) struct Upstream {
    way: Way,
    isolation: Isolation,
    trust: Trust,
    limits: Limits,
    carries_datagrams: bool,
}

enum Way {
    Direct,
    Chain(Chain),
}

/// A connection to a destination.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// What came from there with the upstream's answer already.
    pub(super) early: Vec<u8>,
}

impl From<Stream> for Connected {
    fn from(stream: Stream) -> Self {
        Self { stream, early: Vec::new() }
    }
}

impl Upstream {
    /// The way out that `via` describes. Tor must have been found.
    pub(super) fn new(via: &Via, limits: Limits) -> Result<Self> {
        let way = match via {
            Via::Direct => Way::Direct,
            Via::None => bail!("--via none has no forwarder: appfw forward needs a way out"),
            Via::Chain(hops) => Way::Chain(Chain::new(hops)?),
        };
        Ok(Self {
            way,
            isolation: Isolation::new(Isolate::default(), None)?,
            trust: Trust::default(),
            limits,
            carries_datagrams: via.carries_datagrams(),
        })
    }

    /// Divides Tor's circuits so.
    pub(super) fn isolating(self, isolate: Isolate, key: Option<&str>) -> Result<Self> {
        Ok(Self { isolation: Isolation::new(isolate, key)?, ..self })
    }

    /// Trusts these authorities, not the system's.
    pub(super) fn trusting(self, roots: RootCertStore) -> Self {
        Self { trust: Trust::in_these(roots), ..self }
    }

    /// A connection to `destination`, for the app's `caller`.
    pub(super) async fn tunnel(
        &self,
        destination: &Destination,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<Connected, Failure> {
        let budget = Budget::new(&self.limits);
        match self.way_to(&destination.host) {
            Way::Direct => {
                let connected = budget.connecting(direct::connect(destination, admission)).await;
                let late = |_| Err(Failure::timed_out(format_args!("connecting to {destination}")));
                connected.unwrap_or_else(late).map(Connected::from)
            }
            Way::Chain(chain) => {
                let errand = self.errand(caller, destination);
                let (link, stream) = chain.reach(&errand, &budget).await?;
                link.ask(stream, destination, &budget).await
            }
        }
    }

    /// A connection for one absolute-form request, and how to put it there.
    pub(super) async fn plain(
        &self,
        destination: &Destination,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<(Connected, Form), Failure> {
        if let Way::Chain(chain) = self.way_to(&destination.host)
            && let Some(form) = chain.last().absolute_form()
        {
            let errand = self.errand(caller, destination);
            let (_, stream) = chain.reach(&errand, &Budget::new(&self.limits)).await?;
            return Ok((stream.into(), form));
        }
        Ok((self.tunnel(destination, caller, admission).await?, Form::Origin))
    }

    /// How `host` is reached. This host's loopback is here: behind an upstream it would be another's, and
    /// the question alone would tell what runs on this one.
    fn way_to(&self, host: &Host) -> &Way {
        if host.is_loopback() { &Way::Direct } else { &self.way }
    }

    fn errand<'a>(&'a self, caller: Option<&'a Credentials>, destination: &'a Destination) -> Errand<'a> {
        Errand { isolation: &self.isolation, trust: &self.trust, caller, host: &destination.host }
    }
}
