//! A datagram between a client and a relay (RFC 1928, 7): a header that says where to or where from, then
//! the payload. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fast_socks5::consts;
use fast_socks5::util::target_addr::TargetAddr;

/// A header's first bytes: two reserved ones, and the number of a fragment, 0 for what is whole.
const WHOLE: [u8; 3] = [0; 3];

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::forward) struct Packet<'a> {
    /// Where it goes, or where it comes from.
    pub(in crate::forward) address: TargetAddr,
    pub(in crate::forward) payload: &'a [u8],
}

/// Reads a datagram; `None` if it is none, or a fragment of one, which a relay that puts none together
/// must drop. The library's own reading is for tasks that may wait.
pub(in crate::forward) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    let ([_, _, fragment, kind], rest) = bytes.split_first_chunk()?;
    if *fragment != 0 {
        return None;
    }
    let (host, rest) = match *kind {
        consts::SOCKS5_ADDR_TYPE_IPV4 => {
            let (octets, rest) = rest.split_first_chunk::<4>()?;
            (Ok(IpAddr::from(Ipv4Addr::from(*octets))), rest)
        }
        consts::SOCKS5_ADDR_TYPE_IPV6 => {
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            (Ok(IpAddr::from(Ipv6Addr::from(*octets))), rest)
        }
        consts::SOCKS5_ADDR_TYPE_DOMAIN_NAME => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked((*length).into())?;
            (Err(std::str::from_utf8(name).ok()?), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    let address = match host {
        Ok(ip) => TargetAddr::Ip(SocketAddr::new(ip, port)),
        Err(name) => TargetAddr::Domain(name.to_owned(), port),
    };
    Some(Packet { address, payload })
}

/// Writes a datagram over what is in `bytes`; `None` if the address is a name that is too long.
pub(in crate::forward) fn write(bytes: &mut Vec<u8>, address: &TargetAddr, payload: &[u8]) -> Option<()> {
    bytes.clear();
    bytes.extend(WHOLE);
    bytes.extend(address.to_be_bytes().ok()?);
    bytes.extend_from_slice(payload);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stumps_and_fragments_are_none() {
        let whole = b"\0\0\0\x03\x06a.test\x00\x35hello";
        let address = TargetAddr::Domain("a.test".into(), 53);
        assert_eq!(parse(whole), Some(Packet { address: address.clone(), payload: b"hello" }));
        assert_eq!(parse(&whole[..13]), Some(Packet { address, payload: b"" }));
        for length in 0..13 {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        for fragment in [1, 0x7f, 0x80, 0xff] {
            assert_eq!(parse(&[&[0, 0, fragment], &whole[3..]].concat()), None);
        }
        assert_eq!(parse(b"\0\0\0\x02\x7f\0\0\x01\0\x35"), None);
        assert_eq!(parse(b"\0\0\0\x03\x02\xff\xfe\0\x35"), None);
    }

    fn address() -> impl Strategy<Value = TargetAddr> {
        prop_oneof![
            (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| TargetAddr::Ip(SocketAddr::new(ip, port))),
            ("\\PC{0,60}", any::<u16>()).prop_map(|(name, port)| TargetAddr::Domain(name, port)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(address in address(), payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = b"what was there before".to_vec();
            write(&mut bytes, &address, &payload).unwrap();
            prop_assert_eq!(parse(&bytes), Some(Packet { address, payload: &payload }));
        }

        #[test]
        fn any_bytes_read_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for bytes in [&bytes[..], &[&b"\0\0\0\x03"[..], &bytes].concat()] {
                if let Some(Packet { address, payload }) = parse(bytes) {
                    let mut again = Vec::new();
                    write(&mut again, &address, payload).unwrap();
                    prop_assert_eq!(&again[3..], &bytes[3..]);
                }
            }
        }
    }
}
