//! By the host's own network.

use super::*;
use crate::refusals::INSIDE;

#[tokio::test]
async fn datagrams_go_out_and_their_answers_come_back() {
    let (v4, _) = udp_echo().await;
    let (v6, _) = echo_at(SocketAddr::new("::1".parse().unwrap(), v4.port())).await;
    let client = Client::new(start_udp("direct", &["localhost"]).await).await;
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), v4.port());
    for at in [v4, v6, mapped] {
        for word in ["hello", "", "again"] {
            client.send(&ip(at), word).await;
            assert_eq!(client.receive().await, (ip(at), word.to_owned()));
        }
    }
    for spelling in ["127.1", "2130706433", "127.0.0.1.", "0x7f000001"] {
        client.send(&name(spelling, v4.port()), spelling).await;
        assert_eq!(client.receive().await, (ip(v4), spelling.to_owned()));
    }
    // A name, by whichever of its addresses; what comes before its lookup is done waits for it.
    client.send(&name("LocalHost.", v4.port()), "one").await;
    client.send(&name("localhost", v4.port()), "two").await;
    for word in ["one", "two"] {
        let (from, payload) = client.receive().await;
        assert!([ip(v4), ip(v6)].contains(&from), "{from:?}");
        assert_eq!(payload, word);
    }
    // As long as can be by IPv4, in and out, with the header that is in front of it here.
    let long = "x".repeat(65_507 - 10);
    client.send(&ip(v4), &long).await;
    assert!(client.receive().await == (ip(v4), long));
}

#[tokio::test]
async fn clients_are_told_apart_by_their_source() {
    let (echo, heard) = udp_echo().await;
    let forwarder = start_udp("direct", &["localhost"]).await;
    let (first, second) = (Client::new(forwarder).await, Client::new(forwarder).await);
    for round in 0..3 {
        let words = [format!("second {round}"), format!("first {round}")];
        second.send(&ip(echo), &words[0]).await;
        first.send(&ip(echo), &words[1]).await;
        assert_eq!(second.receive().await.1, words[0]);
        assert_eq!(first.receive().await.1, words[1]);
    }
    // One that says where it will send from waits for that, and others do not get its association.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = ip(socket.local_addr().unwrap());
    let third = Client::with(forwarder, socket, &own).await;
    let without = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    without.send_to(&[&[0, 0, 0], &ip(echo)[..], b"nobody's"].concat(), forwarder).await.unwrap();
    // Where it would be, behind a translator, or where it will send to: neither says anything.
    for odd in [&ip("192.0.2.1:5000".parse().unwrap()), &name("a.test", 53)] {
        let other = Client::with(forwarder, UdpSocket::bind("127.0.0.1:0").await.unwrap(), odd).await;
        other.send(&ip(echo), "odd").await;
        assert_eq!(other.receive().await.1, "odd");
    }
    third.send(&ip(echo), "third").await;
    assert_eq!(third.receive().await.1, "third");

    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|(payload, _)| payload != "nobody's"), "{heard:?}");
    let ways: std::collections::HashSet<_> = heard.iter().map(|(_, from)| from.port()).collect();
    assert_eq!(ways.len(), 5, "each association has a way out of its own: {heard:?}");
}

#[tokio::test]
async fn two_that_are_taken_for_each_other_find_out_when_one_ends() {
    let (echo, heard) = udp_echo().await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forwarder = start_udp("direct", &["127.0.0.1"]).await;
    let (first, second) = (Client::new(forwarder).await, Client::new(forwarder).await);
    second.send(&ip(server.local_addr().unwrap()), "hello").await;
    let (_, way_out) = server.recv_from(&mut [0; 64]).await.unwrap();
    for client in [&second, &first] {
        client.send(&ip(echo), "hello").await;
        assert_eq!(client.receive().await.1, "hello");
    }
    drop(second);
    let started = std::time::Instant::now();
    let mut buffer = [0; 64];
    loop {
        first.send(&ip(echo), "still there").await;
        if timeout(Duration::from_millis(100), first.socket.recv(&mut buffer)).await.is_ok() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the association that is left is not found");
    }
    assert_eq!(heard.lock().unwrap().last().unwrap().1, way_out, "it is not the one that was left");
    // The answers to what another has asked are not the one's who has it now.
    server.send_to(b"another's", way_out).await.unwrap();
    first.send(&ip(echo), "last").await;
    assert_eq!(first.receive().await, (ip(echo), "last".into()));
}

