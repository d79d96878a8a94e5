//! Through a SOCKS5 upstream. A name goes there as a name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fast_socks5::client::{Config, Socks5Stream};
use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use fast_socks5::{AuthenticationMethod, ReplyError, SocksError, consts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destination::{Destination, Host};
use crate::via::{Credentials, Endpoint};

use super::link::Question;
use super::{Connected, Failure, Stream};

/// Tor's own commands (its doc/socks-extensions.txt).
const RESOLVE: u8 = 0xf0;
const RESOLVE_PTR: u8 = 0xf1;

/// Greets the SOCKS5 upstream `at`, connected by `hop`, and authenticates.
pub(super) async fn greet(hop: Stream, at: &Endpoint, credentials: Option<&Credentials>) -> Result<Stream, Failure> {
    let password = credentials
        .map(|known| AuthenticationMethod::Password { username: known.user.clone(), password: known.password.clone() });
    match Socks5Stream::use_stream(hop, password, Config::default()).await {
        Ok(greeted) => Ok(greeted.get_socket()),
        Err(error) => Err(not_greeted(at, &error, credentials.is_some())),
    }
}

/// Asks for a connection to `destination`.
pub(super) async fn connect(mut hop: Stream, at: &Endpoint, destination: &Destination) -> Result<Connected, Failure> {
    // The answer says where the upstream is bound, which is of no use.
    ask(&mut hop, at, Question::Connect(destination)).await?;
    Ok(hop.into())
}

/// Asks for an association. Returns what it lives by, and where datagrams are to be sent.
pub(super) async fn associate(mut hop: Stream, at: &Endpoint) -> Result<(Stream, TargetAddr), Failure> {
    let bound = ask(&mut hop, at, Question::Associate).await?;
    Ok((hop, bound))
}

/// Asks Tor for the address of `name`.
pub(super) async fn resolve(mut hop: Stream, at: &Endpoint, name: &str) -> Result<IpAddr, Failure> {
    match ask(&mut hop, at, Question::Resolve(name)).await? {
        TargetAddr::Ip(address) => Ok(address.ip()),
        TargetAddr::Domain(..) => Err(garbled(at)),
    }
}

/// Asks Tor for the name of `address`.
pub(super) async fn resolve_ptr(mut hop: Stream, at: &Endpoint, address: IpAddr) -> Result<String, Failure> {
    match ask(&mut hop, at, Question::ResolvePtr(address)).await? {
        TargetAddr::Domain(name, _) => Ok(name),
        TargetAddr::Ip(_) => Err(garbled(at)),
    }
}

/// Makes one request. The encoding is the library's, the exchange is ours: the library's own panics
/// (`unreachable!`) on any reply code above 8, such as Tor's extended errors.
async fn ask(hop: &mut Stream, at: &Endpoint, question: Question<'_>) -> Result<TargetAddr, Failure> {
    let (command, target) = match question {
        Question::Connect(Destination { host: Host::Name(name), port }) => {
            (consts::SOCKS5_CMD_TCP_CONNECT, TargetAddr::Domain(name.clone(), *port))
        }
        Question::Connect(Destination { host: Host::Ip(address), port }) => {
            (consts::SOCKS5_CMD_TCP_CONNECT, TargetAddr::Ip(SocketAddr::new(*address, *port)))
        }
        // Where we send from is not known yet, nor as whom the upstream would see us (RFC 1928, 4).
        Question::Associate => {
            (consts::SOCKS5_CMD_UDP_ASSOCIATE, TargetAddr::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
        }
        Question::Resolve(name) => (RESOLVE, TargetAddr::Domain(name.to_owned(), 0)),
        Question::ResolvePtr(address) => (RESOLVE_PTR, TargetAddr::Ip(SocketAddr::new(address, 0))),
    };
    let mut request = vec![consts::SOCKS5_VERSION, command, 0];
    request.extend(target.to_be_bytes().map_err(|error| Failure::general(error.to_string()))?);
    let broken = || {
        Failure::general(format!("the SOCKS5 upstream {at} closed the connection, asked to {question}")).of_upstream()
    };
    hop.write_all(&request).await.map_err(|_| broken())?;
    hop.flush().await.map_err(|_| broken())?;

    let mut answer = [0; 4];
    hop.read_exact(&mut answer).await.map_err(|_| broken())?;
    match answer {
        [consts::SOCKS5_VERSION, consts::SOCKS5_REPLY_SUCCEEDED, _, kind] => {
            read_address(hop, kind).await.map_err(|error| match error {
                AddrError::IncorrectAddressType | AddrError::Utf8(_) => garbled(at),
                _ => broken(),
            })
        }
        [consts::SOCKS5_VERSION, code, ..] => Err(declined(code, at, question)),
        _ => Err(garbled(at)),
    }
}

fn garbled(at: &Endpoint) -> Failure {
    Failure::general(format!("the upstream {at} does not speak SOCKS5")).of_upstream()
}

fn not_greeted(at: &Endpoint, error: &SocksError, has_password: bool) -> Failure {
    // The library's own words would show the user.
    let what = match error {
        SocksError::UnsupportedSocksVersion(_) => "does not speak SOCKS5",
        SocksError::AuthenticationRejected(_) if !has_password => "wants a user and a password",
        SocksError::AuthenticationRejected(_) => "refused our user and password",
        SocksError::AuthMethodUnacceptable(_) if !has_password => "wants a user and a password, or knows no way in",
        SocksError::AuthMethodUnacceptable(_) => "offers no authentication that we know",
        _ => "closed the connection in the middle of its greeting",
    };
    Failure::general(format!("the upstream {at} {what}"))
}

/// The upstream's own reply code is the app's answer, as far as RFC 1928 knows it.
fn declined(code: u8, at: &Endpoint, question: Question<'_>) -> Failure {
    let reply = if code <= consts::SOCKS5_REPLY_ADDRESS_TYPE_NOT_SUPPORTED {
        ReplyError::from_u8(code)
    } else {
        ReplyError::GeneralFailure
    };
    let status = if code == consts::SOCKS5_REPLY_TTL_EXPIRED { 504 } else { 502 };
    let message = format!("the SOCKS5 upstream {at} did not {question}: {reply} (code {code:#04x})");
    Failure { reply, status, ..Failure::general(message) }
}
