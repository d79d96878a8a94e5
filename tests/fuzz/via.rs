//! `--via`: a way out reads back as it is written, and shows no password.

#![no_main]

mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| checks::via(text));
