//! The TLS side of one listener: its certificate, whom it lets in, and how both are exchanged
//! while it runs.
//!
//! What is exchanged is the whole rustls configuration and not the certificate alone, because the
//! authority of client certificates is part of it too. Connections that are open keep theirs.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

use super::pem::{self, PemError};
use crate::config::ListenerTls as Files;

/// Why a listener's TLS files do not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerTlsError {
    /// One of the files does not do.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The key is not the certificate's, or of a kind that rustls does not know.
    #[error("{key} and {certificate} do not make a pair a server can use")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A certificate in the file of authorities cannot be one.
    #[error("{path} has a certificate that cannot be an authority")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// No verifier can be made from the authorities.
    #[error("the authorities of {path} cannot verify clients")]
    Verifier {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: VerifierBuilderError,
    },
}

/// A listener's TLS, exchangeable while it runs.
pub(crate) struct ListenerTls {
    current: ArcSwap<Loaded>,
}

/// What a listener will use next: read and found good.
pub(crate) struct NextTls(Loaded);

struct Loaded {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    clients: Option<Clients>,
}

/// Whom a listener asks for a certificate, and how firmly.
#[derive(PartialEq, Eq)]
struct Clients {
    authorities: Vec<CertificateDer<'static>>,
    required: bool,
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file does not do; the error names it.
    pub(crate) fn load(files: &Files) -> Result<Self, ListenerTlsError> {
        Ok(Self {
            current: ArcSwap::from_pointee(Loaded::read(files, None)?),
        })
    }

    /// Reads the files again, for [`exchange`](Self::exchange).
    ///
    /// # Errors
    /// A file does not do; what was there stays.
    pub(crate) fn read(&self, files: &Files) -> Result<NextTls, ListenerTlsError> {
        Ok(NextTls(Loaded::read(files, Some(&self.current.load()))?))
    }

    /// Connections accepted from now on use what was read. Says whether anything changed in the
    /// certificates.
    pub(crate) fn exchange(&self, NextTls(next): NextTls) -> bool {
        let current = self.current.load();
        let changed = next.chain != current.chain || next.clients != current.clients;
        self.current.store(Arc::new(next));
        changed
    }

    /// What the next connection is accepted with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }
}

impl Loaded {
    fn read(files: &Files, previous: Option<&Self>) -> Result<Self, ListenerTlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = pem::certificates(&files.certificate)?;
        let pair = certified_key(files, chain.clone(), &provider)?;
        let clients = match &files.client_ca {
            Some(path) => Some(Clients {
                authorities: pem::certificates(path)?,
                required: files.client_required,
            }),
            None => None,
        };
        let verifier = match (&clients, &files.client_ca) {
            (Some(clients), Some(path)) => verifier(clients, path, &provider)?,
            _ => WebPkiClientVerifier::no_client_auth(),
        };

        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        match previous {
            // A resumed session is not verified again, so sessions live on only while the same
            // clients are let in.
            Some(previous) if previous.clients == clients => {
                config.session_storage = Arc::clone(&previous.config.session_storage);
                config.ticketer = Arc::clone(&previous.config.ticketer);
            }
            _ => match ring::Ticketer::new() {
                Ok(ticketer) => config.ticketer = ticketer,
                Err(error) => tracing::warn!(%error, "TLS sessions will not be resumed by ticket"),
            },
        }
        Ok(Self {
            config: Arc::new(config),
            chain,
            clients,
        })
    }
}

fn certified_key(
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, ListenerTlsError> {
    let mismatch = |source| ListenerTlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    };
    let key = pem::private_key(&files.key)?;
    let signer = provider
        .key_provider
        .load_private_key(key)
        .map_err(mismatch)?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        // Some keys cannot say what their public half is; the first handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
        Err(source) => Err(mismatch(source)),
    }
}

fn verifier(
    clients: &Clients,
    path: &std::path::Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ListenerTlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &clients.authorities {
        roots
            .add(authority.clone())
            .map_err(|source| ListenerTlsError::Authority {
                path: path.to_owned(),
                source,
            })?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if clients.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder
        .build()
        .map_err(|source| ListenerTlsError::Verifier {
            path: path.to_owned(),
            source,
        })
}
