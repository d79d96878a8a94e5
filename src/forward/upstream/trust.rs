//! Whom an `https://` upstream's certificate must be from.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};

use crate::forward::tls::Tls;
use crate::via::Endpoint;

use super::{Failure, Stream};

/// The system's authorities, read when the first upstream is to be checked by them: other ways out
/// neither wait for them nor hold them.
#[derive(Default)]
pub(super) struct Trust {
    config: OnceLock<Arc<ClientConfig>>,
    roots: Option<RootCertStore>,
}

impl Trust {
    pub(super) fn in_these(roots: RootCertStore) -> Self {
        Self { roots: Some(roots), ..Self::default() }
    }

    /// Puts `stream` under TLS with the upstream `at`, which must prove to be `server`.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        at: &Endpoint,
        server: &ServerName<'static>,
    ) -> Result<Stream, Failure> {
        let unchecked = |why| Failure::general(format!("the HTTPS upstream {at} cannot be checked: {why}"));
        let config = self.config().map_err(unchecked)?;
        match Tls::connect(config, server.clone(), stream).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(tls))),
            Err(error) => Err(Failure::general(format!("the HTTPS upstream {at} {}", what_went_wrong(&error)))),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            None => authorities(rustls_native_certs::load_native_certs().certs)?,
        };
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

fn authorities(found: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Some systems carry old ones that no longer parse; the others are as good without them.
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        return Err("this machine knows no certificate authorities, install ca-certificates".into());
    }
    Ok(roots)
}

fn what_went_wrong(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(why)) => format!("has a certificate that cannot be trusted: {why}"),
        Some(rustls::Error::InvalidMessage(_)) => "does not speak TLS".into(),
        Some(other) => format!("could not agree with us on TLS: {other}"),
        None => format!("closed the connection in the middle of its TLS handshake: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_authorities_nobody_is_trusted() {
        let unreadable = CertificateDer::from(b"old".to_vec());
        for found in [vec![], vec![unreadable.clone()]] {
            assert!(authorities(found).unwrap_err().contains("install ca-certificates"));
        }
        let issued = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        assert_eq!(authorities(vec![unreadable, issued.cert.der().clone()]).unwrap().len(), 1);
    }
}
