//! What the log says of associations.

use super::*;
use crate::journal::{listen, logged};

#[tokio::test]
async fn each_association_has_one_record_and_refusals_are_said_seldom() {
    let (echo, _) = udp_echo().await;
    let (other, _) = udp_echo().await;
    let forwarder = start_udp("direct", &[&echo.to_string(), &other.to_string()]).await;
    let (lines, _guard) = listen();
    let client = Client::new(forwarder).await;
    for at in [echo, echo, other] {
        client.send(&ip(at), "hello").await;
        client.receive().await;
    }
    for port in 1..100 {
        client.send(&ip(SocketAddr::new(echo.ip(), port)), "inside").await;
    }
    client.send(&ip(echo), "hello").await;
    client.receive().await;
    drop(client);
    let logged = logged(&lines).await;
    let [refusal, record] = logged.lines().collect::<Vec<_>>()[..] else { panic!("{logged}") };
    assert!(refusal.contains("127.0.0.1:1 is inside (") && refusal.contains("WARN"), "{refusal}");
    let told = ["done", "udp=true", "destinations=2", "via=\"direct\"", "sent=20", "received=20", "ms="];
    assert!(told.iter().all(|told| record.contains(told)), "{record}");
}

#[tokio::test]
async fn without_destinations_no_line_has_one() {
    let forwarder = forwarder("direct", &[], Limits::default()).with_rules(rules("--only a.test"));
    let forwarder = run_with_relay(forwarder.logging_destinations(false)).await;
    let (lines, _guard) = listen();
    for host in ["secret.test", "se cret.test", "10.9.8.7"] {
        let client = Client::new(forwarder).await;
        client.send(&name(host, 53), "hello").await;
        client.send(&name("a.test", 0), "last").await;
        drop(client);
    }
    let logged = logged(&lines).await;
    assert!(!logged.contains("cret") && !logged.contains("10.9"), "{logged}");
    assert!(logged.contains("refused") && logged.contains("destinations=0"), "{logged}");
}
