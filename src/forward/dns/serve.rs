//! DNS over UDP and over TCP (RFC 7766), on sockets that stand already. No query waits for another.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::error;

use crate::forward::Forwarder;
use crate::forward::addressed::Addressed;
use crate::forward::limits::{ACCEPT_PAUSE, DNS_IDLE, DNS_PIPELINE, DNS_QUERIES, DNS_QUERY_BYTES};

use super::message::Transport;

/// Answers what comes to `socket`, for ever.
pub async fn serve_datagrams(socket: UdpSocket, forwarder: Arc<Forwarder>) {
    let socket = match Addressed::answering(socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => {
            error!("cannot answer DNS queries: {error}");
            return;
        }
    };
    let mut answering = JoinSet::new();
    // One byte more than a query has: what fills it all is too long.
    let mut buffer = vec![0; DNS_QUERY_BYTES + 1];
    loop {
        while answering.try_join_next().is_some() {}
        let asked = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                pause(&forwarder, &error).await;
                continue;
            }
        };
        // Beyond them clients ask again, as they do when a datagram is lost.
        if answering.len() > DNS_QUERIES {
            continue;
        }
        let (message, forwarder, socket) =
            (buffer[..asked.length].to_vec(), Arc::clone(&forwarder), Arc::clone(&socket));
        answering.spawn(async move {
            if let Some(answer) = answer_datagram(&forwarder, &message).await {
                // A client that is gone needs none.
                let _ = socket.answer(&answer, &asked).await;
            }
        });
    }
}

/// Answers what comes by connections to `listener`, for ever.
pub async fn serve_streams(listener: TcpListener, forwarder: Arc<Forwarder>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_stream(stream, Arc::clone(&forwarder)));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => pause(&forwarder, &error).await,
        }
    }
}

/// One connection, if there can be another: queries as they come, answers as they are there.
pub(in crate::forward) async fn serve_stream(stream: TcpStream, forwarder: Arc<Forwarder>) {
    let Some(resolver) = &forwarder.resolver else { return };
    // As many as there can be: closed, by which a client knows to try again or elsewhere.
    let Ok(_place) = resolver.connections.try_acquire() else { return };
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let mut answering = JoinSet::new();
    while let Ok(Ok(message)) = timeout(DNS_IDLE, read_message(&mut reader)).await {
        while answering.try_join_next().is_some() {}
        if answering.len() >= DNS_PIPELINE {
            answering.join_next().await;
        }
        let (forwarder, writer) = (Arc::clone(&forwarder), Arc::clone(&writer));
        answering.spawn(async move {
            let Some(answer) = answer(&forwarder, &message, Transport::Stream).await else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let framed = [&length.to_be_bytes(), &answer[..]].concat();
            let mut writer = writer.lock().await;
            if !matches!(timeout(DNS_IDLE, writer.write_all(&framed)).await, Ok(Ok(()))) {
                // Half an answer may have gone out: nothing after it would be understood.
                let _ = writer.shutdown().await;
            }
        });
    }
    // A client may end its half and still wait for answers.
    while answering.join_next().await.is_some() {}
}

async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > DNS_QUERY_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

/// The answer to one datagram, if it gets one.
pub(in crate::forward) async fn answer_datagram(forwarder: &Forwarder, message: &[u8]) -> Option<Vec<u8>> {
    answer(forwarder, message, Transport::Datagram).await
}

async fn answer(forwarder: &Forwarder, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
    forwarder.resolver.as_ref()?.answer(forwarder, message, transport).await
}

async fn pause(forwarder: &Forwarder, error: &io::Error) {
    if forwarder.complaints.accept.now() {
        error!("cannot receive DNS queries for the moment: {error}");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
