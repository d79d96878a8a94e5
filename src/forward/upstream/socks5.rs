//! Through a SOCKS5 upstream. A name goes there as a name.

use std::net::SocketAddr;

use fast_socks5::client::{Config, Socks5Stream};
use fast_socks5::util::target_addr::{TargetAddr, read_address};
use fast_socks5::{AuthenticationMethod, ReplyError, SocksError, consts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destination::{Destination, Host};
use crate::via::{Credentials, Endpoint};

use super::{Failure, Stream};

/// Greets the SOCKS5 upstream `at`, connected by `hop`, and authenticates.
pub(super) async fn greet(hop: Stream, at: &Endpoint, credentials: Option<&Credentials>) -> Result<Stream, Failure> {
    let password = credentials
        .map(|known| AuthenticationMethod::Password { username: known.user.clone(), password: known.password.clone() });
    match Socks5Stream::use_stream(hop, password, Config::default()).await {
        Ok(greeted) => Ok(greeted.get_socket()),
        Err(error) => Err(not_greeted(at, &error, credentials.is_some())),
    }
}

/// Asks for `destination`. The encoding is the library's, the exchange is ours: the library's own
/// panics (`unreachable!`) on any reply code above 8, such as Tor's extended errors.
pub(super) async fn ask(mut hop: Stream, at: &Endpoint, destination: &Destination) -> Result<Stream, Failure> {
    let target = match &destination.host {
        Host::Name(name) => TargetAddr::Domain(name.clone(), destination.port),
        Host::Ip(address) => TargetAddr::Ip(SocketAddr::new(*address, destination.port)),
    };
    let mut request = vec![consts::SOCKS5_VERSION, consts::SOCKS5_CMD_TCP_CONNECT, 0];
    request.extend(target.to_be_bytes().map_err(|error| Failure::general(error.to_string()))?);
    let broken =
        || Failure::general(format!("the SOCKS5 upstream {at} closed the connection, asked for {destination}"));
    hop.write_all(&request).await.map_err(|_| broken())?;

    let mut answer = [0; 4];
    hop.read_exact(&mut answer).await.map_err(|_| broken())?;
    match answer {
        [consts::SOCKS5_VERSION, consts::SOCKS5_REPLY_SUCCEEDED, _, kind] => {
            // Where the upstream is bound; it has to be read to get past it.
            read_address(&mut hop, kind).await.map_err(|_| broken())?;
            Ok(hop)
        }
        [consts::SOCKS5_VERSION, code, ..] => Err(declined(code, at, destination)),
        _ => Err(Failure::general(format!("{at} does not speak SOCKS5")).of_upstream()),
    }
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
fn declined(code: u8, at: &Endpoint, destination: &Destination) -> Failure {
    let reply = if code <= consts::SOCKS5_REPLY_ADDRESS_TYPE_NOT_SUPPORTED {
        ReplyError::from_u8(code)
    } else {
        ReplyError::GeneralFailure
    };
    let status = if code == consts::SOCKS5_REPLY_TTL_EXPIRED { 504 } else { 502 };
    let message = format!("the SOCKS5 upstream {at} did not connect to {destination}: {reply} (code {code:#04x})");
    Failure { reply, status, ..Failure::general(message) }
}
