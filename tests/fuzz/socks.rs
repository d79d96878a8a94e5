//! SOCKS4, SOCKS4a and SOCKS5 up to the complete request.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| appfw::forward::fuzzing::socks(bytes));
