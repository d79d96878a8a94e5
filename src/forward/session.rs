//! One connection from its first byte to its last.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::destination::{Destination, Host};

use super::Forwarder;
use super::failure::Failure;
use super::limits::REFUSAL_TIME;
use super::relay::{Traffic, relay, write_all};
use super::request::{After, Client, Form, Lookup, NoRequest, Plain, Question, Request};
use super::stream::Stream;
use super::upstream::Connected;

/// A peer that is silent this long is asked for a sign of life; a vanished one frees its place.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);

/// Serves one client. If the house is full, it is told so as soon as it has made its request.
pub(super) async fn serve(forwarder: &Forwarder, client: TcpStream, is_full: bool) {
    prepare(&client);
    // Getting connected takes more memory than being so: boxed, it does not stay in this task.
    let mut next = Box::pin(listen(forwarder, Request::read(client), is_full)).await;
    while let Some(request) = next {
        let started = Instant::now();
        let client = match Box::pin(judge(forwarder, request, is_full)).await {
            Ok(request) => answer(forwarder, request, started).await,
            Err(client) => client,
        };
        next = match client {
            Some(client) if !is_full => Box::pin(listen_again(forwarder, client)).await,
            _ => return,
        };
    }
}

/// Does what is asked, and logs it. Returns the client if it may ask for something else.
async fn answer(forwarder: &Forwarder, request: Request, started: Instant) -> Option<Client> {
    let destination = request.destination().clone();
    let traffic = Traffic::default();
    let Served { outcome, after } = match request {
        Request::Plain(plain) => Box::pin(exchange(forwarder, *plain, &traffic)).await,
        Request::Lookup(lookup) => Served::done(Box::pin(look_up(forwarder, lookup)).await),
        request => match Box::pin(connect(forwarder, request)).await {
            Ok(open) => Served { outcome: Ok(()), after: Next::Tunnel(open) },
            Err(failure) => Served::done(Err(failure)),
        },
    };
    let (outcome, client) = match after {
        Next::Tunnel(Open { client, early, upstream }) => {
            let carried = carry(&client, &early, upstream, &traffic).await;
            (carried.map_err(|error| Failure::system("broke off", &error)), None)
        }
        Next::Client(client) => (outcome, Some(client)),
        Next::Nothing => (outcome, None),
    };
    let Traffic { sent, received } = &traffic;
    let (sent, received) = (sent.load(Relaxed), received.load(Relaxed));
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(()) => info!(%destination, via = forwarder.via, sent, received, ms, "done"),
        // Connections break off; that there is none is worth more attention.
        Err(failure) if received > 0 => info!(%destination, via = forwarder.via, sent, received, ms, "{failure}"),
        Err(failure) => warn!(%destination, via = forwarder.via, sent, ms, "{failure}"),
    }
    client
}

/// Waits for a request; `None` if none comes.
async fn listen(
    forwarder: &Forwarder,
    reading: impl Future<Output = Result<Request, NoRequest>>,
    is_full: bool,
) -> Option<Request> {
    let time = if is_full { REFUSAL_TIME } else { forwarder.limits.handshake };
    match timeout(time, reading).await {
        Ok(Ok(request)) => return Some(request),
        Ok(Err(NoRequest::Nothing)) => {}
        Ok(Err(NoRequest::Wrong(failure))) => warn!("{failure}"),
        Err(_) => debug!("closed a connection that made no request in {time:?}"),
    }
    None
}

/// Waits for one more request by a connection that has served one.
async fn listen_again(forwarder: &Forwarder, client: Client) -> Option<Request> {
    let client = timeout(forwarder.limits.keep_alive, client.next()).await.ok()?.ok()??;
    listen(forwarder, Request::read_next(client), false).await
}

/// Returns the request if it may be served; if it may not, the client if it may ask for something else.
async fn judge(forwarder: &Forwarder, request: Request, is_full: bool) -> Result<Request, Option<Client>> {
    forwarder.reporter.request();
    let judged = if is_full { Err(Failure::full()) } else { forwarder.admission.check(request.destination()) };
    let Err(failure) = judged else { return Ok(request) };
    warn!(destination = %request.destination(), via = forwarder.via, "{failure}");
    Err(request.refuse(&failure).await)
}

/// What became of a request, and what comes after it.
struct Served {
    outcome: Result<(), Failure>,
    after: Next,
}

