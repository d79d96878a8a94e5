//! Leads connections to the host's port to the app's. This process is in the app's network namespace: what it
//! connects to is the app's, and what it accepts is the host's, as its listeners were made there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::Published;
use crate::forward::carry::{ACCEPT_PAUSE, Buffers, Limits, Seldom, Stream, Traffic, prepare, relay};

/// What all connections share.
pub(super) struct House {
    places: Arc<Semaphore>,
    buffers: Buffers,
    connect: Duration,
    idle: Duration,
    complaints: Complaints,
}

/// What is said seldom, each by its own clock.
#[derive(Default)]
struct Complaints {
    full: Seldom,
    accept: Seldom,
    absent: Seldom,
}

impl House {
    /// As many connections as `limits` says, each as long as one of the forwarder's may be silent.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.connections)),
            buffers: Buffers::default(),
            connect: limits.connect,
            idle: limits.idle,
            complaints: Complaints::default(),
        }
    }
}

/// Serves one port for ever.
pub(super) async fn serve(listener: TcpListener, published: Published, house: Arc<House>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => match Arc::clone(&house.places).try_acquire_owned() {
                Ok(place) => {
                    let house = Arc::clone(&house);
                    connections.spawn(async move {
                        lead(client, published, &house).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    Stream::Tcp(client).reset_on_close();
                    if house.complaints.full.now() {
                        warn!("as many connections as there can be: more are refused");
                    }
                }
            },
            // The client gave up while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if house.complaints.accept.now() {
                    error!("cannot accept connections for the moment: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn lead(client: TcpStream, published: Published, house: &House) {
    prepare(&client);
    let client = Stream::Tcp(client);
    let server = match reach(published, house.connect).await {
        Ok(server) => Stream::Tcp(server),
        Err(error) => {
            client.reset_on_close();
            if house.complaints.absent.now() {
                warn!("nobody of the app's answers at port {}: {error}", published.inner);
            }
            return;
        }
    };
    if relay(&client, &server, &Traffic::default(), &house.buffers, house.idle).await.is_err() {
        // What broke off must not look like an end to either side.
        client.reset_on_close();
        server.reset_on_close();
    }
}

/// The app's server, which may listen on one loopback address alone.
async fn reach(published: Published, patience: Duration) -> io::Result<TcpStream> {
    let mut failure = io::ErrorKind::ConnectionRefused.into();
    for address in published.inside() {
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(server)) => {
                prepare(&server);
                return Ok(server);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
