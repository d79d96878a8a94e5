//! SOCKS4 and SOCKS4a from the app: old, and still what many programs read `socks://` as.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::destination::Destination;
use crate::forward::limits::SOCKS4_TEXT;
use crate::via::Credentials;

use super::{NoRequest, caller, part, wrong};

const CONNECT: u8 = 1;
const GRANTED: u8 = 0x5a;
/// "Rejected or failed": there is no finer code, but for those about identd.
const REJECTED: u8 = 0x5b;

/// A CONNECT by SOCKS4.
pub(crate) struct Socks4 {
    pub(crate) destination: Destination,
    pub(super) caller: Option<Credentials>,
    pub(super) client: BufReader<TcpStream>,
}

impl Socks4 {
    /// Reads a request.
    pub(super) async fn read(client: TcpStream) -> Result<Self, NoRequest> {
        let mut client = BufReader::with_capacity(SOCKS4_TEXT, client);
        let (destination, caller) = match handshake(&mut client).await {
            Ok(read) => read,
            Err(NoRequest::Nothing) => return Err(NoRequest::Nothing),
            Err(wrong) => {
                answer(&mut client, REJECTED).await?;
                part(client.into_inner()).await;
                return Err(wrong);
            }
        };
        Ok(Self { destination, caller, client })
    }

    /// Answers that the connection stands.
    pub(crate) async fn grant(mut self) -> io::Result<(TcpStream, Vec<u8>)> {
        answer(&mut self.client, GRANTED).await?;
        let early = self.client.buffer().to_vec();
        Ok((self.client.into_inner(), early))
    }

    pub(super) async fn refuse(mut self) -> io::Result<()> {
        answer(&mut self.client, REJECTED).await?;
        part(self.client.into_inner()).await;
        Ok(())
    }
}

/// Version 0, the code, and a port and an address that nobody reads after CONNECT.
async fn answer(client: &mut (impl AsyncWrite + Unpin), code: u8) -> io::Result<()> {
    client.write_all(&[0, code, 0, 0, 0, 0, 0, 0]).await
}

pub(super) async fn handshake(
    client: &mut (impl AsyncBufRead + Unpin),
) -> Result<(Destination, Option<Credentials>), NoRequest> {
    let _version = client.read_u8().await?;
    let command = client.read_u8().await?;
    let port = client.read_u16().await?;
    let address = Ipv4Addr::from(client.read_u32().await?);
    if command != CONNECT {
        return Err(wrong(format!(
            "a client asked SOCKS4 for command {command:#04x}, which is not served: use CONNECT"
        )));
    }
    let user = text(client).await?;
    // 4a: an address that cannot be says that a name follows.
    let destination = match address.octets() {
        [0, 0, 0, 1..=255] => {
            let name = text(client).await?;
            let name =
                std::str::from_utf8(&name).map_err(|_| wrong("a client sent SOCKS4a a name that is not UTF-8"))?;
            Destination::new(name, port)
        }
        _ => Destination::from_ip(address.into(), port),
    };
    let destination = destination.map_err(|error| wrong(format!("{error:#}")))?;
    Ok((destination, caller(&user, b"")))
}

/// Reads up to a NUL, which is not part of what it returns.
async fn text(client: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, NoRequest> {
    let mut text = Vec::new();
    client.take(SOCKS4_TEXT as u64).read_until(0, &mut text).await?;
    match text.pop() {
        Some(0) => Ok(text),
        Some(_) if text.len() + 1 == SOCKS4_TEXT => {
            Err(wrong(format!("a client sent SOCKS4 a text longer than {} bytes", SOCKS4_TEXT - 1)))
        }
        _ => Err(NoRequest::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The destination and the user; or what is wrong, unless it is only short.
    type Read = Result<(String, Option<String>), Option<String>>;

    /// What is made of `input`, and how much of it is left.
    fn read(mut input: &[u8]) -> (Read, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = match runtime.block_on(handshake(&mut input)) {
            Ok((destination, caller)) => Ok((destination.to_string(), caller.map(|caller| caller.user))),
            Err(NoRequest::Wrong(failure)) => Err(Some(failure.message)),
            Err(NoRequest::Nothing) => Err(None),
        };
        (result, input.len())
    }

    #[test]
    fn requests() {
        let to = |destination: &str, user: Option<&str>| Ok((destination.to_owned(), user.map(str::to_owned)));
        assert_eq!(read(b"\x04\x01\x00\x50\xc0\x00\x02\x07\0next"), (to("192.0.2.7:80", None), 4));
        assert_eq!(read(b"\x04\x01\x01\xbb\xc0\x00\x02\x07me\0").0, to("192.0.2.7:443", Some("me")));
        assert_eq!(read(b"\x04\x01\x00\x50\x00\x00\x00\x01\0Web.Test.\0x"), (to("web.test:80", None), 1));
        assert_eq!(read(b"\x04\x01\x00\x50\x00\x00\x00\xffme\x000x7f.1\0").0, to("127.0.0.1:80", Some("me")));
        // Not 4a: the address is 0.0.0.0 itself, which is inside.
        assert_eq!(read(b"\x04\x01\x00\x50\x00\x00\x00\x00\0").0, to("0.0.0.0:80", None));
        assert_eq!(read(b"\x04\x01\x00\x50\x00\x00\x01\x01\0").0, to("0.0.1.1:80", None));
    }

    #[test]
    fn what_is_none() {
        let wrong = |input: &[u8]| read(input).0.unwrap_err().unwrap();
        assert!(wrong(b"\x04\x02\x00\x50\xc0\x00\x02\x07\0").contains("0x02"));
        assert!(wrong(b"\x04\x01\x00\x00\xc0\x00\x02\x07\0").contains("port 0"));
        assert!(wrong(b"\x04\x01\x00\x50\x00\x00\x00\x01\0a b\0").contains("no host name"));
        assert!(wrong(b"\x04\x01\x00\x50\x00\x00\x00\x01\0\xff\0").contains("UTF-8"));
        let long = [&b"\x04\x01\x00\x50\xc0\x00\x02\x07"[..], &[b'x'; SOCKS4_TEXT]].concat();
        assert!(wrong(&long).contains("longer"));
        for short in
            [&b"\x04\x01\x00"[..], b"\x04\x01\x00\x50\xc0\x00\x02\x07me", b"\x04\x01\x00\x50\x00\x00\x00\x01\0a"]
        {
            assert_eq!(read(short).0, Err(None));
        }
    }

    proptest! {
        #[test]
        fn users_and_names_of_every_length(user in "[a-z]{1,254}", name in "[a-z]{1,60}(\\.[a-z]{1,60}){0,3}", port in 1..=u16::MAX) {
            let input = [b"\x04\x01", &port.to_be_bytes()[..], &[0, 0, 0, 9], user.as_bytes(), &[0], name.as_bytes(), &[0]];
            prop_assert_eq!(read(&input.concat()), (Ok((format!("{name}:{port}"), Some(user))), 0));
        }

        #[test]
        fn never_panics(input in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&[&[4, 1], &input[..]].concat());
        }
    }
}
