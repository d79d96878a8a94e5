//! One connection from its first byte to its last.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::destination::{Destination, Host};

use super::Forwarder;
use super::failure::Failure;
use super::limits::{KEEPALIVE_AFTER, REFUSAL_TIME};
use super::record::Record;
use super::relay::{Traffic, relay, write_all};
use super::request::{After, Client, First, Form, Forwarded, Lookup, NoRequest, Plain, Question, Request};
use super::stream::Stream;
use super::udp;
use super::upstream::Connected;

/// Serves one client, who says where it wants to go unless `service` is what it came for. If the house is
/// full, it is told so as soon as it has made its request.
pub(super) async fn serve(forwarder: &Forwarder, client: TcpStream, service: Option<Arc<Destination>>, is_full: bool) {
    // Getting connected takes more memory than being so: boxed, it does not stay in this task.
    let Some((record, open)) = Box::pin(open(forwarder, client, service, is_full)).await else { return };
    let Open { client, early, upstream } = open;
    let carried = carry(forwarder, &client, &early, upstream, &record.traffic).await;
    record.write(forwarder, carried.map_err(|error| Failure::system("broke off", &error)));
}

/// Serves requests until one opens a tunnel; `None` if none does.
async fn open(
    forwarder: &Forwarder,
    client: TcpStream,
    service: Option<Arc<Destination>>,
    is_full: bool,
) -> Option<(Record, Open)> {
    let first = match service {
        Some(service) => {
            let destination = Arc::unwrap_or_clone(service);
            First::Request(Request::Forwarded(Forwarded { client, destination }))
        }
        None => {
            let reading = First::read(client, forwarder.limits.head, &forwarder.heads);
            listen(forwarder, reading, is_full).await?
        }
    };
    let mut request = match first {
        First::Request(request) => request,
        First::Associate(asked) => {
            udp::serve(forwarder, asked, is_full).await;
            return None;
        }
    };
    loop {
        let client = match admit(forwarder, request, is_full).await {
            Ok(request) => {
                let record = forwarder.record(request.destination());
                match answer(forwarder, request, &record.traffic).await {
                    Answered::Open(open) => return Some((record, open)),
                    Answered::Over(outcome, client) => {
                        record.write(forwarder, outcome);
                        client
                    }
                }
            }
            Err(client) => client,
        };
        request = listen_again(forwarder, client?).await?;
    }
}

/// What became of a request.
enum Answered {
    /// A tunnel is open.
    Open(Open),
    /// It is over, and the client may ask for something else if it is still there.
    Over(Result<(), Failure>, Option<Client>),
}

/// Does what is asked.
async fn answer(forwarder: &Forwarder, request: Request, traffic: &Traffic) -> Answered {
    match request {
        // The same again: connections that wait for their next request are many.
        Request::Plain(plain) => Box::pin(exchange(forwarder, *plain, traffic)).await,
        Request::Lookup(lookup) => Answered::Over(look_up(forwarder, lookup).await, None),
        request => match connect(forwarder, request).await {
            Ok(open) => Answered::Open(open),
            Err(failure) => Answered::Over(Err(failure), None),
        },
    }
}

/// Waits for a request; `None` if none comes.
async fn listen<T>(
    forwarder: &Forwarder,
    reading: impl Future<Output = Result<T, NoRequest>>,
    is_full: bool,
) -> Option<T> {
    let request = match is_full {
        true => timeout(REFUSAL_TIME, reading).await,
        false => unless_sent_away(forwarder, timeout(forwarder.limits.handshake, reading)).await?,
    };
    match request {
        Ok(Ok(request)) => return Some(request),
        Ok(Err(NoRequest::Nothing)) => {}
        Ok(Err(NoRequest::Wrong(failure))) => forwarder.log_wrong(&failure),
        Err(_) => debug!("closed a connection that made no request"),
    }
    None
}

/// Waits for one more request by a connection that has served one.
async fn listen_again(forwarder: &Forwarder, client: Client) -> Option<Request> {
    let next = timeout(forwarder.limits.keep_alive, client.next());
    let client = unless_sent_away(forwarder, next).await?.ok()?.ok()??;
    let reading = Request::read_next(client, forwarder.limits.head, &forwarder.heads);
    listen(forwarder, reading, false).await
}

/// Waits for a client in its place, unless that is wanted by another one.
async fn unless_sent_away<T>(forwarder: &Forwarder, waiting: impl Future<Output = T>) -> Option<T> {
    let mut wait = forwarder.places.wait();
    tokio::select! {
        biased;
        done = waiting => Some(done),
        () = wait.sent_away() => None,
    }
}

/// Returns the request if it may be served; if it may not, the client if it may ask for something else.
async fn admit(forwarder: &Forwarder, mut request: Request, is_full: bool) -> Result<Request, Option<Client>> {
    forwarder.reporter.request();
    let judged = if is_full { Err(Failure::full()) } else { judge(forwarder, &mut request) };
    let Err(failure) = judged else { return Ok(request) };
    forwarder.log_refusal(request.destination(), &failure);
    let refusing = refuse(forwarder, request, &failure);
    if is_full {
        // It has no place where it could wait for its next request.
        refusing.await;
        return Err(None);
    }
    Err(unless_sent_away(forwarder, refusing).await.flatten())
}

/// Tells the launcher and a client why that is not served, and gives it up if it doesn't take that. Returns it if it may ask for
/// something else.
async fn refuse(forwarder: &Forwarder, request: Request, failure: &Failure) -> Option<Client> {
    // Before the app hears of it: it may be over at once, and the launcher with it.
    forwarder.reporter.failure(failure);
    timeout(forwarder.limits.handshake, request.refuse(failure)).await.ok().flatten()
}

