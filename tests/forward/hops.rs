//! Upstreams of every kind that lead on to a fixed place, whatever name they are asked for, as if they
//! alone knew where it is.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use base64::prelude::{BASE64_STANDARD, Engine};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::lab::*;

/// One upstream, asked as `kind` says, that wants this login if any.
#[derive(Clone, Copy)]
pub struct Hop {
    pub kind: &'static str,
    pub login: Option<(&'static str, &'static str)>,
}

/// Hops by their kinds, `+` before those that want a login.
pub fn hops(kinds: &'static str) -> Vec<Hop> {
    let hop = |kind: &'static str| match kind.strip_prefix('+') {
        Some(kind @ "socks4a") => Hop { kind, login: Some(("me", "")) },
        Some(kind) => Hop { kind, login: Some(("me", "p@:ss")) },
        None => Hop { kind, login: None },
    };
    kinds.split(' ').map(hop).collect()
}

/// The names that the fakes' certificate is for.
const CERTIFIED: [&str; 3] = ["127.0.0.1", "hop1.test", "hop2.test"];

struct Identity {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let issued = rcgen::generate_simple_self_signed(CERTIFIED.map(str::to_owned)).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    Identity { certificate, acceptor: TlsAcceptor::from(Arc::new(config)) }
});

/// Who vouches for the fakes.
pub fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(IDENTITY.certificate.clone()).unwrap();
    roots
}

/// Puts the fakes' side of TLS on `stream`.
pub async fn accept_tls(stream: TcpStream) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    IDENTITY.acceptor.accept(stream).await
}

/// Starts `hops`, the last of which leads to `end`. Returns their specs, one a line, the logins in them
/// being `logins`, and what they were asked for. The first is known by its address, the others by names.
pub async fn chain(hops: &[Hop], end: SocketAddr) -> (String, Seen) {
    let log = Seen::default();
    let mut onward = end;
    let mut specs = Vec::new();
    for (index, hop) in hops.iter().enumerate().rev() {
        let login = match hop {
            Hop { login: None, .. } => String::new(),
            Hop { kind: "socks4a", login: Some((user, _)) } => format!("{user}@"),
            Hop { login: Some((user, _)), .. } => format!("{user}:p%40%3Ass@"),
        };
        if hop.kind == "unix" {
            specs.push(unix_upstream(*hop, onward, Arc::clone(&log)));
            continue;
        }
        let address = upstream(*hop, onward, Arc::clone(&log)).await;
        let host = if index == 0 { "127.0.0.1".to_owned() } else { format!("hop{index}.test") };
        specs.push(format!("{}://{login}{host}:{}", hop.kind, address.port()));
        onward = address;
    }
    specs.reverse();
    (specs.join("\n"), log)
}

/// Starts one upstream that leads to `onward`.
pub async fn upstream(hop: Hop, onward: SocketAddr, log: Seen) -> SocketAddr {
    server(move |stream| {
        let log = Arc::clone(&log);
        async move {
            let _ = if hop.kind == "https" {
                match accept_tls(stream).await {
                    Ok(stream) => serve(stream, hop, onward, &log).await,
                    Err(error) => Err(error),
                }
            } else {
                serve(stream, hop, onward, &log).await
            };
        }
    })
    .await
}

fn unix_upstream(hop: Hop, onward: SocketAddr, log: Seen) -> String {
    let directory = tempfile::tempdir().unwrap().keep();
    let path = directory.join("socks");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move { serve(stream, hop, onward, &log).await });
        }
    });
    format!("unix:{}", path.display())
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    hop: Hop,
    onward: SocketAddr,
    log: &Seen,
) -> std::io::Result<()> {
    // What came with the request is the next one's.
    let mut stream = BufReader::new(stream);
    let asked = match hop.kind {
        "socks4a" => socks4a_request(&mut stream, hop.login).await?,
        "http" | "https" => http_request(&mut stream, hop.login).await?,
        _ => socks5_request(&mut stream, hop.login).await?.map(|(_, target)| target),
    };
    let Some(target) = asked else { return Ok(()) };
    log.lock().unwrap().push(format!("{} {target}", hop.kind));
    let there = TcpStream::connect(onward).await;
    let answer: &[u8] = match (hop.kind, &there) {
        ("socks4a", Ok(_)) => &[0, 0x5a, 0, 0, 0, 0, 0, 0],
        ("socks4a", Err(_)) => &[0, 0x5b, 0, 0, 0, 0, 0, 0],
        ("http" | "https", Ok(_)) if target.starts_with("GET") => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy"
        }
        ("http" | "https", Ok(_)) => b"HTTP/1.1 200 OK\r\n\r\n",
        ("http" | "https", Err(_)) => b"HTTP/1.1 502 Bad\r\n\r\n",
        (_, Ok(_)) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        (_, Err(_)) => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0],
    };
    stream.write_all(answer).await?;
    stream.flush().await?;
    tokio::io::copy_bidirectional(&mut stream, &mut there?).await?;
    Ok(())
}

async fn socks4a_request(
    stream: &mut (impl AsyncBufRead + AsyncWrite + Unpin),
    login: Option<(&str, &str)>,
) -> std::io::Result<Option<String>> {
    assert_eq!((stream.read_u8().await?, stream.read_u8().await?), (4, 1));
    let port = stream.read_u16().await?;
    let address = stream.read_u32().await?;
    let mut text = Vec::new();
    stream.read_until(0, &mut text).await?;
    let user = String::from_utf8(text).unwrap();
    if login.is_some_and(|(wanted, _)| user != format!("{wanted}\0")) {
        stream.write_all(&[0, 0x5d, 0, 0, 0, 0, 0, 0]).await?;
        return Ok(None);
    }
    if address > 0xff {
        return Ok(Some(format!("{} {port}", std::net::Ipv4Addr::from(address))));
    }
    let mut name = Vec::new();
    stream.read_until(0, &mut name).await?;
    Ok(Some(format!("name {} {port}", String::from_utf8(name).unwrap().trim_end_matches('\0'))))
}

async fn http_request(
    stream: &mut (impl AsyncBufRead + AsyncWrite + Unpin),
    login: Option<(&str, &str)>,
) -> std::io::Result<Option<String>> {
    let head = head(stream).await;
    let wanted = login.map(|(user, password)| BASE64_STANDARD.encode(format!("{user}:{password}")));
    if wanted.is_some_and(|wanted| !head.contains(&format!("Proxy-Authorization: Basic {wanted}\r\n"))) {
        stream.write_all(b"HTTP/1.1 407 No\r\n\r\n").await?;
        stream.flush().await?;
        return Ok(None);
    }
    let line = head.lines().next().unwrap_or_default();
    Ok(Some(match line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()?.rsplit_once(':')) {
        Some((host, port)) if host.parse::<std::net::Ipv4Addr>().is_err() => format!("name {host} {port}"),
        Some((host, port)) => format!("{host} {port}"),
        None => line.to_owned(),
    }))
}
