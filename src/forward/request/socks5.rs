//! SOCKS5 from the app (RFC 1928), with the commands by which Tor looks up names (its socks-extensions).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fast_socks5::server::{
    AuthMethod, AuthMethodSuccessState, NoAuthentication, NoAuthenticationImpl, Socks5ServerProtocol, SocksServerError,
};
use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use fast_socks5::{ReplyError, auth_method_enums, consts};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::destination::{Destination, Host};
use crate::forward::stream;
use crate::via::Credentials;

use super::{Failure, First, NoRequest, Request, caller, part, wrong};

/// Tor: the address of a name.
const RESOLVE: u8 = 0xf0;
/// Tor: the name of an address.
const RESOLVE_PTR: u8 = 0xf1;
/// What a client sends before it is answered, name and password and all, mostly fits.
const BUFFER: usize = 512;

/// Username/password (RFC 1929), any of them good. The library's own method refuses empty ones and
/// those that are not UTF-8, which clients do send.
#[derive(Clone, Copy)]
struct AnyPassword;

struct AnyPasswordStarted<T>(T);

impl<T> AuthMethod<T> for AnyPassword {
    type StartingState = AnyPasswordStarted<T>;

    fn method_id(self) -> u8 {
        consts::SOCKS5_AUTH_METHOD_PASSWORD
    }

    fn new(self, inner: T) -> Self::StartingState {
        AnyPasswordStarted(inner)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AnyPasswordStarted<T> {
    async fn accept(self) -> io::Result<(T, Option<Credentials>)> {
        let mut stream = self.0;
        let _version = stream.read_u8().await?;
        let user = counted(&mut stream).await?;
        let password = counted(&mut stream).await?;
        stream.write_all(&[1, consts::SOCKS5_REPLY_SUCCEEDED]).await?;
        Ok((stream, caller(&user, &password)))
    }
}

/// Bytes behind one that says how many.
async fn counted(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

auth_method_enums! {
    enum Method / Chosen<T> {
        AnyPassword(AnyPasswordStarted<T>),
        NoAuthentication(NoAuthenticationImpl<T>),
    }
}

/// A CONNECT by SOCKS5.
pub(crate) struct Socks5 {
    pub(crate) destination: Destination,
    pub(super) caller: Option<Credentials>,
    pub(super) client: BufReader<TcpStream>,
}

/// A UDP ASSOCIATE. The association lives as long as the connection that asked for it.
pub(crate) struct Associate {
    /// The port that datagrams will come from, if the client knows it already.
    pub(crate) port: Option<u16>,
    pub(crate) caller: Option<Credentials>,
    client: BufReader<TcpStream>,
}

/// A question that is answered without a connection.
pub(crate) struct Lookup {
    /// What it is about, as admission judges it: at port 0, since it leads to none.
    pub(crate) destination: Destination,
    pub(crate) question: Question,
    caller: Option<Credentials>,
    client: BufReader<TcpStream>,
}

/// What a [`Lookup`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The address of the destination, which may be one already.
    Address,
    /// The name of this address.
    Name(IpAddr),
}

/// Reads a request. Every message of the protocol says its length in one byte, so none is long.
pub(super) async fn read(client: TcpStream) -> Result<First, NoRequest> {
    let mut client = BufReader::with_capacity(BUFFER, client);
    match handshake(&mut client).await {
        Ok((Asked::Connect(destination), caller)) => {
            Ok(First::Request(Request::Socks5(Socks5 { destination, caller, client })))
        }
        Ok((Asked::Lookup(host, question), caller)) => {
            let destination = Destination { host, port: 0 };
            Ok(First::Request(Request::Lookup(Lookup { destination, question, caller, client })))
        }
        Ok((Asked::Associate(source), caller)) => {
            let peer = client.get_ref().peer_addr()?.ip().to_canonical();
            let is_own = |source: &SocketAddr| source.ip().is_unspecified() || source.ip().to_canonical() == peer;
            // Some say where they will send to, or what they are called behind a translator.
            let port = source.filter(is_own).map(|source| source.port()).filter(|port| *port != 0);
            Ok(First::Associate(Associate { port, caller, client }))
        }
        Err(Refused { reply, why }) => {
            if let Some(reply) = reply {
                answer(&mut client, reply, &nowhere()).await?;
                part(client.into_inner()).await;
            }
            Err(why)
        }
    }
}

impl Socks5 {
    /// Answers that the connection stands. The address that we dialled from is none of the app's business.
    pub(crate) async fn grant(mut self) -> io::Result<(TcpStream, Vec<u8>)> {
        answer(&mut self.client, ReplyError::Succeeded, &nowhere()).await?;
        let early = self.client.buffer().to_vec();
        Ok((self.client.into_inner(), early))
    }

    pub(super) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        finish(self.client, failure.reply, &nowhere()).await
    }
}

impl Associate {
    /// Both ends of the connection, the client's first.
    pub(crate) fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let client = self.client.get_ref();
        Ok((client.peer_addr()?, client.local_addr()?))
    }

