//! Names looked up for the app, by whoever looks them up on its way out: Tor, or the host's resolver.

use std::net::{IpAddr, SocketAddr};

use fast_socks5::ReplyError;

use crate::destination::{Destination, Host, printable};
use crate::via::Credentials;

use super::{Admission, Budget, Failure, Upstream, Way, direct};

/// A lookup asks for no port.
const NO_PORT: u16 = 0;

impl Upstream {
    /// The addresses of `name`, none of them inside.
    pub(in crate::forward) async fn resolve(
        &self,
        name: &str,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<Vec<IpAddr>, Failure> {
        let host: Host = name.parse().map_err(|error: anyhow::Error| Failure::malformed(format!("{error:#}")))?;
        let destination = Destination { host, port: NO_PORT };
        admission.check_host(&destination.host).map_err(|failure| refused(&destination.host, failure))?;
        let name = match &destination.host {
            Host::Ip(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let budget = Budget::new(&self.limits);
        let found: Vec<IpAddr> = match self.way_to(&destination.host) {
            Way::Direct => {
                let looked_up = budget.connecting(direct::resolve(&destination.host, NO_PORT)).await;
                let found = looked_up.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("looking up {name}"))))?;
                found.iter().map(SocketAddr::ip).collect()
            }
            Way::Chain(chain) => {
                chain.last().expect_lookups()?;
                let (link, stream) = chain.reach(&self.errand(caller, &destination), &budget).await?;
                vec![link.resolve(stream, name, &budget).await?]
            }
        };
        admission.answerable(&destination.host, found).map_err(|failure| refused(&destination.host, failure))
    }

    /// The name of `address`, which is not inside.
    pub(in crate::forward) async fn resolve_ptr(
        &self,
        address: IpAddr,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<String, Failure> {
        let destination = Destination { host: Host::Ip(address), port: NO_PORT };
        admission.check_host(&destination.host).map_err(|failure| refused(&destination.host, failure))?;
        let budget = Budget::new(&self.limits);
        let name = match self.way_to(&destination.host) {
            Way::Direct => {
                let looked_up = budget.connecting(direct::resolve_ptr(address)).await;
                looked_up.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("looking up {address}"))))?
            }
            Way::Chain(chain) => {
                chain.last().expect_lookups()?;
                let (link, stream) = chain.reach(&self.errand(caller, &destination), &budget).await?;
                link.resolve_ptr(stream, address, &budget).await?
            }
        };
        // Whoever owns the address says what its name is: it need not be one.
        match name.parse() {
            Ok(Host::Name(name)) => {
                let named = Host::Name(name.clone());
                admission.check_host(&named).map_err(|failure| refused(&destination.host, failure))?;
                Ok(name)
            }
            _ => Err(Failure {
                reply: ReplyError::HostUnreachable,
                ..Failure::general(format!("{address} has `{}` for a name, which is none", printable(&name)))
            }),
        }
    }
}

