//! A datagram of a SOCKS5 association: what is read of it is what is written again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(appfw::forward::fuzzing::datagram(bytes)));
