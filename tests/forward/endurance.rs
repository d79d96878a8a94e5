//! A forwarder of its own process under thousands of wrong, broken and slow conversations: it serves a
//! good client all the while, and afterwards it holds no more than before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::lab::*;
use crate::process::Process;

/// How many inputs; APPFW_FUZZ_INPUTS=20000 for a full run.
fn inputs() -> u64 {
    std::env::var("APPFW_FUZZ_INPUTS").map_or(2000, |number| number.parse().expect("APPFW_FUZZ_INPUTS is a number"))
}

/// Conversations at once.
const CROWD: usize = 50;
/// What a forwarder may take beside its resting size: one scratch buffer, and what a crowd's heads take.
const ROOM_KIB: u64 = 32 * 1024;

async fn start_process(descriptors: u32) -> Process {
    let upstream = world().await;
    Process::start(descriptors, &["--via", &format!("socks5h://{upstream}")]).await
}

/// xorshift64*: the same bytes in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Does one to four wrong things to `bytes`, or nothing.
fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..random(state) % 5 {
        let at = usize::try_from(random(state) % (bytes.len() as u64 + 1)).unwrap();
        let byte = (random(state) >> 32) as u8;
        match random(state) % 8 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => bytes.splice(at.., (0..random(state) % 300).map(|_| (random(state) >> 32) as u8)).for_each(drop),
            3 => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy);
            }
            4 => bytes.splice(at..at, *b"\r\n").for_each(drop),
            5 => bytes.splice(at..at, b"ffffffffffffffff".repeat(3)).for_each(drop),
            _ if at < bytes.len() => bytes[at] = byte,
            _ => {}
        }
    }
}

const REQUESTS: [&[u8]; 16] = [
    b"",
    b"\x05\x01\x00\x05\x01\x00\x03\x06a.test\x00\x50early",
    b"\x05\x02\x00\x02\x01\x04user\x04pass\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50",
    b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x01\xbb",
    b"\x05\x01\x00\x05\xf0\x00\x03\x06a.test\x00\x00",
    b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
    b"\x04\x01\x00\x50\xc0\x00\x02\x07user\x00early",
    b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00a.test\x00",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic bWU6cDp3\r\n\r\n\x16\x03\x01",
    b"CONNECT 2001:db8::7:443 HTTP/1.0\n\n",
    b"GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X\r\nX: y\r\n\r\n",
    b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET http://b.test/ HTTP/1.1\r\n\r\n",
    b"POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\nHEAD http://b.test/ HTTP/1.1\r\n\r\n",
    b"GET http://a.test/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
    b"PUT http://a.test/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET http://a.test/ HTTP/1.0\r\n\r\n",
];

const ANSWERS: [&[u8]; 7] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
    b"HTTP/1.1 204 None\r\n\r\n",
    b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n",
];

