//! What tests/bench/forwarder.py measures proxies with: an origin, and clients of it. Blocking, a thread a
//! stream, with as few system calls as there can be, so that what is between them is what takes the time.
//!
//! ```text
//! load origin ADDRESS                       listens there, prints its address, serves until it is killed
//! load bulk WAY ORIGIN STREAMS BYTES        BYTES in all by STREAMS connections; prints seconds
//! load rate WAY ORIGIN CLIENTS COUNT        COUNT connections, CLIENTS at a time; prints seconds
//! load trip WAY ORIGIN COUNT                one byte there and back, COUNT times; prints the median's seconds
//! load idle WAY ORIGIN COUNT                opens COUNT, prints a line; at a line of input how many still live
//! ```
//!
//! A WAY is `direct`, `socks5://IP:PORT` or `http://IP:PORT`.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// One write's or read's worth.
const PIECE: usize = 256 * 1024;
/// For any one answer. A connection that was lost must not hang the measurement.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the origin is asked for: that many bytes, as a number behind it; the one byte behind it, again and again;
/// the same once, and then the end.
const SEND: u8 = b'S';
const ECHO: u8 = b'E';
const ANSWER: u8 = b'A';

/// How a client gets to the origin.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Socks5(SocketAddr),
    Http(SocketAddr),
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["origin", address] => serve(address.parse()?),
        ["bulk", way, origin, streams, bytes] => {
            print_seconds(bulk(Way::parse(way)?, origin.parse()?, streams.parse()?, bytes.parse()?)?)
        }
        ["rate", way, origin, clients, count] => {
            print_seconds(rate(Way::parse(way)?, origin.parse()?, clients.parse()?, count.parse()?)?)
        }
        ["trip", way, origin, count] => print_seconds(trip(Way::parse(way)?, origin.parse()?, count.parse()?)?),
        ["idle", way, origin, count] => idle(Way::parse(way)?, origin.parse()?, count.parse()?),
        _ => bail!("see the head of {}", file!()),
    }
}

fn print_seconds(time: Duration) -> Result<()> {
    println!("{:.9}", time.as_secs_f64());
    Ok(())
}

impl Way {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text.split_once("://") {
            None if text == "direct" => Self::Direct,
            Some(("socks5", proxy)) => Self::Socks5(proxy.parse()?),
            Some(("http", proxy)) => Self::Http(proxy.parse()?),
            _ => bail!("{text} is no way"),
        })
    }

    /// A connection to the origin.
    fn open(self, origin: SocketAddr) -> Result<TcpStream> {
        let at = match self {
            Self::Direct => origin,
            Self::Socks5(proxy) | Self::Http(proxy) => proxy,
        };
        let mut stream = TcpStream::connect(at).with_context(|| format!("cannot connect to {at}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match self {
            Self::Direct => {}
            Self::Socks5(_) => socks5(&mut stream, origin).context("the SOCKS5 proxy")?,
            Self::Http(_) => connect(&mut stream, origin).context("the HTTP proxy")?,
        }
        Ok(stream)
    }
}

/// RFC 1928, without a password.
fn socks5(stream: &mut TcpStream, origin: SocketAddr) -> Result<()> {
    let SocketAddr::V4(origin) = origin else { bail!("the origin has an IPv4 address") };
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    ensure!(method == [5, 0], "chose {method:?}");
    let request = [&[5, 1, 0, 1][..], &origin.ip().octets(), &origin.port().to_be_bytes()].concat();
    stream.write_all(&request)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    ensure!(answer[..4] == [5, 0, 0, 1], "answered {answer:?}");
    Ok(())
}

fn connect(stream: &mut TcpStream, origin: SocketAddr) -> Result<()> {
    stream.write_all(format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    // Nothing but the head comes before the origin is asked for something.
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "ended");
        head.extend_from_slice(&piece[..count]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 200"), "answered {}", String::from_utf8_lossy(&head));
    Ok(())
}

fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        // A client that gave up is no end of this.
        let Ok(stream) = stream else { continue };
        // Thousands of them are idle: what a thread does not touch of its stack costs nothing.
        let _gone = thread::Builder::new().stack_size(64 * 1024).spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wish = [0];
    stream.read_exact(&mut wish)?;
    match wish[0] {
        SEND => {
            let mut size = [0; 8];
            stream.read_exact(&mut size)?;
            let mut left = usize::try_from(u64::from_be_bytes(size)).map_err(io::Error::other)?;
            let piece = vec![7; PIECE];
            while left > 0 {
                let count = left.min(PIECE);
                stream.write_all(&piece[..count])?;
                left -= count;
            }
        }
        ECHO => {
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 {
                stream.write_all(&byte)?;
            }
        }
        ANSWER => stream.write_all(&wish)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(())
}

fn bulk(way: Way, origin: SocketAddr, streams: usize, bytes: usize) -> Result<Duration> {
    let share = bytes / streams;
    let opened: Vec<_> = (0..streams).map(|_| way.open(origin)).collect::<Result<_>>()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let readers: Vec<_> = opened.into_iter().map(|stream| scope.spawn(move || fetch(stream, share))).collect();
        readers.into_iter().try_for_each(joined)
    })?;
    Ok(started.elapsed())
}

fn fetch(mut stream: TcpStream, bytes: usize) -> Result<()> {
    stream.write_all(&[SEND])?;
    stream.write_all(&u64::try_from(bytes)?.to_be_bytes())?;
    let mut piece = vec![0; PIECE];
    let mut got = 0;
    // Not the end of the stream: tun2proxy 0.8.7 does not pass it on.
    while got < bytes {
        match stream.read(&mut piece)? {
            0 => break,
            count => got += count,
        }
    }
    ensure!(got == bytes, "got {got} bytes of {bytes}");
    Ok(())
}

fn rate(way: Way, origin: SocketAddr, clients: usize, count: usize) -> Result<Duration> {
    let taken = AtomicUsize::new(0);
    let client = || {
        while taken.fetch_add(1, Ordering::Relaxed) < count {
            let mut stream = way.open(origin)?;
            stream.write_all(&[ANSWER])?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            ensure!(answer == [ANSWER], "the answer was {answer:?}");
        }
        Ok(())
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(joined)
    })?;
    Ok(started.elapsed())
}

fn trip(way: Way, origin: SocketAddr, count: usize) -> Result<Duration> {
    let mut stream = way.open(origin)?;
    stream.write_all(&[ECHO])?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        echo(&mut stream)?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times.get(count / 2).copied().context("no trip was asked for")
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [42];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    ensure!(byte == [42], "another byte came back");
    Ok(())
}

fn idle(way: Way, origin: SocketAddr, count: usize) -> Result<()> {
    let open = || {
        let mut stream = way.open(origin)?;
        stream.write_all(&[ECHO])?;
        echo(&mut stream)?;
        anyhow::Ok(stream)
    };
    // One that cannot even be opened is lost, too.
    let mut opened: Vec<_> = (0..count).filter_map(|_| open().ok()).collect();
    println!("{}", opened.len());
    io::stdin().lock().read_line(&mut String::new())?;
    println!("{}", opened.iter_mut().filter_map(|stream| echo(stream).ok()).count());
    Ok(())
}

fn joined(handle: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    handle.join().unwrap_or_else(|_| bail!("a client panicked"))
}
