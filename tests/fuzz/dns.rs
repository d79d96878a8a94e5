//! A DNS query and a resolver's answer: what is said to either is whole and to the point.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(appfw::forward::dns_fuzzing::exchange(bytes)));
