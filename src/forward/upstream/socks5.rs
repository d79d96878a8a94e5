//! Through a SOCKS5 upstream. A name goes there as a name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use fast_socks5::{ReplyError, consts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destination::{Destination, Host};
use crate::via::{Credentials, Endpoint};

use super::link::Question;
use super::{Connected, Failure, Stream};

/// Tor's own commands (its doc/socks-extensions.txt).
const RESOLVE: u8 = 0xf0;
const RESOLVE_PTR: u8 = 0xf1;
/// Of the exchange of user and password, which counts by itself (RFC 1929).
const PASSWORD_VERSION: u8 = 1;

/// Whether an upstream is told who asks.
pub(super) enum Login<'a> {
    None,
    /// Unless it wants to know nothing (RFC 1928, 3: it chooses).
    Offered(&'a Credentials),
    /// They are what keeps circuits apart: nothing goes without them.
    Needed(&'a Credentials),
}

/// Greets the SOCKS5 upstream `at`, connected by `hop`, and authenticates. By ourselves: the library always offers
/// to do without, which a Tor with PreferSOCKSNoAuth takes.
pub(super) async fn greet(mut hop: Stream, at: &Endpoint, login: Login<'_>) -> Result<Stream, Failure> {
    let failed = |what: &str| Failure::general(format!("the upstream {at} {what}"));
    let broken = |_: io::Error| failed("closed the connection in the middle of its greeting");
    let (methods, credentials): (&[u8], _) = match login {
        Login::None => (&[consts::SOCKS5_AUTH_METHOD_NONE], None),
        Login::Offered(known) => (&[consts::SOCKS5_AUTH_METHOD_NONE, consts::SOCKS5_AUTH_METHOD_PASSWORD], Some(known)),
        Login::Needed(known) => (&[consts::SOCKS5_AUTH_METHOD_PASSWORD], Some(known)),
    };
    let count = [consts::SOCKS5_VERSION, methods.len() as u8];
    hop.write_all(&[&count, methods].concat()).await.map_err(broken)?;
    hop.flush().await.map_err(broken)?;
    let mut chosen = [0; 2];
    hop.read_exact(&mut chosen).await.map_err(broken)?;
    match (chosen, credentials) {
        ([consts::SOCKS5_VERSION, method], Some(known))
            if method == consts::SOCKS5_AUTH_METHOD_PASSWORD && methods.contains(&method) =>
        {
            let [user, password] = [&known.user, &known.password].map(|text| text.as_bytes());
            let (Ok(user_length), Ok(password_length)) = (u8::try_from(user.len()), u8::try_from(password.len()))
            else {
                return Err(failed("can be told no user or password of more than 255 bytes"));
            };
            let request = [&[PASSWORD_VERSION, user_length], user, &[password_length], password].concat();
            hop.write_all(&request).await.map_err(broken)?;
            hop.flush().await.map_err(broken)?;
            let mut answer = [0; 2];
            hop.read_exact(&mut answer).await.map_err(broken)?;
            if answer[1] == 0 { Ok(hop) } else { Err(failed("refused our user and password")) }
        }
        ([consts::SOCKS5_VERSION, method], _) if methods.contains(&method) => Ok(hop),
        ([consts::SOCKS5_VERSION, _], None) => Err(failed("wants a user and a password, or knows no way in")),
        ([consts::SOCKS5_VERSION, _], Some(_)) if matches!(login, Login::Needed(_)) => Err(failed(
            "takes no user and password, by which Tor keeps circuits apart: a proxy that is no Tor is socks5h://",
        )),
        ([consts::SOCKS5_VERSION, _], Some(_)) => Err(failed("offers no authentication that we know")),
        _ => Err(failed("does not speak SOCKS5")),
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
