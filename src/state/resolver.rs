//! The files that say who resolves the app's names. Pure.

use crate::dns::Dns;
use crate::plan::{Plan, Resolver};

/// The forwarder's DNS; or a resolver that refuses at once: programs that read resolv.conf themselves
/// would otherwise wait for 127.0.0.1, the default of resolv.conf(5).
pub(crate) fn resolv_conf(plan: &Plan) -> String {
    let refused = || plan.lists().canary().map_or_else(|| "127.0.0.1".to_owned(), |canary| canary.to_string());
    let (server, timeout, attempts) = match (plan.resolver, plan.dns) {
        (Resolver::Off | Resolver::Host, _) => (refused(), 1, 1),
        // Longer than the forwarder waits itself: it answers each query, the first one as it is started.
        (Resolver::Forwarder, Dns::Host | Dns::Tcp(_)) => (plan.address.ip().to_string(), 25, 2),
        (Resolver::Forwarder, Dns::Synthetic | Dns::Off) => (plan.address.ip().to_string(), 5, 2),
    };
    // Without `search` the C library would try names below the host's own domain.
    format!(
        "# Written by appfw-run: names are the forwarder's to resolve.\nnameserver {server}\nsearch .\noptions timeout:{timeout} attempts:{attempts}\n"
    )
}

/// nsswitch.conf(5) with its `hosts` line replaced, all else as it was: users and groups must
/// still be found.
pub(crate) fn with_host_lookups(text: &str, resolver: Resolver) -> String {
    let is_hosts = |line: &&str| line.trim_start().starts_with("hosts:");
    let kept: Vec<&str> = text.lines().filter(|line| !is_hosts(line)).collect();
    let hosts = if resolver == Resolver::Forwarder { "files dns" } else { "files" };
    kept.join("\n") + &format!("\nhosts: {hosts}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan;

    #[test]
    fn only_the_hosts_line_of_nsswitch_is_replaced() {
        let text = "passwd: files systemd\n# hosts: no\n hosts: files resolve [!UNAVAIL=return] dns\ngroup: files";
        for (resolver, hosts) in [(Resolver::Off, "files"), (Resolver::Forwarder, "files dns")] {
            let expected = format!("passwd: files systemd\n# hosts: no\ngroup: files\nhosts: {hosts}\n");
            assert_eq!(with_host_lookups(text, resolver), expected);
        }
    }

    #[test]
    fn programs_ask_the_forwarder_or_are_refused_at_once() {
        for (line, server, options) in [
            ("--via direct x", "127.100.90.50", "timeout:25 attempts:2"),
            ("--via tor x", "127.100.90.50", "timeout:5 attempts:2"),
            ("--via tor --dns tcp://9.9.9.9 x", "127.100.90.50", "timeout:25 attempts:2"),
            ("--via direct --dns off x", "192.0.2.1", "timeout:1 attempts:1"),
            ("--via direct --wall address --allow 192.0.2.0/24 x", "198.51.100.1", "timeout:1 attempts:1"),
        ] {
            let text = resolv_conf(&plan(line).unwrap());
            let expected = format!("\nnameserver {server}\nsearch .\noptions {options}\n");
            assert!(text.ends_with(&expected), "{line}: {text}");
        }
    }
}
