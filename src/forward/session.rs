//! One connection from its first byte to its last.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Forwarder;
use super::failure::Failure;
use super::limits::REFUSAL_TIME;
use super::relay::{Traffic, relay, write_all};
use super::request::{NoRequest, Plain, Request, Unfinished, refuse};
use super::stream::Stream;
use super::upstream::Connected;

/// A peer that is silent this long is asked for a sign of life; a vanished one frees its place.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);

/// Serves one client. If the house is full, it is told so as soon as it has made its request.
pub(super) async fn serve(forwarder: &Forwarder, client: TcpStream, is_full: bool) {
    let started = Instant::now();
    prepare(&client);
    // Getting connected takes more memory than being so: boxed, it does not stay in this task.
    let Some(request) = Box::pin(listen(forwarder, client, is_full)).await else { return };
    let destination = request.destination().clone();
    let traffic = Traffic::default();
    let outcome = match request {
        Request::Plain(plain) => Box::pin(exchange(forwarder, *plain, &traffic)).await,
        request => match Box::pin(connect(forwarder, request)).await {
            Ok(Open { client, early, upstream }) => {
                let carried = carry(&client, &early, upstream, &traffic).await;
                carried.map_err(|error| Failure::system("broke off", &error))
            }
            Err(failure) => Err(failure),
        },
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
}

/// Reads the request and judges it; `None` if there is nothing more to do.
async fn listen(forwarder: &Forwarder, client: TcpStream, is_full: bool) -> Option<Request> {
    let time = if is_full { REFUSAL_TIME } else { forwarder.limits.handshake };
    let request = match timeout(time, Request::read(client)).await {
        Ok(Ok(request)) => request,
        Ok(Err(NoRequest::Nothing)) => return None,
        Ok(Err(NoRequest::Wrong(failure))) => {
            warn!("{failure}");
            return None;
        }
        Err(_) => {
            debug!("closed a connection that made no request in {time:?}");
            return None;
        }
    };
    forwarder.reporter.request();
    let judged = if is_full { Err(Failure::full()) } else { forwarder.admission.check(request.destination()) };
    let Err(failure) = judged else { return Some(request) };
    warn!(destination = %request.destination(), via = forwarder.via, "{failure}");
    // Before the app hears of it: it may be over at once, and the launcher with it.
    forwarder.reporter.failure(&failure);
    request.refuse(&failure).await;
    None
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
async fn exchange(forwarder: &Forwarder, plain: Plain, traffic: &Traffic) -> Result<(), Failure> {
    let (upstream, form) = match forwarder.upstream.plain(&plain.destination, None, &forwarder.admission).await {
        Ok(connected) => connected,
        Err(failure) => {
            forwarder.reporter.failure(&failure);
            let _ = plain.refuse(&failure).await;
            return Err(failure);
        }
    };
    match plain.exchange(upstream, &form, traffic).await {
        Ok(()) => Ok(()),
        Err(Unfinished::Unanswered(client, failure)) => {
            forwarder.reporter.failure(&failure);
            let _ = refuse(client, &failure).await;
            Err(failure)
        }
        Err(Unfinished::BrokenOff(failure)) => Err(failure),
    }
}

/// Best effort: a socket without these works as well, if not as nicely.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER);
}
