//! Destinations, patterns and rules made of these: they read back as they are shown, and judge as they match.

#![no_main]

mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| checks::rules(text));
