//! Through a SOCKS4a upstream: a name goes there as a name, behind an address that cannot be one.

use fast_socks5::ReplyError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destination::{Destination, Host};
use crate::via::Endpoint;

use super::{Connected, Failure, Stream};

const VERSION: u8 = 4;
const CONNECT: u8 = 1;
const GRANTED: u8 = 0x5a;
/// The two refusals that are about the user: no identd on our side, or one that says another.
const WRONG_USER: [u8; 2] = [0x5c, 0x5d];
/// 0.0.0.x with a last part that is not 0: "the name follows".
const NAMED: [u8; 4] = [0, 0, 0, 1];

/// Asks the SOCKS4a upstream `at`, connected by `hop`, for `destination`.
pub(super) async fn connect(
    mut hop: Stream,
    at: &Endpoint,
    user: Option<&str>,
    destination: &Destination,
) -> Result<Connected, Failure> {
    let request = request(user, destination)?;
    let broken = || {
        let message = format!("the SOCKS4a upstream {at} closed the connection, asked to connect to {destination}");
        Failure::general(message).of_upstream()
    };
    hop.write_all(&request).await.map_err(|_| broken())?;
    hop.flush().await.map_err(|_| broken())?;

    // The version, which is 0 in an answer, the code, and a port and an address that mean nothing here.
    let mut answer = [0; 8];
    hop.read_exact(&mut answer).await.map_err(|_| broken())?;
    match answer {
        [0, GRANTED, ..] => Ok(hop.into()),
        [0, code, ..] if WRONG_USER.contains(&code) => {
            Err(Failure::general(format!("the SOCKS4a upstream {at} refused our user id")).of_upstream())
        }
        [0, code @ 0x5b..=0x5f, ..] => Err(Failure::general(format!(
            "the SOCKS4a upstream {at} did not connect to {destination} (code {code:#04x})"
        ))),
        _ => Err(Failure::general(format!("the upstream {at} does not speak SOCKS4a")).of_upstream()),
    }
}

fn request(user: Option<&str>, destination: &Destination) -> Result<Vec<u8>, Failure> {
    let Destination { host, port } = destination;
    let (address, name) = match host {
        Host::Name(name) => (NAMED, Some(name)),
        Host::Ip(address) => match address.to_canonical() {
            std::net::IpAddr::V4(address) => (address.octets(), None),
            std::net::IpAddr::V6(_) => {
                let message = format!("{destination} is an IPv6 address, which SOCKS4a cannot carry");
                return Err(Failure { reply: ReplyError::AddressTypeNotSupported, ..Failure::general(message) });
            }
        },
    };
    let mut request = vec![VERSION, CONNECT];
    request.extend(port.to_be_bytes());
    request.extend(address);
    // Neither can hold a NUL: the grammar of --via and that of names keep it out.
    for text in [Some(user.unwrap_or_default()), name.map(String::as_str)].into_iter().flatten() {
        request.extend(text.bytes());
        request.push(0);
    }
    Ok(request)
}
