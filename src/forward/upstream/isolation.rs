//! What shares a circuit of Tor's. Tor builds separate circuits for separate SOCKS credentials
//! (IsolateSOCKSAuth, on by default), so whoever may share gets the same ones.
//!
//! They are a keyed hash: an app chooses one of its inputs, its own credentials, and can so divide its
//! circuits further, but never meet those of another launch, whose key it does not know.

use anyhow::{Result, anyhow};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::SystemRandom;

use crate::cli::Isolate;
use crate::destination::Host;
use crate::via::Credentials;

use super::trust::Trust;

/// Makes the credentials of circuits.
pub(super) struct Isolation {
    key: hmac::Key,
    by_destination: bool,
}

/// For whom and to where a connection is made.
pub(super) struct Errand<'a> {
    pub(super) isolation: &'a Isolation,
    pub(super) trust: &'a Trust,
    pub(super) caller: Option<&'a Credentials>,
    pub(super) host: &'a Host,
}

impl Errand<'_> {
    pub(super) fn circuit(&self) -> Credentials {
        self.isolation.circuit(self.caller, self.host)
    }
}

impl Isolation {
    /// `profile` is what the launches of one profile have in common. Whoever guesses it can share
    /// their circuits, and learns nothing by that.
    pub(super) fn new(isolate: Isolate, profile: Option<&str>) -> Result<Self> {
        let key = match (isolate, profile) {
            (Isolate::Profile, Some(profile)) => {
                hmac::Key::new(HMAC_SHA256, format!("appfw profile {profile}").as_bytes())
            }
            _ => hmac::Key::generate(HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| anyhow!("the system gives no random numbers, which keep circuits apart"))?,
        };
        Ok(Self { key, by_destination: isolate == Isolate::Destination })
    }

    /// The credentials for a connection to `host`, made for the app's `caller`.
    fn circuit(&self, caller: Option<&Credentials>, host: &Host) -> Credentials {
        let mut hash = hmac::Context::with_key(&self.key);
        // Each part says whether it is there and how long it is: no two inputs read alike.
        let mut part = |text: Option<&str>| {
            hash.update(&[u8::from(text.is_some())]);
            let text = text.unwrap_or_default();
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(caller.map(|caller| caller.user.as_str()));
        part(caller.map(|caller| caller.password.as_str()));
        part(self.by_destination.then(|| host.to_string()).as_deref());
        let tag = hash.sign();
        let (user, password) = tag.as_ref().split_at(tag.as_ref().len() / 2);
        Credentials { user: format!("appfw-{}", hex(user)), password: hex(password) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit(isolation: &Isolation, caller: Option<(&str, &str)>, host: &str) -> (String, String) {
        let caller = caller.map(|(user, password)| Credentials { user: user.into(), password: password.into() });
        let Credentials { user, password } = isolation.circuit(caller.as_ref(), &host.parse().unwrap());
        (user, password)
    }

    #[test]
    fn callers_divide_and_never_merge() {
        let launch = Isolation::new(Isolate::Launch, None).unwrap();
        let callers = [None, Some(("", "")), Some(("a", "b")), Some(("ab", "")), Some(("", "ab")), Some(("a", "c"))];
        let mut circuits: Vec<_> = callers.iter().map(|caller| circuit(&launch, *caller, "a.test")).collect();
        let again: Vec<_> = callers.iter().map(|caller| circuit(&launch, *caller, "b.test")).collect();
        assert_eq!(circuits, again, "one launch's circuits are kept, wherever it goes");
        circuits.sort();
        circuits.dedup();
        assert_eq!(circuits.len(), callers.len());

        // What another launch was given, said by an app, is not what that launch says.
        let other = Isolation::new(Isolate::Launch, None).unwrap();
        let (user, password) = circuit(&launch, None, "a.test");
        let stolen = circuit(&other, Some((&user, &password)), "a.test");
        assert!(![circuit(&launch, None, "a.test"), circuit(&other, None, "a.test")].contains(&stolen));
    }

    #[test]
    fn what_shares() {
        let new = |isolate, key| circuit(&Isolation::new(isolate, key).unwrap(), None, "a.test");
        assert_ne!(new(Isolate::Launch, None), new(Isolate::Launch, None));
        assert_ne!(new(Isolate::Launch, Some("x")), new(Isolate::Launch, Some("x")));
        assert_ne!(new(Isolate::Destination, Some("x")), new(Isolate::Destination, Some("x")));
        assert_eq!(new(Isolate::Profile, Some("x")), new(Isolate::Profile, Some("x")));
        assert_ne!(new(Isolate::Profile, Some("x")), new(Isolate::Profile, Some("y")));
        assert_ne!(new(Isolate::Profile, None), new(Isolate::Profile, None), "without a profile as a launch");

        let destination = Isolation::new(Isolate::Destination, None).unwrap();
        assert_eq!(circuit(&destination, None, "a.test"), circuit(&destination, None, "A.test."));
        assert_ne!(circuit(&destination, None, "a.test"), circuit(&destination, None, "b.test"));
        assert_ne!(circuit(&destination, None, "a.test"), circuit(&destination, Some(("", "")), "a.test"));
    }
}