/// Works for a client as long as that has not broken off.
async fn unless_gone<T>(
    work: impl Future<Output = T>,
    breaking: impl Future<Output = io::Error>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => Ok(done),
        error = breaking => Err(gone(&error)),
    }
}

fn gone(error: &io::Error) -> Failure {
    Failure::system("the client went away", error)
}

/// Judges a request by name where there is one: a synthetic address becomes its name first.
fn judge(forwarder: &Forwarder, request: &mut Request) -> Result<(), Failure> {
    if let Some(named) = forwarder.named(request.destination())? {
        request.redirect(named);
    }
    match request {
        Request::Lookup(lookup) => forwarder.admission.check_host(&lookup.destination.host),
        request => forwarder.admission.check(request.destination()),
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
    let tunnel = forwarder.upstream.tunnel(request.destination(), request.caller(), &forwarder.admission);
    let upstream = match unless_gone(tunnel, request.broken()).await? {
        Ok(upstream) => upstream,
        Err(failure) => {
            refuse(forwarder, request, &failure).await;
            return Err(failure);
        }
    };
    prepare_upstream(&upstream);
    let granted = timeout(forwarder.limits.handshake, request.grant()).await;
    let granted = granted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let (client, early) = granted.map_err(|error| gone(&error))?;
    Ok(Open { client: Stream::Tcp(client), early, upstream })
}

async fn carry(
    forwarder: &Forwarder,
    client: &Stream,
    early: &[u8],
    upstream: Connected,
    traffic: &Traffic,
) -> io::Result<()> {
    let Connected { stream, early: answered } = upstream;
    let carrying = async {
        write_all(&stream, early).await?;
        write_all(client, &answered).await?;
        traffic.sent.fetch_add(early.len() as u64, Relaxed);
        traffic.received.fetch_add(answered.len() as u64, Relaxed);
        relay(client, &stream, traffic, &forwarder.buffers, forwarder.limits.idle).await
    };
    let result = carrying.await;
    if result.is_err() {
        // What broke off must not look like an end to either side.
        client.reset_on_close();
        stream.reset_on_close();
    }
    result
}

/// Carries one absolute-form request and its answer.
async fn exchange(forwarder: &Forwarder, plain: Plain, traffic: &Traffic) -> Answered {
    let Forwarder { upstream, admission, .. } = forwarder;
    let connecting = async {
        if plain.is_upgrade() {
            let tunnel = upstream.tunnel(&plain.destination, plain.caller(), admission).await;
            tunnel.map(|connected| (connected, Form::Origin))
        } else {
            upstream.plain(&plain.destination, plain.caller(), admission).await
        }
    };
    let (upstream, form) = match unless_gone(connecting, plain.broken()).await {
        Ok(Ok(connected)) => connected,
        Err(failure) => return Answered::Over(Err(failure), None),
        Ok(Err(failure)) => {
            let client = refuse(forwarder, Request::Plain(Box::new(plain)), &failure).await;
            return Answered::Over(Err(failure), client);
        }
    };
    prepare_upstream(&upstream);
    match plain.exchange(forwarder, upstream, &form, traffic).await {
        Ok(After::Next(client)) => Answered::Over(Ok(()), Some(client)),
        Ok(After::Nothing) => Answered::Over(Ok(()), None),
        Ok(After::Tunnel { client, early, upstream }) => {
            Answered::Open(Open { client: Stream::Tcp(client), early, upstream })
        }
        Err(failure) => Answered::Over(Err(failure), None),
    }
}

/// Answers a question without a connection to anywhere.
async fn look_up(forwarder: &Forwarder, lookup: Lookup) -> Result<(), Failure> {
    let answered = match unless_gone(find(forwarder, &lookup), lookup.broken()).await? {
        Ok(Found::Addresses(addresses)) => lookup.answer_address(&addresses).await,
        Ok(Found::Name(name)) => lookup.answer_name(name).await,
        Err(failure) => {
            refuse(forwarder, Request::Lookup(lookup), &failure).await;
            return Err(failure);
        }
    };
    answered.map_err(|error| gone(&error))
}

async fn find(forwarder: &Forwarder, lookup: &Lookup) -> Result<Found, Failure> {
    let Forwarder { upstream, admission, .. } = forwarder;
    match (&lookup.destination.host, lookup.question) {
        // The name that a synthetic address stands for: judging it has put it there.
        (Host::Name(name), Question::Name(_)) => Ok(Found::Name(name.clone())),
        (_, Question::Name(address)) => {
            upstream.resolve_ptr(address, lookup.caller(), admission).await.map(Found::Name)
        }
        // Who asks for the address of an address knows it.
        (Host::Ip(address), Question::Address) => Ok(Found::Addresses(vec![*address])),
        (Host::Name(name), Question::Address) => {
            upstream.resolve(name, lookup.caller(), admission).await.map(Found::Addresses)
        }
    }
}

enum Found {
    Addresses(Vec<IpAddr>),
    Name(String),
}

fn prepare_upstream(upstream: &Connected) {
    if let Some(stream) = upstream.stream.tcp() {
        prepare(stream);
    }
}

/// Best effort: a socket without these works as well, if not as nicely.
pub(crate) fn prepare(socket: impl AsFd) {
    let socket = socket.as_fd();
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER);
}
