//! A forwarder, upstreams that write down what they are asked, and clients.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use appfw::destination::Rules;
use appfw::forward::{Forwarder, Limits, serve, serve_relay};
use appfw::via::Via;
use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Long enough for a loaded machine; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where what listens on 127.0.0.1 is found by whoever goes direct (connect(2) takes it for that), though it
/// is not what the forwarder itself dials of the loopback.
pub const UNSPECIFIED: &str = "0.0.0.0";

/// A place in the code that is met first in one test while another one begins to listen may stay silent for all
/// (tracing-core: its interest is asked for before it is known). With somebody who always listens none does.
static SUBSCRIBED: Once = Once::new();

/// `via` may be several specs, one a line.
pub fn forwarder(via: &str, allowed: &[&str], limits: Limits) -> Forwarder {
    SUBSCRIBED.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
    let via = Via::parse(&via.lines().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Forwarder::new(&via, allowed, limits).unwrap()
}

/// Runs a forwarder; it ends with the test's runtime.
pub async fn run(forwarder: Forwarder) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(forwarder), std::future::pending()));
    address
}

/// The same with a relay for UDP, at the same address and port.
pub async fn run_with_relay(forwarder: Forwarder) -> SocketAddr {
    let (listener, relay) = on_both().await;
    let address = listener.local_addr().unwrap();
    let forwarder = Arc::new(forwarder.with_relay(relay).unwrap());
    tokio::spawn(serve_relay(Arc::clone(&forwarder)));
    tokio::spawn(serve(listener, forwarder, std::future::pending()));
    address
}

/// A port of 127.0.0.1 for TCP and UDP. One that the kernel picks for one is not always free for the other.
pub async fn on_both() -> (TcpListener, UdpSocket) {
    for _ in 0..20 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            return (listener, socket);
        }
    }
    panic!("no port is free for both")
}

pub async fn start(via: &str, allowed: &[&str]) -> SocketAddr {
    run(forwarder(via, allowed, Limits::default())).await
}

/// The same with rules: `--only` and `--block` with their values, as on a command line.
pub async fn start_ruled(via: &str, allowed: &[&str], line: &str) -> SocketAddr {
    run(forwarder(via, allowed, Limits::default()).with_rules(rules(line))).await
}

pub fn rules(line: &str) -> Rules {
    let mut rules = Rules::default();
    let words: Vec<&str> = line.split_whitespace().collect();
    for pair in words.chunks(2) {
        match pair {
            ["--only", pattern] => rules.only.push(pattern.parse().unwrap()),
            ["--block", pattern] => rules.block.push(pattern.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    rules
}

/// A port of 127.0.0.1 for somebody to listen on: free just now.
pub async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A port of 127.0.0.1 where nobody listens, as it is bound for good: another test would take it soon.
pub fn dead() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// What a fake saw, in order.
pub type Seen = Arc<Mutex<Vec<String>>>;

pub fn seen(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap().clone()
}

/// Serves each connection with `handler`.
pub async fn server<F, T>(handler: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handler(stream));
        }
    });
    address
}