fn refused(host: &Host, failure: Failure) -> Failure {
    Failure { message: format!("{host} is not looked up: {}", failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::forward::Limits;
    use crate::via::Via;

    /// A Tor that gives each request this answer, the code first; it keeps the requests.
    async fn tor(answer: &'static [u8]) -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = format!("tor://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut greeting = [0; 3];
                stream.read_exact(&mut greeting).await.unwrap();
                stream.write_all(&[5, 2]).await.unwrap();
                let mut login = vec![0; 1 + 1 + 38 + 1 + 32];
                stream.read_exact(&mut login).await.unwrap();
                stream.write_all(&[1, 0]).await.unwrap();
                let mut request = vec![0; 300];
                let count = stream.read(&mut request).await.unwrap();
                kept.lock().unwrap().push(request[..count].to_vec());
                stream.write_all(&[&[5, answer[0], 0], &answer[1..], &[0, 0]].concat()).await.unwrap();
            }
        });
        (spec, requests)
    }

    fn upstream(specs: &[&str]) -> Upstream {
        let specs: Vec<_> = specs.iter().map(|spec| spec.to_string()).collect();
        let limits = Limits { connect: Duration::from_secs(5), answer: Duration::from_secs(5), ..Limits::default() };
        Upstream::new(&Via::parse(&specs).unwrap(), limits).unwrap()
    }

    fn admission(allowed: &[&str]) -> Admission {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Admission::new(allowed, std::path::Path::new("/nonexistent"))
    }

    #[tokio::test]
    async fn tor_looks_up() {
        let outside = IpAddr::from([192, 0, 2, 7]);
        let (spec, requests) = tor(&[0, 1, 192, 0, 2, 7]).await;
        let upstream = upstream(&[&spec]);
        assert_eq!(upstream.resolve("Web.Test.", None, &admission(&[])).await.unwrap(), [outside]);
        assert_eq!(requests.lock().unwrap()[0], b"\x05\xf0\x00\x03\x08web.test\x00\x00");
        // What is an address needs no lookup, and what is refused gets none.
        assert_eq!(upstream.resolve("192.0.2.9", None, &admission(&[])).await.unwrap(), [IpAddr::from([192, 0, 2, 9])]);
        assert_eq!(upstream.resolve("localhost", None, &admission(&[])).await.unwrap_err().status, 403);
        assert_eq!(upstream.resolve("a b", None, &admission(&[])).await.unwrap_err().status, 400);
        assert_eq!(requests.lock().unwrap().len(), 1);

        let (spec, requests) = tor(b"\x00\x03\x08Web.Test").await;
        let upstream = super::tests::upstream(&[&spec]);
        assert_eq!(upstream.resolve_ptr(outside, None, &admission(&[])).await.unwrap(), "web.test");
        assert_eq!(requests.lock().unwrap()[0], b"\x05\xf1\x00\x01\xc0\x00\x02\x07\x00\x00");
        let inside = Ipv4Addr::new(10, 0, 0, 1).into();
        assert_eq!(upstream.resolve_ptr(inside, None, &admission(&[])).await.unwrap_err().status, 403);
        assert_eq!(requests.lock().unwrap().len(), 1);
        // A name is no answer to a question for addresses.
        let failure = upstream.resolve("a.test", None, &admission(&[])).await.unwrap_err();
        assert!(failure.blames_upstream && failure.message.contains("does not speak SOCKS5"), "{failure}");
    }

    #[tokio::test]
    async fn nobody_outside_is_asked_about_this_hosts_loopback() {
        let (spec, requests) = tor(&[0, 1, 192, 0, 2, 7]).await;
        let (upstream, opened) = (upstream(&[&spec]), admission(&["localhost"]));
        let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        for name in ["localhost", "db.localhost"] {
            assert_eq!(upstream.resolve(name, None, &opened).await.unwrap(), both);
        }
        assert_eq!(upstream.resolve_ptr([127, 9, 9, 9].into(), None, &opened).await.unwrap(), "localhost");
        // Its name is another thing to open.
        let failure = upstream.resolve_ptr(both[0], None, &admission(&["127.0.0.1"])).await.unwrap_err();
        assert_eq!(failure.status, 403, "{failure}");
        assert!(requests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn bad_answers_of_tors_are_said() {
        for (answer, phrase) in [
            (&[0, 1, 10, 0, 0, 1][..], "is inside (private)"),
            (&[4, 1, 0, 0, 0, 0], "did not resolve a.test: Host unreachable"),
            (&[0, 9, 0, 0, 0, 0], "does not speak SOCKS5"),
        ] {
            let (spec, _) = tor(answer).await;
            let failure = upstream(&[&spec]).resolve("a.test", None, &admission(&[])).await.unwrap_err();
            assert!(failure.message.contains(phrase), "{failure}");
        }
        // An outside address that says it is this host.
        let (spec, _) = tor(b"\x00\x03\x09localhost").await;
        let failure = upstream(&[&spec]).resolve_ptr([192, 0, 2, 7].into(), None, &admission(&[])).await.unwrap_err();
        assert_eq!(failure.status, 403, "{failure}");
        let (spec, _) = tor(b"\x00\x03\x05a\x1b[2J").await;
        let failure = upstream(&[&spec]).resolve_ptr([192, 0, 2, 7].into(), None, &admission(&[])).await.unwrap_err();
        assert!(failure.message.contains("192.0.2.7 has `a\\u{1b}[2J` for a name, which is none"), "{failure}");
    }

    #[tokio::test]
    async fn the_hosts_resolver_answers_where_the_way_is_direct() {
        let direct = upstream(&["direct"]);
        // Which name is to be found everywhere? Only this one, and it is inside.
        assert_eq!(direct.resolve("localhost", None, &admission(&[])).await.unwrap_err().status, 403);
        let found = direct.resolve("localhost", None, &admission(&["localhost"])).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
        let loopback = Ipv4Addr::LOCALHOST.into();
        assert_eq!(direct.resolve_ptr(loopback, None, &admission(&[])).await.unwrap_err().status, 403);
        let name = direct.resolve_ptr(loopback, None, &admission(&["localhost"])).await.unwrap();
        assert!(name.starts_with("localhost"), "{name}");
    }

    #[tokio::test]
    async fn other_upstreams_look_nothing_up() {
        for specs in [&["socks5://192.0.2.1"][..], &["http://192.0.2.1:1"], &["tor://192.0.2.1", "socks4a://192.0.2.2"]]
        {
            let upstream = upstream(specs);
            let failure = upstream.resolve("a.test", None, &admission(&[])).await.unwrap_err();
            assert!(matches!(failure.reply, ReplyError::CommandNotSupported), "{failure}");
            assert!(failure.message.contains("does not resolve names"), "{failure}");
            assert!(upstream.resolve_ptr([192, 0, 2, 7].into(), None, &admission(&[])).await.is_err());
        }
    }
}
