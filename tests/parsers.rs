//! The checks of the fuzz targets, on their seeds and on what proptest makes of the same grammar.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

use appfw::forward::{dns_fuzzing, fuzzing};
use proptest::prelude::*;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= 4, "seeds of {target} are missing");
    seeds
}

fn texts(target: &str) -> Vec<String> {
    seeds(target).into_iter().map(|seed| String::from_utf8(seed).unwrap()).collect()
}

#[test]
fn every_seed_passes_its_target() {
    texts("rules").iter().for_each(|text| checks::rules(text));
    texts("via").iter().for_each(|text| checks::via(text));
    seeds("socks").iter().for_each(|seed| fuzzing::socks(seed));
    assert!(seeds("http_head").iter().all(|seed| fuzzing::http_head(seed)));
    assert!(seeds("dns").iter().all(|seed| dns_fuzzing::exchange(seed)));
}

/// What destinations and rules are written with: few words, so that rules meet what is asked for.
fn word() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec![
        "a.test",
        "A.Test.",
        "x.a.test",
        "*.a.test",
        "*.test",
        "b.localhost",
        "*.localhost",
        "LocalHost",
        "any",
        "link-local",
        "127.0.0.1",
        "127.1",
        "127.0.0.0/8",
        "10.0.0.1",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "169.254.0.1",
        "0x0a000001",
        "[::1]",
        "::1",
        "[::ffff:10.0.0.1]",
        "::ffff:10.0.0.0/104",
        "::/0",
        "[64:ff9b::10.0.0.1]",
        "[2002:a00:1::]",
        "64:ff9b::/96",
        "a..b",
        "*",
    ]);
    let ports = prop::sample::select(vec!["", ":80", ":80", ":443", ":0", ":1-9", ":80-90"]);
    (host, ports).prop_map(|(host, ports)| format!("{host}{ports}"))
}

fn spec() -> impl Strategy<Value = String> {
    let scheme = "(socks5h|socks5|socks4a|socks4|http|https|tor|unix|sokcs5)(://|:/|:)";
    let credentials = "((me|%20|hunter2)?(:(hunter2|%00|a%3Ab)?)?@){0,2}";
    let place = "(h|h\\.test|\\[::1\\]|127\\.0\\.0\\.1|/run/x|)(:(80|0|x))?/?";
    (scheme, credentials, place).prop_map(|(scheme, credentials, place)| scheme + &credentials + &place)
}

proptest! {
    #[test]
    fn rules_judge_as_they_match(
        asked in word(),
        address in prop::sample::select(vec!["127.0.0.1", "10.0.0.1", "::1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", ""]),
        patterns in prop::collection::vec((any::<bool>(), word()), 0..5),
    ) {
        let lines = patterns.into_iter().map(|(block, word)| if block { format!("!{word}") } else { word });
        checks::rules(&[asked, address.to_owned()].into_iter().chain(lines).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_way_out_reads_back_and_shows_no_password(specs in prop::collection::vec(spec(), 1..4)) {
        checks::via(&specs.join("\n"));
    }

    #[test]
    fn any_text(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        checks::rules(&text);
        checks::via(&text);
        prop_assert!(dns_fuzzing::exchange(&bytes));
    }
}
