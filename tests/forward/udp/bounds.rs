//! How much there may be, and what is harmless.

use appfw::forward::PeerWall;

use super::*;

#[test]
fn random_datagrams_do_no_harm() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(random_datagrams());
    // Some names are looked up, and where nobody answers that takes a while.
    runtime.shutdown_background();
}

async fn random_datagrams() {
    let (echo, heard) = udp_echo().await;
    let forwarder = start_udp("direct", &[&echo.to_string()]).await;
    let clients = [Client::new(forwarder).await, Client::new(forwarder).await];
    let strangers = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = 0x5eed_cafe_5eed_cafe_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let good = [&[0, 0, 0], &ip(echo)[..], b"good"].concat();
    let named = [&[0, 0, 0], &name("a-name.of.some.length.test", echo.port())[..], b"named"].concat();
    for round in 0..20_000 {
        let mut bytes = [&good, &named, &Vec::new()][round % 3].clone();
        for _ in 0..1 + random() % 8 {
            let byte = u8::try_from(random() % 256).unwrap();
            match bytes.len() {
                length if length > 0 && random() % 4 > 0 => bytes[random() % length] = byte,
                _ => bytes.push(byte),
            }
        }
        let sender = if round % 5 == 0 { &strangers } else { &clients[round % 2].socket };
        sender.send_to(&bytes, forwarder).await.unwrap();
        if round % 500 == 0 {
            clients[0].say(&good).await;
            while clients[0].receive().await.1 != "good" {}
        }
    }
    for client in &clients {
        client.say(&good).await;
        while client.receive().await.1 != "good" {}
    }
    assert!(payloads(&heard).len() >= 42);
}

#[tokio::test]
async fn there_are_so_many_associations_and_the_next_is_told() {
    let limits = Limits { associations: 2, ..Limits::default() };
    let forwarder = run_with_relay(forwarder("direct", &["127.0.0.1"], limits)).await;
    let (first, _second) = (Client::new(forwarder).await, Client::new(forwarder).await);
    assert_eq!(asked(forwarder, ANY_SOURCE).await.unwrap_err(), 1);
    drop(first);
    let started = std::time::Instant::now();
    while asked(forwarder, ANY_SOURCE).await.is_err() {
        assert!(started.elapsed() < PATIENCE, "the place is never free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_idle_association_ends_and_a_used_one_does_not() {
    let (echo, _) = udp_echo().await;
    let limits = Limits { udp_idle: Duration::from_millis(1500), ..Limits::default() };
    let forwarder = run_with_relay(forwarder("direct", &["127.0.0.1"], limits)).await;
    let (mut idle, used) = (Client::new(forwarder).await, Client::new(forwarder).await);
    idle.send(&ip(echo), "hello").await;
    idle.receive().await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listens = Client::new(forwarder).await;
    listens.send(&ip(server.local_addr().unwrap()), "hello").await;
    let (_, way_out) = server.recv_from(&mut [0; 64]).await.unwrap();
    let mut unused = Client::new(forwarder).await;
    for _ in 0..8 {
        used.send(&ip(echo), "still there").await;
        assert_eq!(used.receive().await.1, "still there");
        server.send_to(b"heard", way_out).await.unwrap();
        assert_eq!(listens.receive().await.1, "heard");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(is_ended(&mut idle).await);
    assert!(is_ended(&mut unused).await, "one that has had no datagram is kept for ever");
    used.send(&ip(echo), "still there").await;
    assert_eq!(used.receive().await.1, "still there");
}

#[tokio::test]
async fn behind_a_wall_of_peers_there_are_no_associations() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/').to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2");
    let Some(mount) = mount else { return };
    let peers = PeerWall::new(std::path::Path::new(mount[1]).join(own));
    let forwarder = forwarder("direct", &["127.0.0.1"], Limits::default()).with_peers(peers);
    let forwarder = run_with_relay(forwarder).await;
    assert_eq!(asked(forwarder, ANY_SOURCE).await.unwrap_err(), 7);
}
