//! SOCKS5 from the app (RFC 1928), by fast-socks5's typestates.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use fast_socks5::server::{
    AuthMethod, AuthMethodSuccessState, NoAuthentication, NoAuthenticationImpl, Socks5ServerProtocol, SocksServerError,
    states::CommandRead,
};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command, auth_method_enums};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::destination::Destination;

use super::{Failure, NoRequest, wrong};

/// Username/password (RFC 1929), any of them good. The library's own method refuses empty ones and
/// those that are not UTF-8, which clients do send; and nothing needs to know them.
#[derive(Clone, Copy)]
struct AnyPassword;

struct AnyPasswordStarted<T>(T);

struct AnyPasswordDone<T>(T);

impl<T> AuthMethod<T> for AnyPassword {
    type StartingState = AnyPasswordStarted<T>;

    fn method_id(self) -> u8 {
        2
    }

    fn new(self, inner: T) -> Self::StartingState {
        AnyPasswordStarted(inner)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AnyPasswordStarted<T> {
    async fn accept(self) -> io::Result<AnyPasswordDone<T>> {
        let mut stream = self.0;
        let _version = stream.read_u8().await?;
        for _user_then_password in 0..2 {
            let mut ignored = vec![0; usize::from(stream.read_u8().await?)];
            stream.read_exact(&mut ignored).await?;
        }
        stream.write_all(&[1, 0]).await?;
        Ok(AnyPasswordDone(stream))
    }
}

impl<T> AuthMethodSuccessState<T> for AnyPasswordDone<T> {
    fn into_inner(self) -> T {
        self.0
    }
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
    protocol: Socks5ServerProtocol<TcpStream, CommandRead>,
}

impl Socks5 {
    /// Reads a request. Every message of the protocol says its length in one byte, so none is long.
    pub(super) async fn read(client: TcpStream) -> Result<Self, NoRequest> {
        // Passwords first: curl, git and npm offer both and drop theirs if the other is chosen.
        let methods = [Method::AnyPassword(AnyPassword), Method::NoAuthentication(NoAuthentication)];
        let opened = Socks5ServerProtocol::start(client);
        let authenticated = match opened.negotiate_auth(&methods).await.map_err(broken)? {
            Chosen::AnyPassword(started) => started.accept().await?.finish_auth(),
            Chosen::NoAuthentication(done) => done.finish_auth(),
        };
        // Unknown commands and address types are answered by the library.
        let (protocol, command, target) = authenticated.read_command().await.map_err(broken)?;
        if command != Socks5Command::TCPConnect {
            let _ = protocol.reply_error(&ReplyError::CommandNotSupported).await;
            return Err(wrong("a client asked SOCKS5 for UDP or BIND, which come with a later version"));
        }
        // The name stays a name, whatever the library could resolve.
        let destination = match &target {
            TargetAddr::Ip(address) => Destination::from_ip(address.ip(), address.port()),
            TargetAddr::Domain(name, port) => Destination::new(name, *port),
        };
        match destination {
            Ok(destination) => Ok(Self { destination, protocol }),
            Err(error) => {
                let _ = protocol.reply_error(&ReplyError::GeneralFailure).await;
                Err(wrong(format!("{error:#}")))
            }
        }
    }

    /// Answers that the connection stands.
    pub(crate) async fn grant(self) -> io::Result<TcpStream> {
        // The address that we dialled from is none of the app's business.
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.protocol.reply_success(nowhere).await.map_err(io::Error::other)
    }

    pub(super) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        self.protocol.reply_error(&failure.reply).await.map_err(io::Error::other)
    }
}

fn broken(error: SocksServerError) -> NoRequest {
    match error {
        SocksServerError::Io { .. } | SocksServerError::EOF => NoRequest::Nothing,
        // An address that breaks off in its middle arrives as an error about the address.
        SocksServerError::AddrError(_) => wrong("a client sent SOCKS5 an address that is none"),
        other => wrong(format!("a client made a wrong SOCKS5 request: {other}")),
    }
}
