//! Large transfers through a forwarder of its own process, to their end and broken off: what goes in comes
//! out, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::lab::{PATIENCE, socks};
use crate::process::{Open, Process};

const BLOCK: usize = 1 << 20;

/// Blocks each way; APPFW_ALL=1 for 2 GiB.
fn blocks() -> u64 {
    if std::env::var_os("APPFW_ALL").is_some_and(|all| all == "1") { 2048 } else { 64 }
}

/// A block of the stream `seed`: its number, and bytes that have no short period.
fn block(seed: u32, number: u64) -> Vec<u8> {
    let word = |index: u32| (index ^ seed).wrapping_mul(2_654_435_761).rotate_left(11).to_ne_bytes();
    let mut bytes: Vec<u8> = (0..(BLOCK / 4) as u32).flat_map(word).collect();
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Sends the stream `seed`, its last block only after `cue`, and then its end.
fn send(mut to: TcpStream, seed: u32, cue: Option<Receiver<()>>) {
    let mut bytes = block(seed, 0);
    for number in 0..blocks() {
        if number + 1 == blocks()
            && let Some(cue) = &cue
        {
            cue.recv().unwrap();
        }
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        to.write_all(&bytes).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Receives the stream `seed` to its end, which it tells of.
fn receive(mut from: TcpStream, seed: u32, ended: Option<Sender<()>>) {
    let mut expected = block(seed, 0);
    let mut bytes = vec![0; BLOCK];
    for number in 0..blocks() {
        expected[..8].copy_from_slice(&number.to_be_bytes());
        from.read_exact(&mut bytes).unwrap();
        assert!(bytes == expected, "block {number} of {seed:#x} is another one");
    }
    assert_eq!(from.read(&mut bytes).unwrap(), 0, "there is more than was sent");
    if let Some(ended) = ended {
        ended.send(()).unwrap();
    }
}

/// Serves one client: sends and receives at once, and ends only when the client has.
fn server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (ended, cue) = channel();
        let reader = stream.try_clone().unwrap();
        let reading = thread::spawn(move || receive(reader, UP, Some(ended)));
        send(stream, DOWN, Some(cue));
        reading.join().unwrap();
    });
    (address, serving)
}

const UP: u32 = 0x5eed_0001;
const DOWN: u32 = 0x5eed_0002;

/// A forwarder, and what it has open when nobody is connected.
async fn start() -> (Process, Open) {
    let process = Process::start(4096, &["--via", "direct", "--allow-destination", "127.0.0.1"]).await;
    // Somebody has looked whether it listens.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let open = process.open();
    (process, open)
}

/// Waits until nobody is connected: there are pipes left, for the next ones, and nothing in them.
async fn rests(process: &Process, before: &Open) {
    let is_so = || {
        let now = process.open();
        now.sockets <= before.sockets && now.others <= before.others
    };
    eventually("all connections are closed", is_so).await;
    assert_eq!(process.bytes_in_pipes(), 0);
}

/// A tunnel to `server`.
async fn connect(process: &Process, server: SocketAddr) -> TcpStream {
    let (code, stream) = socks(process.address, "127.0.0.1", server.port()).await;
    assert_eq!(code, 0);
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

#[tokio::test]
async fn gibibytes_each_way_at_once_arrive_as_they_were_sent() {
    let (process, before) = start().await;
    let (server, serving) = server();
    let stream = connect(&process, server).await;
    spawn_blocking(move || {
        let writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || send(writer, UP, None));
        receive(stream, DOWN, None);
        writing.join().unwrap();
        serving.join().unwrap();
    })
    .await
    .unwrap();
    rests(&process, &before).await;
    let (log, bytes) = (process.log(), blocks() * BLOCK as u64);
    assert!(log.contains(&format!("sent={bytes} received={bytes}")), "{log}");
}

/// Transfers at once.
const CONNECTIONS: usize = 4;

/// A transfer that has brought so many bytes flows.
const ENOUGH: usize = 2_000_000;

/// How one end of a connection goes.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// As the kernel has it when a process is killed: with bytes unread that is a reset.
    Close,
    /// By a reset in any case.
    Reset,
    /// As the first, when it has ended its own half long before.
    HalfClosed,
    /// As the first, when it has not read for a while: the way to it is full, and a pipe on it.
    Stalled,
}

/// One end of a connection: sends and receives as fast as it goes, for as long as the other end is there.
async fn pump(mut stream: tokio::net::TcpStream, death: Death, received: Arc<AtomicUsize>) {
    if let Death::Reset = death {
        stream.set_zero_linger().unwrap();
    }
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        if let Death::HalfClosed = death {
            writer.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        }
        while writer.write_all(&[7; 100_000]).await.is_ok() {}
    };
    let receiving = async {
        let mut bytes = vec![0; 100_000];
        while let Ok(count @ 1..) = reader.read(&mut bytes).await {
            if received.fetch_add(count, Relaxed) > ENOUGH && matches!(death, Death::Stalled) {
                break;
            }
        }
        // Whoever sends goes on after the end of the other half.
        if !matches!(death, Death::HalfClosed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
}

/// Lets transfers by `process` flow both ways, and kills one end of each. Returns once the others have noticed,
/// how many there were.
async fn kill(process: &Process, kills_client: bool, death: Death) -> usize {
    let mut victims = Vec::new();
    let mut survivors = JoinSet::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..CONNECTIONS {
        let address = listener.local_addr().unwrap();
        let ((code, client), accepted) =
            tokio::join!(socks(process.address, "127.0.0.1", address.port()), listener.accept());
        assert_eq!(code, 0);
        let (server, _) = accepted.unwrap();
        let (victim, survivor) = if kills_client { (client, server) } else { (server, client) };
        let received = Arc::default();
        victims.push((tokio::spawn(pump(victim, death, Arc::clone(&received))), received));
        survivors.spawn(pump(survivor, Death::Close, Arc::default()));
    }
    for (victim, received) in victims {
        eventually("transfers flow", || received.load(Relaxed) > ENOUGH).await;
        if let Death::Stalled = death {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        victim.abort();
    }
    let all_notice = async { while survivors.join_next().await.is_some() {} };
    timeout(PATIENCE, all_notice).await.unwrap_or_else(|_| panic!("{death:?}: the other end is left hanging"));
    CONNECTIONS
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "it is not so that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whichever_end_is_killed_nothing_is_left() {
    let (process, before) = start().await;
    let mut killed = 0;
    for _ in 0..2 {
        for death in [Death::Close, Death::Reset, Death::HalfClosed, Death::Stalled] {
            for kills_client in [true, false] {
                killed += kill(&process, kills_client, death).await;
                rests(&process, &before).await;
            }
        }
    }
    // No more than one for each direction that there was at once.
    assert!(process.open().pipes <= 2 * 2 * CONNECTIONS, "{:?}", process.open());
    assert_eq!(process.threads(), 1);
    // Each connection's task has come to its end, where it writes a record.
    let log = process.log();
    assert_eq!(log.lines().filter(|line| line.contains("destination=127.0.0.1:")).count(), killed, "{log}");
}