    /// Answers that datagrams are taken at `relay`.
    pub(crate) async fn grant(&mut self, relay: SocketAddr) -> io::Result<()> {
        answer(&mut self.client, ReplyError::Succeeded, &TargetAddr::Ip(relay)).await
    }

    /// Returns when the client wants no more, or says something: there is nothing to say, and to read on would
    /// be work for nothing.
    pub(crate) async fn ended(&self) {
        if self.client.buffer().is_empty() {
            let _ = self.client.get_ref().peek(&mut [0; 1]).await;
        }
    }

    /// Answers that it is not served.
    pub(crate) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        finish(self.client, failure.reply, &nowhere()).await
    }
}

impl Lookup {
    /// Answers with the first IPv4 address, as Tor does; who asks this way can mostly take no other.
    pub(crate) async fn answer_address(self, addresses: &[IpAddr]) -> io::Result<()> {
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let address = address.ok_or_else(|| io::Error::other("there is no address to answer with"))?;
        finish(self.client, ReplyError::Succeeded, &TargetAddr::Ip(SocketAddr::new(*address, 0))).await
    }

    /// Answers with a name.
    pub(crate) async fn answer_name(self, name: String) -> io::Result<()> {
        finish(self.client, ReplyError::Succeeded, &TargetAddr::Domain(name, 0)).await
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> Option<&Credentials> {
        self.caller.as_ref()
    }

    /// Returns when the client has broken off.
    pub(crate) async fn broken(&self) -> io::Error {
        stream::broken(self.client.get_ref()).await
    }

    /// Answers that it is not answered.
    pub(crate) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        finish(self.client, failure.reply, &nowhere()).await
    }
}

/// The last answer.
async fn finish(mut client: BufReader<TcpStream>, reply: ReplyError, address: &TargetAddr) -> io::Result<()> {
    answer(&mut client, reply, address).await?;
    part(client.into_inner()).await;
    Ok(())
}

fn nowhere() -> TargetAddr {
    TargetAddr::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

async fn answer(client: &mut (impl AsyncWrite + Unpin), reply: ReplyError, address: &TargetAddr) -> io::Result<()> {
    let mut message = vec![consts::SOCKS5_VERSION, reply.as_u8(), 0];
    message.extend(address.to_be_bytes().map_err(io::Error::other)?);
    client.write_all(&message).await
}

/// What a client wants, before anyone has judged it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Connect(Destination),
    /// Where datagrams are said to come from, if it is an address.
    Associate(Option<SocketAddr>),
    Lookup(Host, Question),
}

/// No request, and what the client is told, if it can be told anything.
#[derive(Debug)]
pub(super) struct Refused {
    reply: Option<ReplyError>,
    why: NoRequest,
}

impl From<NoRequest> for Refused {
    fn from(why: NoRequest) -> Self {
        Self { reply: None, why }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        NoRequest::from(error).into()
    }
}

fn refused(reply: ReplyError, message: impl Into<String>) -> Refused {
    Refused { reply: Some(reply), why: wrong(message) }
}