/// Sends everything back, and ends when the client ends.
pub async fn echo() -> SocketAddr {
    server(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// Says how many bytes it got, once the client has finished.
pub async fn patient() -> SocketAddr {
    server(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await
}

/// Says "bye" and finishes first, and goes on listening.
pub async fn hasty() -> (SocketAddr, Seen) {
    let heard = Seen::default();
    let kept = Arc::clone(&heard);
    let address = server(move |mut stream| {
        let heard = Arc::clone(&heard);
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            heard.lock().unwrap().push(all);
        }
    })
    .await;
    (address, kept)
}

/// Returns when a fake has heard `what`.
pub async fn hears(heard: &Seen, what: &str) {
    let started = std::time::Instant::now();
    while !seen(heard).iter().any(|one| one == what) {
        assert!(started.elapsed() < PATIENCE, "{what:?} does not arrive: {:?}", seen(heard));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A SOCKS5 server as `login` wants it, which answers `code` and then echoes.
pub async fn socks5(login: Option<(&'static str, &'static str)>, code: u8) -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |stream| {
        let log = Arc::clone(&log);
        async move {
            let _ = socks5_session(stream, login, code, &log).await;
        }
    })
    .await;
    (address, kept)
}

pub async fn socks5_session(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    login: Option<(&str, &str)>,
    code: u8,
    log: &Seen,
) -> std::io::Result<()> {
    let note = |line: String| log.lock().unwrap().push(line);
    let Some((given, target)) = socks5_request(&mut stream, login).await? else { return Ok(()) };
    if let Some(given) = given {
        note(format!("login {given}"));
    }
    note(format!("connect {target}"));
    stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

/// Reads a SOCKS5 client's login, if it made one, and its target; `None` if it was turned away.
pub async fn socks5_request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: Option<(&str, &str)>,
) -> std::io::Result<Option<(Option<String>, String)>> {
    assert_eq!(stream.read_u8().await?, 5);
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    let mut given = None;
    if methods.contains(&2) {
        stream.write_all(&[5, 2]).await?;
        assert_eq!(stream.read_u8().await?, 1);
        let user = counted(stream).await?;
        let password = counted(stream).await?;
        let good = login.is_none_or(|login| login == (&user, &password));
        stream.write_all(&[1, u8::from(!good)]).await?;
        if !good {
            return Ok(None);
        }
        given = Some(format!("{user} {password}"));
    } else if login.is_some() {
        stream.write_all(&[5, 0xff]).await?;
        return Ok(None);
    } else {
        stream.write_all(&[5, 0]).await?;
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let target = match head[3] {
        1 => std::net::Ipv4Addr::from(stream.read_u32().await?).to_string(),
        3 => format!("name {}", counted(stream).await?),
        _ => format!("[{}]", std::net::Ipv6Addr::from(stream.read_u128().await?)),
    };
    Ok(Some((given, format!("{target} {}", stream.read_u16().await?))))
}

async fn counted(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut text = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut text).await?;
    Ok(String::from_utf8(text).unwrap())
}

/// An HTTP proxy that writes down every head; CONNECT is granted with `greeting` behind the head.
pub async fn http_proxy(login: Option<&'static str>, greeting: &'static str) -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |stream| {
        let log = Arc::clone(&log);
        async move {
            let mut stream = BufReader::new(stream);
            let head = head(&mut stream).await;
            log.lock().unwrap().push(head.clone());
            let wanted = login.map(|login| format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(login)));
            let answer = if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
                "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else if head.starts_with("CONNECT ") {
                format!("HTTP/1.1 200 OK\r\nX: y\r\n\r\n{greeting}")
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nproxy".to_owned()
            };
            let _ = stream.write_all(answer.as_bytes()).await;
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        }
    })
    .await;
    (address, kept)
}

/// A web server that writes down each request, body included, and gives `answer`.
pub async fn origin(answer: &'static str) -> (SocketAddr, Seen) {
    let log = Seen::default();
    let kept = Arc::clone(&log);
    let address = server(move |stream| {
        let log = Arc::clone(&log);
        async move {
            let mut stream = BufReader::new(stream);
            let mut request = head(&mut stream).await;
            let line = |name: &str| request.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(length) = line("Content-Length: ") {
                let mut body = vec![0; length.parse().unwrap()];
                let _ = stream.read_exact(&mut body).await;
                request += &String::from_utf8_lossy(&body);
            } else if line("Transfer-Encoding: ").is_some() {
                while !request.ends_with("0\r\n\r\n") {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                        break;
                    }
                    request += &line;
                }
            }
            log.lock().unwrap().push(request);
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (address, kept)
}

pub async fn head(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            break;
        }
    }
    head
}

/// Asks by SOCKS5 for a name (or an address written as one). Returns the reply code.
pub async fn socks(forwarder: SocketAddr, host: &str, port: u16) -> (u8, TcpStream) {
    let mut address = vec![3, u8::try_from(host.len()).unwrap()];
    address.extend_from_slice(host.as_bytes());
    socks_raw(forwarder, &address, port).await
}

/// Asks by SOCKS5 for an address in the protocol's own form.
pub async fn socks_raw(forwarder: SocketAddr, address: &[u8], port: u16) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await.unwrap();
    assert_eq!(chosen, [5, 0]);
    let request = [&[5, 1, 0], address, &port.to_be_bytes()].concat();
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await.expect("no reply").unwrap();
    (reply[1], stream)
}

/// Says `request`, and that it is all, and returns everything that comes back.
pub async fn say(forwarder: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(forwarder).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Says `word` through an open tunnel to an echo server.
pub async fn echoes(stream: &mut TcpStream, word: &str) -> bool {
    stream.write_all(word.as_bytes()).await.unwrap();
    let mut back = vec![0; word.len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await;
    read.expect("no echo").unwrap();
    back == word.as_bytes()
}