#[tokio::test]
async fn who_only_listens_keeps_its_association() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = ip(server.local_addr().unwrap());
    let forwarder = start_udp("direct", &["127.0.0.1"]).await;
    let listens = Client::new(forwarder).await;
    listens.send(&to, "subscribe").await;
    let (_, way_out) = server.recv_from(&mut [0; 64]).await.unwrap();
    // One after it, and two of which it cannot be told whose is whose. Their connections close, they go on.
    let after = Client::new(forwarder).await;
    after.send(&to, "after").await;
    server.recv_from(&mut [0; 64]).await.unwrap();
    let [heard, over] = [Client::new(forwarder).await, Client::new(forwarder).await];
    heard.send(&to, "heard").await;
    let (_, heard_way_out) = server.recv_from(&mut [0; 64]).await.unwrap();
    over.send(&to, "over").await;
    server.recv_from(&mut [0; 64]).await.unwrap();
    let late = [after, over].map(|Client { socket, .. }| socket);
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();

    let mut buffer = [0; 64];
    for round in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.send_to(b"news", heard_way_out).await.unwrap();
        assert_eq!(heard.receive().await.1, "news", "round {round}");
        for socket in late.iter().chain([&stranger]) {
            socket.send_to(&[&[0, 0, 0], &to[..], b"stolen"].concat(), forwarder).await.unwrap();
        }
    }
    server.send_to(b"stream", way_out).await.unwrap();
    assert_eq!(listens.receive().await.1, "stream");
    let stolen = timeout(Duration::from_millis(10), server.recv_from(&mut buffer)).await;
    assert!(stolen.is_err(), "{:?}", String::from_utf8_lossy(&buffer));
}

#[tokio::test]
async fn fragments_and_stumps_are_dropped() {
    let (echo, heard) = udp_echo().await;
    let client = Client::new(start_udp("direct", &["localhost"]).await).await;
    for fragment in [1, 2, 0x80, 0xff] {
        client.say(&[&[0, 0, fragment], &ip(echo)[..], b"fragment"].concat()).await;
    }
    let whole = [&[0, 0, 0], &ip(echo)[..]].concat();
    for length in 0..whole.len() {
        client.say(&whole[..length]).await;
    }
    client.say(&[&[0, 0, 0, 2], &ip(echo)[1..], b"kind"].concat()).await;
    client.send(&ip(SocketAddr::new(echo.ip(), 0)), "port 0").await;
    client.send(&name("a..b", echo.port()), "no name").await;
    client.send(&ip(echo), "whole").await;
    assert_eq!(client.receive().await.1, "whole");
    assert_eq!(payloads(&heard), ["whole"]);
}

#[tokio::test]
async fn inside_gets_no_datagram_in_any_spelling() {
    let (echo, heard) = udp_echo().await;
    let (v6, heard_v6) = echo_at(SocketAddr::new("::1".parse().unwrap(), echo.port())).await;
    let (open, opened) = udp_echo().await;
    let client = Client::new(start_udp("direct", &[&open.to_string()]).await).await;
    for spelling in INSIDE {
        client.send(&name(spelling, echo.port()), spelling).await;
        if let Ok(address) = spelling.parse() {
            client.send(&ip(SocketAddr::new(address, echo.port())), spelling).await;
        }
    }
    for host in [echo, v6, SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), echo.port())] {
        client.send(&ip(host), "inside").await;
    }
    // The port counts as well, and the same place by its name is another.
    client.send(&name("localhost", open.port()), "by name").await;
    client.send(&ip(open), "opened").await;
    assert_eq!(client.receive().await, (ip(open), "opened".into()));
    assert_eq!(payloads(&opened), ["opened"]);
    assert!(payloads(&heard).is_empty() && payloads(&heard_v6).is_empty(), "{heard:?} {heard_v6:?}");
}

