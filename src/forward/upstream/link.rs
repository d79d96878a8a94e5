//! One hop: how it is greeted, and how it is asked for what lies behind it.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use fast_socks5::util::target_addr::TargetAddr;
use rustls::pki_types::ServerName;

use crate::destination::{Destination, Host};
use crate::via::{Credentials, Endpoint, Hop, HopKind};

use super::{Budget, Connected, Errand, Failure, Form, Stream, http, socks4a, socks5};
use socks5::Login;

/// One hop, as far as it does not change from connection to connection.
pub(super) struct Link {
    at: Endpoint,
    protocol: Protocol,
}

enum Protocol {
    Socks5 { credentials: Option<Credentials> },
    Tor,
    Socks4a { user: Option<String> },
    Http { authorization: Option<String>, server: Option<ServerName<'static>> },
}

impl Link {
    pub(super) fn new(hop: &Hop) -> Result<Self> {
        let credentials = hop.credentials.clone();
        let protocol = match hop.kind {
            HopKind::Socks5 => Protocol::Socks5 { credentials },
            HopKind::Tor => Protocol::Tor,
            HopKind::Socks4a => Protocol::Socks4a { user: credentials.map(|known| known.user) },
            HopKind::Http => Protocol::Http { authorization: credentials.as_ref().map(basic), server: None },
            HopKind::Https => {
                let server = Some(server_name(&hop.endpoint)?);
                Protocol::Http { authorization: credentials.as_ref().map(basic), server }
            }
        };
        Ok(Self { at: hop.endpoint.clone(), protocol })
    }

    /// How a plain request is put to it; `None` means that it is no HTTP proxy.
    pub(super) fn absolute_form(&self) -> Option<Form> {
        match &self.protocol {
            Protocol::Http { authorization, .. } => {
                Some(Form::Absolute { proxy: self.at.to_string(), authorization: authorization.clone() })
            }
            _ => None,
        }
    }

    /// Connects by `dialling`, and does what precedes the first question.
    pub(super) async fn enter(
        &self,
        dialling: impl Future<Output = Result<Stream, Failure>>,
        errand: &Errand<'_>,
        budget: &Budget,
    ) -> Result<Stream, Failure> {
        let entered = budget.connecting(async { self.greet(dialling.await?, errand).await }).await;
        entered.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("connecting to the upstream {}", self.at))))
    }

    async fn greet(&self, stream: Stream, errand: &Errand<'_>) -> Result<Stream, Failure> {
        match &self.protocol {
            Protocol::Socks5 { credentials } => {
                let login = credentials.as_ref().map_or(Login::None, Login::Offered);
                socks5::greet(stream, &self.at, login).await
            }
            Protocol::Tor => socks5::greet(stream, &self.at, Login::Needed(&errand.circuit())).await,
            Protocol::Http { server: Some(server), .. } => errand.trust.secure(stream, &self.at, server).await,
            Protocol::Http { server: None, .. } | Protocol::Socks4a { .. } => Ok(stream),
        }
    }

    /// Asks on a greeted `stream` for `destination`.
    pub(super) async fn ask(
        &self,
        stream: Stream,
        destination: &Destination,
        budget: &Budget,
    ) -> Result<Connected, Failure> {
        let asking = async {
            match &self.protocol {
                Protocol::Socks5 { .. } | Protocol::Tor => socks5::connect(stream, &self.at, destination).await,
                Protocol::Socks4a { user } => socks4a::connect(stream, &self.at, user.as_deref(), destination).await,
                Protocol::Http { authorization, .. } => {
                    http::connect(stream, &self.at, authorization.as_deref(), destination).await
                }
            }
        };
        self.answer(Question::Connect(destination), asking, budget).await
    }

    /// Asks on a greeted `stream` for an association, as [`socks5::associate`].
    pub(super) async fn associate(&self, stream: Stream, budget: &Budget) -> Result<(Stream, TargetAddr), Failure> {
        self.answer(Question::Associate, socks5::associate(stream, &self.at), budget).await
    }

    /// Where it is.
    pub(super) fn at(&self) -> &Endpoint {
        &self.at
    }

    /// Asks on a greeted `stream` for the address of `name`.
    pub(super) async fn resolve(&self, stream: Stream, name: &str, budget: &Budget) -> Result<IpAddr, Failure> {
        self.answer(Question::Resolve(name), socks5::resolve(stream, &self.at, name), budget).await
    }

    /// Asks on a greeted `stream` for the name of `address`.
    pub(super) async fn resolve_ptr(
        &self,
        stream: Stream,
        address: IpAddr,
        budget: &Budget,
    ) -> Result<String, Failure> {
        self.answer(Question::ResolvePtr(address), socks5::resolve_ptr(stream, &self.at, address), budget).await
    }

    /// Refuses lookups where the protocol has none.
    pub(super) fn expect_lookups(&self) -> Result<(), Failure> {
        match self.protocol {
            Protocol::Tor => Ok(()),
            _ => Err(Failure::not_offered(format!(
                "the upstream {} does not resolve names: connect by name, or use tor or direct",
                self.at
            ))),
        }
    }

    /// An upstream that says nothing in all that time hangs: Tor, too, gives up on a destination earlier.
    async fn answer<T>(
        &self,
        question: Question<'_>,
        asking: impl Future<Output = Result<T, Failure>>,
        budget: &Budget,
    ) -> Result<T, Failure> {
        budget.answering(asking).await.unwrap_or_else(|_| {
            let what = format_args!("the upstream {}, asked to {question},", self.at);
            Err(Failure::timed_out(what).of_upstream())
        })
    }
}

/// What a hop is asked to do.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    Connect(&'a Destination),
    Associate,
    Resolve(&'a str),
    ResolvePtr(IpAddr),
}

impl fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Connect(destination) => write!(f, "connect to {destination}"),
            Question::Associate => f.write_str("carry UDP"),
            Question::Resolve(name) => write!(f, "resolve {name}"),
            Question::ResolvePtr(address) => write!(f, "name {address}"),
        }
    }
}

fn basic(known: &Credentials) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", known.user, known.password)))
}

/// The name that the certificate must be for.
fn server_name(at: &Endpoint) -> Result<ServerName<'static>> {
    match at {
        Endpoint::Tcp { host: Host::Ip(address), .. } => Ok((*address).into()),
        Endpoint::Tcp { host: Host::Name(name), .. } => {
            ServerName::try_from(name.clone()).with_context(|| format!("no certificate can be for `{name}`"))
        }
        other => anyhow::bail!("https:// needs a host whose certificate can be checked, and {other} is none"),
    }
}