/// A SOCKS5 server behind which good.test is good, and everything else answers HTTP wrongly and other
/// things by saying them again.
async fn world() -> SocketAddr {
    static TURN: AtomicU64 = AtomicU64::new(1);

    server(|mut stream| async move {
        let session = async {
            let mut methods = [0; 3];
            stream.read_exact(&mut methods).await?;
            stream.write_all(&[5, 0]).await?;
            let mut head = [0; 5];
            stream.read_exact(&mut head).await?;
            let length = match head[3] {
                1 => 4 - 1,
                4 => 16 - 1,
                _ => usize::from(head[4]),
            };
            let mut address = vec![0; length + 2];
            stream.read_exact(&mut address).await?;
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            let mut first = vec![0; 4096];
            let count = stream.read(&mut first).await?;
            first.truncate(count);
            let mut answer = first.clone();
            if first.windows(6).any(|part| part == b"HTTP/1") {
                let mut state = TURN.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                answer = ANSWERS[usize::try_from(random(&mut state) % 7).unwrap()].to_vec();
                mutate(&mut answer, &mut state);
            }
            if address.starts_with(b"good.test") && first.starts_with(b"GET ") {
                answer = ANSWERS[0].to_vec();
            }
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            // What was sent is read, so that closing is no reset.
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        let _ = session.await;
    })
    .await
}

/// A client that finds fault with nothing, as long as it is served.
async fn good(forwarder: SocketAddr) {
    let served = async {
        let (code, mut stream) = socks(forwarder, "good.test", 80).await;
        assert_eq!(code, 0);
        assert!(echoes(&mut stream, "hello").await);
        let answer = say(forwarder, "GET http://good.test/ HTTP/1.1\r\n\r\n").await;
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    };
    tokio::time::timeout(PATIENCE, served).await.expect("a good client is not served");
}

/// Good clients one after another, until this is aborted. It ends by itself only if it panics.
fn good_clients(forwarder: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            good(forwarder).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Says what comes of `turn`. If it waits for an end, there is one.
async fn converse(forwarder: SocketAddr, turn: u64) -> std::io::Result<()> {
    let mut state = (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = REQUESTS[usize::try_from(turn % 16).unwrap()].to_vec();
    mutate(&mut bytes, &mut state);
    let mut stream = TcpStream::connect(forwarder).await?;
    let cut = usize::try_from(random(&mut state) % (bytes.len() as u64 + 1)).unwrap();
    for piece in [&bytes[..cut], &bytes[cut..]] {
        stream.write_all(piece).await?;
        tokio::task::yield_now().await;
    }
    match random(&mut state) % 4 {
        0 => {}
        1 => stream.set_zero_linger()?,
        _ => {
            stream.shutdown().await?;
            let mut rest = Vec::new();
            let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            let _reset_or_end =
                end.unwrap_or_else(|_| panic!("it does not end with its client: turn {turn}, {bytes:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn wrong_conversations_never_end_it() {
    let process = start_process(4096).await;
    good(process.address).await;
    let (descriptors, resting) = (process.descriptors(), process.peak());
    let good_clients = good_clients(process.address);
    let mut crowd: JoinSet<std::io::Result<()>> = JoinSet::new();
    for turn in 0..inputs() {
        if crowd.len() >= CROWD {
            let _refused_or_not = crowd.join_next().await.unwrap().unwrap();
        }
        crowd.spawn(converse(process.address, turn));
    }
    while let Some(ended) = crowd.join_next().await {
        let _refused_or_not = ended.unwrap();
    }
    assert!(!good_clients.is_finished(), "a good client found fault: {:?}", good_clients.await);
    good_clients.abort();
    good(process.address).await;
    process.rests(descriptors).await;
    assert!(process.peak() < resting + ROOM_KIB, "{} KiB, {resting} KiB at first", process.peak());
}

#[tokio::test]
async fn slow_clients_leave_room_for_others() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let slow_clients = inputs() / 10;
    let process = start_process(16_384).await;
    good(process.address).await;
    let (descriptors, resting) = (process.descriptors(), process.peak());
    let good_clients = good_clients(process.address);
    let mut crowd = Vec::new();
    for turn in 0..slow_clients {
        let starts =
            [&b"GET http://a.test/ HTTP/1.1\r\nX: "[..], b"\x05\x01\x00\x05\x01\x00\x03\xff", b"\x04\x01", b""];
        let mut stream = TcpStream::connect(process.address).await.unwrap();
        stream.write_all(starts[usize::try_from(turn % 4).unwrap()]).await.unwrap();
        crowd.push(stream);
    }
    for _ in 0..10 {
        for stream in &mut crowd {
            let _ = stream.write_all(b"x").await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(process.descriptors() >= crowd.len(), "they were not even connected");
    assert!(!good_clients.is_finished(), "a good client found fault: {:?}", good_clients.await);
    good_clients.abort();
    good(process.address).await;
    let per_client = (process.peak() - resting) / slow_clients;
    assert!(per_client < 32, "a slow client takes {per_client} KiB");
    drop(crowd);
    process.rests(descriptors).await;
}

#[tokio::test]
async fn few_descriptors_serve_many_and_tell_the_rest() {
    // Some 270 places: half of what is left of 1024.
    let process = start_process(1024).await;
    good(process.address).await;
    let descriptors = process.descriptors();
    let mut crowd = JoinSet::new();
    for turn in 0..inputs() / 2 {
        if crowd.len() >= CROWD {
            crowd.join_next().await.unwrap().unwrap();
        }
        crowd.spawn(good(process.address));
        if turn % 100 == 0 {
            assert!(process.descriptors() <= 1024);
        }
    }
    while let Some(served) = crowd.join_next().await {
        served.unwrap();
    }
    // Who asks for nothing takes nobody's place.
    let mut idle = Vec::new();
    for _ in 0..2 * inputs() / 10 {
        idle.push(TcpStream::connect(process.address).await.unwrap());
    }
    // On a busy machine they are still being taken in, and of those without a place few may wait for one at a time.
    process.settled_descriptors().await;
    good(process.address).await;
    // A house that is full of those who did ask answers.
    let mut tunnels = Vec::new();
    loop {
        match socks(process.address, "good.test", 80).await {
            (0, stream) => tunnels.push(stream),
            (code, _) => break assert_eq!(code, 1),
        }
    }
    assert!((200..400).contains(&tunnels.len()), "{}", tunnels.len());
    assert!(say(process.address, "CONNECT good.test:80 HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
    drop((idle, tunnels));
    process.rests(descriptors).await;
    good(process.address).await;
}

#[tokio::test]
async fn no_descriptor_to_judge_by_is_no_refusal() {
    let process = start_process(1024).await;
    // The probe by which its start was seen may still be held; whom it served after that was taken in after that.
    good(process.address).await;
    let held = process.settled_descriptors().await;
    let free = (0..).find(|number| !held.contains(number)).unwrap();
    // The limit is one on numbers: a connection takes the only one.
    process.limit_descriptors(free + 1);
    let answer = say(process.address, "CONNECT 192.0.2.7:80 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(socks_raw(process.address, &[1, 192, 0, 2, 7], 80).await.0, 1);
    process.limit_descriptors(1024);
    good(process.address).await;
}
