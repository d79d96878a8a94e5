//! HTTP heads: what is passed on of one reads as it did.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(appfw::forward::fuzzing::http_head(bytes)));
