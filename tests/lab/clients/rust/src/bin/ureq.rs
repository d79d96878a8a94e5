//! Prints the pages whose addresses it is given.

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

fn main() -> Result<(), ureq::Error> {
    let trust = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent = Agent::config_builder().tls_config(trust).build().into();
    for url in std::env::args().skip(1) {
        print!("{}", agent.get(&url).call()?.body_mut().read_to_string()?);
    }
    Ok(())
}
