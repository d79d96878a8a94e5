//! What must hold of whatever the parsers take, for the fuzz targets and for tests/parsers.rs.
#![allow(dead_code, reason = "each target takes its own")]

use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::str::FromStr;

use appfw::destination::{Destination, Host, Judgement, Pattern, Refusal, Rules};
use appfw::via::Via;

/// A password that nobody has by chance.
const SECRET: &str = "hunter2";

/// Lines: a destination, an address that it leads to, then values of `--only`, and after a `!` of `--block`.
pub fn rules(text: &str) {
    let mut lines = text.split('\n');
    let (asked, address) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut rules = Rules::default();
    for line in lines {
        let (list, word) = match line.strip_prefix('!') {
            Some(word) => (&mut rules.block, word),
            None => (&mut rules.only, line),
        };
        list.extend(reads_back::<Pattern>(word));
    }
    reads_back::<Host>(asked);
    let Ok(asked) = Destination::parse(asked, None) else { return };
    assert_eq!(Destination::parse(&asked.to_string(), None).unwrap(), asked);
    judges_as_it_matches(&rules, &asked);
    rules.only.iter().chain(&rules.block).for_each(|pattern| knows_its_loopback(pattern, &asked));
    if let Ok(address) = address.parse::<IpAddr>() {
        lets_no_blocked_address_through(&rules, &asked, address);
    }
}

/// One hop of `--via` a line.
pub fn via(text: &str) {
    let specs: Vec<String> = text.split('\n').map(str::to_owned).collect();
    match Via::parse(&specs) {
        Ok(via) => assert_eq!(Via::parse(&via.secret_specs()).unwrap(), via),
        Err(error) => is_one_line(&error),
    }
    for spec in &specs {
        shows_no_password(spec);
    }
}

/// What stands before the last `@` of a hop, and is not its scheme, is shown to nobody.
fn shows_no_password(spec: &str) {
    let (scheme, rest) = spec.split_once("://").unwrap_or(("", spec));
    let Some((before, after)) = rest.rsplit_once('@') else { return };
    if !before.contains(SECRET) || after.contains(SECRET) || scheme.contains(SECRET) {
        return;
    }
    // A name that isn't ASCII is shown by other letters (RFC 3492), which may be these.
    let without = Via::parse(&[format!("{scheme}://{after}")]);
    if without.map_or_else(|error| format!("{error:#}"), |via| via.to_string()).contains(SECRET) {
        return;
    }
    match Via::parse(&[spec.to_owned()]) {
        // A socket's path is shown, whatever is in it.
        Ok(via) => assert!(!via.has_secret() || !format!("{via} {via:?}").contains(SECRET), "{via}"),
        Err(error) => assert!(!format!("{error:#}").contains(SECRET), "{error:#}"),
    }
}

fn reads_back<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert!(shown.parse::<T>().is_ok_and(|again| again == value), "{text:?} is shown as {shown:?}");
            Some(value)
        }
        Err(error) => {
            is_one_line(&error);
            None
        }
    }
}

/// As messages have to be that go to a terminal or a log.
fn is_one_line(error: &impl Display) {
    let message = format!("{error:#}");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

fn judges_as_it_matches(rules: &Rules, asked: &Destination) {
    let is_named = |list: &[Pattern]| list.iter().any(|pattern| pattern.matches(asked));
    let judged = rules.judge(asked);
    let is_blocked = matches!(judged, Judgement::Refused(Refusal::Block(_)));
    assert!(is_blocked || !is_named(&rules.block), "{asked} passes {:?}", rules.block);
    if !is_blocked {
        assert_eq!(judged == Judgement::Passes, rules.only.is_empty() || is_named(&rules.only), "{asked} {rules:?}");
    }
    if let (Host::Ip(IpAddr::V4(address)), true) = (&asked.host, is_blocked) {
        let mapped = Destination { host: Host::Ip(address.to_ipv6_mapped().into()), port: asked.port };
        assert!(matches!(rules.judge(&mapped), Judgement::Refused(Refusal::Block(_))), "{mapped} {rules:?}");
    }
}

fn lets_no_blocked_address_through(rules: &Rules, asked: &Destination, address: IpAddr) {
    let there = Destination { host: Host::Ip(address), port: asked.port };
    let is_named = |list: &[Pattern], what: &Destination| list.iter().any(|pattern| pattern.matches(what));
    if rules.judge_address(asked, address).is_ok() {
        assert!(!is_named(&rules.block, &there), "{asked} at {address} passes {:?}", rules.block);
        let only = &rules.only;
        assert!(only.is_empty() || is_named(only, asked) || is_named(only, &there), "{asked} at {address} {only:?}");
    }
}

/// The forwarder's own filter is made by this: what a pattern opens must not be shut there.
fn knows_its_loopback(pattern: &Pattern, asked: &Destination) {
    let loopback = pattern.loopback();
    assert!(loopback.iter().all(|network| network.addr().is_loopback()), "{pattern} {loopback:?}");
    if pattern.matches(asked) && asked.host.is_loopback() {
        let is_there = |address: &IpAddr| loopback.iter().any(|network| network.contains(&address.to_canonical()));
        let is_known = match &asked.host {
            Host::Ip(address) => is_there(address),
            Host::Name(_) => !loopback.is_empty(),
        };
        assert!(is_known, "{pattern} opens {asked}, and not {loopback:?}");
    }
    if let Some(socket) = pattern.loopback_socket() {
        assert!(pattern.matches(&Destination::from_ip(socket.ip(), socket.port()).unwrap()), "{pattern} {socket}");
    }
}
