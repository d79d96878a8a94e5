//! What clients may do wrong, and how much of it.

use super::*;

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut state = 0x5eed_cafe_5eed_cafe;
    let good = query("a.name.of.some.length.test.", RecordType::A).to_vec().unwrap();
    let socket = client(dns).await;
    for round in 0..2000_usize {
        let mut bytes = if round % 2 == 0 { Vec::new() } else { good.clone() };
        for _ in 0..random(&mut state) % 60 {
            let byte = (random(&mut state) >> 32) as u8;
            match bytes.len() {
                length if round % 2 == 1 && length > 0 => {
                    let place = usize::try_from(random(&mut state) % 1000).unwrap() % length;
                    bytes[place] = byte;
                }
                _ => bytes.push(byte),
            }
        }
        socket.send(&bytes).await.unwrap();
        if round % 20 == 0 {
            let mut stream = TcpStream::connect(dns).await.unwrap();
            let _ = stream.write_all(&bytes).await;
        }
        if round % 200 == 0 {
            assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
        }
    }
    assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[tokio::test]
async fn responses_and_stumps_get_no_answer_and_long_queries_an_error() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let socket = client(dns).await;
    let mut response = query("web.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for silent in [response.to_vec().unwrap(), vec![], vec![0; 11]] {
        socket.send(&silent).await.unwrap();
    }
    let mut long = query("web.test.", RecordType::A).to_vec().unwrap();
    long.resize(5000, 0);
    socket.send(&long).await.unwrap();
    // The first answer is that to the last message.
    assert_eq!(receive(&socket).await.response_code, ResponseCode::FormErr);

    let mut stream = TcpStream::connect(dns).await.unwrap();
    let _ = stream.write_all(&[0xff, 0xff]).await;
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 8])).await.expect("kept open").unwrap_or(0), 0);
}

#[tokio::test]
async fn one_connection_takes_many_queries_and_its_end_loses_no_answer() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut stream = TcpStream::connect(dns).await.unwrap();
    for number in 0..100_u16 {
        let mut asked = query(&format!("n{number}.test."), RecordType::A);
        asked.metadata.id = number;
        say_framed(&mut stream, &asked.to_vec().unwrap()).await;
    }
    stream.shutdown().await.unwrap();
    let mut answered: Vec<u16> = Vec::new();
    for _ in 0..100 {
        answered.push(hear_framed(&mut stream).await.id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn connections_are_bounded_and_udp_is_served_meanwhile() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(TcpStream::connect(dns).await.unwrap());
    }
    let is_closed = |stream: &TcpStream| match stream.try_read(&mut [0]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    let started = Instant::now();
    let closed = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let closed = held.iter().filter(|stream| is_closed(stream)).count();
        if closed >= 32 || started.elapsed() > Duration::from_secs(5) {
            break closed;
        }
    };
    assert_eq!(closed, 32);
    assert_eq!(ask(dns, "web.test.", RecordType::A).await.answers.len(), 1);
    drop(held);
    let started = Instant::now();
    loop {
        let mut stream = TcpStream::connect(dns).await.unwrap();
        say_framed(&mut stream, &query("web.test.", RecordType::A).to_vec().unwrap()).await;
        if stream.read_u16().await.is_ok() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "there is no room again");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (_, dns) = resolving("socks5://127.0.0.1:9", &[], "synthetic").await;
    let mut stream = TcpStream::connect(dns).await.unwrap();
    // A query that never becomes whole.
    stream.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 8])).await.expect("kept open").unwrap_or(0), 0);
}