#[tokio::test]
async fn rules_hold_for_datagrams_by_name_and_by_port() {
    let (echo, heard) = udp_echo().await;
    let (v6, _) = echo_at(SocketAddr::new("::1".parse().unwrap(), echo.port())).await;
    let (other, unheard) = udp_echo().await;
    for (line, passes) in [
        (format!("--only localhost:{}", echo.port()), true),
        (format!("--only localhost:{}", other.port()), false),
        ("--block localhost".into(), false),
        ("--block 127.0.0.0/8 --block ::1".into(), false),
        ("--only 127.0.0.0/8 --only ::1".into(), true),
    ] {
        heard.lock().unwrap().clear();
        let allowed = ["localhost", "127.0.0.1", "::1"];
        let forwarder = forwarder("direct", &allowed, Limits::default()).with_rules(rules(&line));
        let client = Client::new(run_with_relay(forwarder).await).await;
        client.send(&name("localhost", echo.port()), "hello").await;
        if passes {
            let (from, payload) = client.receive().await;
            assert!([ip(echo), ip(v6)].contains(&from), "{line}");
            assert_eq!(payload, "hello", "{line}");
        } else {
            // A lookup of the same name takes as long, and is not refused.
            let second = Client::new(start_udp("direct", &allowed).await).await;
            second.send(&name("localhost", echo.port()), "witness").await;
            second.receive().await;
            assert!(!payloads(&heard).contains(&"hello".to_owned()), "{line}");
        }
    }
    assert!(payloads(&unheard).is_empty());
}

#[tokio::test]
async fn strangers_get_nothing_through() {
    let (echo, heard) = udp_echo().await;
    let client = Client::new(start_udp("direct", &["127.0.0.1"]).await).await;
    client.send(&ip(echo), "first").await;
    client.receive().await;
    let way_out = heard.lock().unwrap()[0].1;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..100 {
        stranger.send_to(b"stranger", way_out).await.unwrap();
    }
    // The relay itself, too, is no way to the client.
    stranger
        .send_to(&[&[0, 0, 0], &ip(client.socket.local_addr().unwrap())[..], b"x"].concat(), client.relay)
        .await
        .unwrap();
    client.send(&ip(echo), "second").await;
    assert_eq!(client.receive().await, (ip(echo), "second".into()));
    // Who has been sent to may speak first from then on.
    client.send(&ip(stranger.local_addr().unwrap()), "hello").await;
    let mut buffer = [0; 64];
    let (length, from) = stranger.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"hello"[..], way_out));
    stranger.send_to(b"now known", way_out).await.unwrap();
    assert_eq!(client.receive().await, (ip(stranger.local_addr().unwrap()), "now known".into()));
}

#[tokio::test]
async fn an_association_ends_with_its_connection() {
    let (echo, heard) = udp_echo().await;
    let forwarder = start_udp("direct", &["127.0.0.1"]).await;
    let client = Client::new(forwarder).await;
    client.send(&ip(echo), "first").await;
    client.receive().await;
    let way_out = heard.lock().unwrap()[0].1;
    let Client { control, socket, relay } = client;
    drop(control);
    // Its way out is free for others.
    let started = std::time::Instant::now();
    while UdpSocket::bind(("::", way_out.port())).await.is_err() {
        assert!(started.elapsed() < PATIENCE, "the association's socket is kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    socket.send_to(&[&[0, 0, 0], &ip(echo)[..], b"late"].concat(), relay).await.unwrap();
    // The same source in another association.
    let again = Client::with(forwarder, socket, ANY_SOURCE).await;
    again.send(&ip(echo), "again").await;
    assert_eq!(again.receive().await.1, "again");
    assert_eq!(payloads(&heard), ["first", "again"]);
}

#[tokio::test]
async fn by_hand_it_listens_for_datagrams_beside_connections() {
    let (echo, _) = udp_echo().await;
    for (via, is_carried) in [("direct", true), ("tor://127.0.0.1:9", false)] {
        let address = free().await;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_appfw"));
        command.args(["forward", "--via", via, "--listen", &address.to_string()]);
        command.args(["--allow-destination", &echo.to_string()]).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let started = std::time::Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "it does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if is_carried {
            let client = Client::new(address).await;
            client.send(&ip(echo), "hello").await;
            assert_eq!(client.receive().await, (ip(echo), "hello".into()));
        } else {
            assert_eq!(asked(address, ANY_SOURCE).await.unwrap_err(), 7);
            assert!(UdpSocket::bind(address).await.is_ok(), "it listens for what it refuses");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
