//! A datagram with its headers, UDP's and IP's, as it is written to a raw socket. Pure.

use std::net::{IpAddr, SocketAddr};

use nix::libc::IPPROTO_UDP;

/// UDP's number among the protocols of IP.
const UDP: u8 = IPPROTO_UDP as u8;
/// A header of UDP.
const HEADER: usize = 8;
/// How many hops it may take: none is taken, as its receiver is in the same namespace.
const HOPS: u8 = 64;

/// Writes a datagram over what is in `bytes`; `None` if its ends are not of one family or it is too long.
pub(super) fn write(bytes: &mut Vec<u8>, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<()> {
    let length = u16::try_from(HEADER + payload.len()).ok()?;
    bytes.clear();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.checked_add(20)?;
            // Five words of header, no options. The kernel fills in what is 0 and the header's checksum (raw(7)).
            bytes.extend([0x45, 0]);
            bytes.extend(total.to_be_bytes());
            bytes.extend([0, 0, 0, 0, HOPS, UDP, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([UDP, HOPS]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        _ => return None,
    }
    let start = bytes.len();
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(payload);
    // The addresses stand right before, at the end of either header.
    let addresses = if from.is_ipv4() { 8 } else { 32 };
    let sum = checksum(&bytes[start - addresses..], u32::from(length) + u32::from(UDP));
    // 0 says that there is none (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    bytes[start + 6..start + HEADER].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The Internet checksum (RFC 1071) of `bytes` and a number beside them.
fn checksum(bytes: &[u8], beside: u32) -> u16 {
    let (words, last) = bytes.as_chunks::<2>();
    // 32 KiB words of 16 bits each fit.
    let mut sum = beside + words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum::<u32>();
    sum += last.first().map_or(0, |byte| u32::from(*byte) << 8);
    while let Some(carried) = Some(sum >> 16).filter(|carried| *carried > 0) {
        sum = (sum & 0xffff) + carried;
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_datagram_is_written_as_others_write_it() {
        let mut bytes = b"what was there before".to_vec();
        write(&mut bytes, at("192.0.2.1:53"), at("127.0.0.1:4660"), b"abc").unwrap();
        let header = [0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 127, 0, 0, 1];
        assert_eq!(bytes[..20], header);
        // By hand: c000 + 0201 + 7f00 + 0001 + 0011 + 000b + 0035 + 1234 + 000b + 6162 + 6300 = 217f4.
        assert_eq!(bytes[20..], [0, 53, 0x12, 0x34, 0, 11, 0xe8, 0x09, b'a', b'b', b'c']);
    }

    #[test]
    fn what_cannot_be_sent_is_not_written() {
        let (v4, v6, mut bytes) = (at("127.0.0.1:1"), at("[::1]:1"), Vec::new());
        assert_eq!(write(&mut bytes, v4, v6, b""), None);
        assert_eq!(write(&mut bytes, v6, v4, b""), None);
        for (end, longest) in [(v4, 65_507), (v6, 65_527)] {
            assert_eq!(write(&mut bytes, end, end, &vec![0xff; longest]), Some(()));
            assert_eq!(write(&mut bytes, end, end, &vec![0xff; longest + 1]), None);
        }
    }

    /// The sum over the pseudo-header and all behind it, which is 0 where the checksum is right.
    fn verified(bytes: &[u8]) -> u16 {
        let (start, addresses) = if bytes[0] >> 4 == 4 { (20, 8) } else { (40, 32) };
        checksum(&bytes[start - addresses..], (bytes.len() - start) as u32 + 17)
    }

    proptest! {
        #[test]
        fn every_checksum_is_right(
            v4 in any::<([u8; 4], [u8; 4])>(),
            v6 in any::<([u8; 16], [u8; 16])>(),
            ports in any::<(u16, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = Vec::new();
            for (from, to) in [(IpAddr::from(v4.0), IpAddr::from(v4.1)), (v6.0.into(), v6.1.into())] {
                write(&mut bytes, (from, ports.0).into(), (to, ports.1).into(), &payload).unwrap();
                prop_assert_eq!(verified(&bytes), 0);
                prop_assert!(bytes.ends_with(&payload));
            }
        }
    }
}