/// Greets a client and reads what it asks for. The library's own reading stops here: it answers
/// commands that it does not know by itself, Tor's among them.
pub(super) async fn handshake(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<(Asked, Option<Credentials>), Refused> {
    // Passwords first: curl, git and npm offer both and drop theirs if the other is chosen.
    let methods = [Method::AnyPassword(AnyPassword), Method::NoAuthentication(NoAuthentication)];
    let opened = Socks5ServerProtocol::start(client);
    let (client, caller) = match opened.negotiate_auth(&methods).await.map_err(broken)? {
        Chosen::AnyPassword(started) => started.accept().await?,
        Chosen::NoAuthentication(done) => (done.into_inner(), None),
    };
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != consts::SOCKS5_VERSION {
        return Err(wrong(format!("a client greeted by SOCKS5 and went on by version {version:#04x}")).into());
    }
    match command {
        consts::SOCKS5_CMD_TCP_CONNECT | consts::SOCKS5_CMD_UDP_ASSOCIATE | RESOLVE | RESOLVE_PTR => {}
        other => {
            let message = format!("a client asked SOCKS5 for command {other:#04x}, which is not served");
            return Err(refused(ReplyError::CommandNotSupported, message));
        }
    }
    // The name stays a name, whatever the library could resolve.
    let (text, port) = match read_address(client, kind).await.map_err(no_address)? {
        TargetAddr::Ip(address) if command == consts::SOCKS5_CMD_UDP_ASSOCIATE => {
            return Ok((Asked::Associate(Some(address)), caller));
        }
        TargetAddr::Domain(..) if command == consts::SOCKS5_CMD_UDP_ASSOCIATE => {
            return Ok((Asked::Associate(None), caller));
        }
        TargetAddr::Ip(address) => (address.ip().to_string(), address.port()),
        TargetAddr::Domain(name, port) => (name, port),
    };
    let malformed = |error: anyhow::Error| refused(ReplyError::GeneralFailure, format!("{error:#}"));
    let asked = match command {
        RESOLVE => Asked::Lookup(text.parse().map_err(malformed)?, Question::Address),
        RESOLVE_PTR => match text.parse().map_err(malformed)? {
            host @ Host::Ip(address) => Asked::Lookup(host, Question::Name(address)),
            Host::Name(name) => {
                let message = format!("a client asked SOCKS5 for the name of {name}, which is one and no address");
                return Err(refused(ReplyError::AddressTypeNotSupported, message));
            }
        },
        _ => Asked::Connect(Destination::new(&text, port).map_err(malformed)?),
    };
    Ok((asked, caller))
}

/// A greeting that came to nothing. The library has answered it.
fn broken(error: SocksServerError) -> NoRequest {
    match error {
        SocksServerError::Io { .. } | SocksServerError::EOF => NoRequest::Nothing,
        other => wrong(format!("a client made a wrong SOCKS5 request: {other}")),
    }
}

fn no_address(error: AddrError) -> Refused {
    match error {
        AddrError::IncorrectAddressType => {
            refused(ReplyError::AddressTypeNotSupported, "a client sent SOCKS5 a kind of address that there is not")
        }
        AddrError::Utf8(_) => refused(ReplyError::GeneralFailure, "a client sent SOCKS5 a name that is not UTF-8"),
        // It broke off in its middle.
        _ => NoRequest::Nothing.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read = Result<(Asked, Option<Credentials>), Refused>;

    /// What is made of `input`, the answers to it, and how much of it is left.
    fn read(mut input: &[u8]) -> (Read, Vec<u8>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut answers = Vec::new();
        let result = runtime.block_on(handshake(&mut tokio::io::join(&mut input, &mut answers)));
        (result, answers, input.len())
    }

    fn connect(host: &str, port: u16) -> Asked {
        Asked::Connect(Destination::new(host, port).unwrap())
    }

    #[test]
    fn spellings_become_one() {
        for (address, asked) in [
            (&b"\x01\xc0\x00\x02\x07\x00\x50"[..], connect("192.0.2.7", 80)),
            (b"\x03\x0a2130706433\x00\x50", connect("127.0.0.1", 80)),
            (b"\x03\x09Web.Test.\x01\xbb", connect("web.test", 443)),
            (b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50", connect("::1", 80)),
        ] {
            let (read, answers, rest) = read(&[b"\x05\x01\x00\x05\x01\x00", address, b"next"].concat());
            assert_eq!(read.unwrap(), (asked, None));
            assert_eq!((answers, rest), (vec![5, 0], 4));
        }
    }

    #[test]
    fn lookups() {
        let lookup = |request: &[u8]| read(&[b"\x05\x01\x00\x05", request].concat()).0;
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(
            lookup(b"\xf0\x00\x03\x06a.test\x00\x00").unwrap().0,
            Asked::Lookup(Host::Name("a.test".into()), Question::Address)
        );
        for address in [&b"\xf1\x00\x01\xc0\x00\x02\x07\x00\x00"[..], b"\xf1\x00\x03\x09192.0.2.7\x00\x50"] {
            assert_eq!(lookup(address).unwrap().0, Asked::Lookup(Host::Ip(v4), Question::Name(v4)));
        }
        let refused = lookup(b"\xf1\x00\x03\x06a.test\x00\x00").unwrap_err();
        assert!(matches!(refused.reply, Some(ReplyError::AddressTypeNotSupported)));
    }

    proptest! {
        #[test]
        fn credentials_of_every_length(user in prop::collection::vec(any::<u8>(), 0..256), password in prop::collection::vec(any::<u8>(), 0..256)) {
            let counted = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
            let login = [&[1][..], &counted(&user), &counted(&password)].concat();
            let input = [b"\x05\x02\x00\x02", &login[..], b"\x05\x01\x00\x03\x01a\x00\x50"].concat();
            let (read, answers, rest) = read(&input);
            prop_assert_eq!(read.unwrap(), (connect("a", 80), caller(&user, &password)));
            prop_assert_eq!((answers, rest), (vec![5, 2, 1, 0], 0));
        }

        #[test]
        fn never_panics_and_reads_little(input in prop::collection::vec(any::<u8>(), 0..1200), start in 0..4_usize) {
            let start: &[u8] = [&b""[..], b"\x05", b"\x05\x01\x00\x05\x01\x00", b"\x05\x01\x02\x01"][start];
            let (_, answers, _) = read(&[start, &input].concat());
            prop_assert!(answers.len() <= 4);
        }
    }
}