enum Next {
    Nothing,
    Client(Client),
    Tunnel(Open),
}

impl Served {
    /// Nothing comes after it.
    fn done(outcome: Result<(), Failure>) -> Self {
        Self { outcome, after: Next::Nothing }
    }
}

/// An open tunnel.
struct Open {
    client: Stream,
    /// What the client sent before it was open.
    early: Vec<u8>,
    upstream: Connected,
}

/// Connects a tunnel and says so.
async fn connect(forwarder: &Forwarder, request: Request) -> Result<Open, Failure> {
    let upstream = match forwarder.upstream.tunnel(request.destination(), request.caller(), &forwarder.admission).await
    {
        Ok(upstream) => upstream,
        Err(failure) => {
            // Before the app hears of it: it may be over at once, and the launcher with it.
            forwarder.reporter.failure(&failure);
            request.refuse(&failure).await;
            return Err(failure);
        }
    };
    if let Stream::Tcp(stream) = &upstream.stream {
        prepare(stream);
    }
    let (client, early) = request.grant().await.map_err(|error| Failure::system("the client went away", &error))?;
    Ok(Open { client: Stream::Tcp(client), early, upstream })
}

async fn carry(client: &Stream, early: &[u8], upstream: Connected, traffic: &Traffic) -> io::Result<()> {
    let Connected { stream, early: answered } = upstream;
    write_all(&stream, early).await?;
    write_all(client, &answered).await?;
    traffic.sent.fetch_add(early.len() as u64, Relaxed);
    traffic.received.fetch_add(answered.len() as u64, Relaxed);
    let result = relay(client, &stream, traffic).await;
    if result.is_err() {
        // What broke off must not look like an end to either side.
        client.reset_on_close();
        stream.reset_on_close();
    }
    result
}

/// Carries one absolute-form request and its answer.
async fn exchange(forwarder: &Forwarder, plain: Plain, traffic: &Traffic) -> Served {
    let Forwarder { upstream, admission, reporter, .. } = forwarder;
    let connected = if plain.is_upgrade() {
        let tunnel = upstream.tunnel(&plain.destination, plain.caller(), admission).await;
        tunnel.map(|connected| (connected, Form::Origin))
    } else {
        upstream.plain(&plain.destination, plain.caller(), admission).await
    };
    let (upstream, form) = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            reporter.failure(&failure);
            let after = plain.refuse(&failure).await.map_or(Next::Nothing, Next::Client);
            return Served { outcome: Err(failure), after };
        }
    };
    match plain.exchange(upstream, &form, traffic, |failure| reporter.failure(failure)).await {
        Ok(After::Next(client)) => Served { outcome: Ok(()), after: Next::Client(client) },
        Ok(After::Nothing) => Served::done(Ok(())),
        Ok(After::Tunnel { client, early, upstream }) => {
            let open = Open { client: Stream::Tcp(client), early, upstream };
            Served { outcome: Ok(()), after: Next::Tunnel(open) }
        }
        Err(failure) => Served::done(Err(failure)),
    }
}

/// Answers a question without a connection to anywhere.
async fn look_up(forwarder: &Forwarder, lookup: Lookup) -> Result<(), Failure> {
    let Forwarder { upstream, admission, reporter, .. } = forwarder;
    let Destination { host, .. } = &lookup.destination;
    let found = match (host, lookup.question) {
        (_, Question::Name(address)) => {
            upstream.resolve_ptr(address, lookup.caller(), admission).await.map(Found::Name)
        }
        // Who asks for the address of an address knows it.
        (Host::Ip(address), Question::Address) => Ok(Found::Addresses(vec![*address])),
        (Host::Name(name), Question::Address) => {
            upstream.resolve(name, lookup.caller(), admission).await.map(Found::Addresses)
        }
    };
    let answered = match found {
        Ok(Found::Addresses(addresses)) => lookup.answer_address(&addresses).await,
        Ok(Found::Name(name)) => lookup.answer_name(name).await,
        Err(failure) => {
            reporter.failure(&failure);
            let _ = lookup.refuse(&failure).await;
            return Err(failure);
        }
    };
    answered.map_err(|error| Failure::system("the client went away", &error))
}

enum Found {
    Addresses(Vec<IpAddr>),
    Name(String),
}

/// Best effort: a socket without these works as well, if not as nicely.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER);
}
