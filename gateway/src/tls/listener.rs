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

    /// Whether the next client is asked for a certificate.
    pub(crate) fn asks_clients(&self) -> bool {
        self.current.load().clients.is_some()
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

#[cfg(test)]
mod tests {
    use calltap_correlate::exchange::TlsFacts;
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::AsyncReadExt;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::testing::{Authority, Pair};
    use super::super::{Observed, facts};
    use super::*;

    /// As a reload does it.
    fn reload(listener: &ListenerTls, files: &Files) -> Result<bool, ListenerTlsError> {
        Ok(listener.exchange(listener.read(files)?))
    }

    fn files(pair: &Pair, client_ca: Option<(&Authority, bool)>) -> Files {
        Files {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            client_ca: client_ca.map(|(authority, _)| authority.certificate.clone()),
            client_required: client_ca.is_some_and(|(_, required)| required),
        }
    }

    /// One handshake: what the server learnt, and which certificate the client was shown.
    async fn handshake(
        listener: &ListenerTls,
        client: &Arc<ClientConfig>,
    ) -> Result<(TlsFacts, CertificateDer<'static>), std::io::Error> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = TlsAcceptor::from(listener.config()).accept(Observed::new(far));
        let name = ServerName::try_from("api.example").unwrap();
        let connector = TlsConnector::from(Arc::clone(client));
        let client = async move {
            let mut stream = connector.connect(name, near).await?;
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0]
                .clone()
                .into_owned();
            // Tickets come after the handshake, a refused certificate too; then the server hangs up.
            let _ = stream.read(&mut [0; 1]).await;
            Ok::<_, std::io::Error>(shown)
        };
        let server = async {
            let stream = server.await?;
            let (observed, connection) = stream.get_ref();
            Ok::<_, std::io::Error>(facts::of_connection(connection, observed.hello(), Some(7)))
        };
        let (learnt, shown) = tokio::join!(server, client);
        Ok((learnt?, shown?))
    }

    #[tokio::test]
    async fn a_record_knows_what_was_negotiated() {
        let authority = Authority::new("ca");
        let listener = ListenerTls::load(&files(&authority.issue("api.example"), None)).unwrap();
        let client = Arc::new(authority.client(None));
        let (learnt, _) = handshake(&listener, &client).await.unwrap();
        assert_eq!(learnt.version.as_deref(), Some("1.3"));
        assert!(
            learnt.cipher.as_deref().unwrap().starts_with("TLS_"),
            "{:?}",
            learnt.cipher
        );
        assert_eq!(learnt.next_protocol.as_deref(), Some("h2"));
        assert_eq!(learnt.server_name.as_deref(), Some("api.example"));
        assert_eq!(learnt.resumed, Some(false));
        assert_eq!(learnt.client_subject, None);
        assert_eq!(learnt.handshake_us, Some(7));
        let ja4 = learnt.ja4.unwrap();
        assert!(ja4.starts_with("t13d"), "{ja4}");
        assert_eq!(&ja4[8..11], "h2_");

        let (again, _) = handshake(&listener, &client).await.unwrap();
        assert_eq!(again.resumed, Some(true));
    }

    #[tokio::test]
    async fn clients_are_let_in_by_their_certificate() {
        let servers = Authority::new("servers");
        let clients = Authority::new("clients");
        let ann = clients.issue("ann");
        let strangers = Authority::new("strangers");
        let stranger = strangers.issue("ann");
        let pair = servers.issue("api.example");
        let check = async |required: bool, identity: Option<&Pair>, expected: Option<&str>| {
            let listener = ListenerTls::load(&files(&pair, Some((&clients, required)))).unwrap();
            let client = Arc::new(servers.client(identity));
            let subject = match handshake(&listener, &client).await {
                Ok((learnt, _)) => Some(learnt.client_subject.unwrap_or_default()),
                Err(_) => None,
            };
            assert_eq!(subject.as_deref(), expected, "required: {required}");
        };
        check(true, Some(&ann), Some("CN=ann")).await;
        check(true, None, None).await;
        check(true, Some(&stranger), None).await;
        check(false, Some(&ann), Some("CN=ann")).await;
        check(false, None, Some("")).await;
    }

    #[tokio::test]
    async fn a_certificate_is_exchanged_and_sessions_go_on() {
        let authority = Authority::new("ca");
        let pair = authority.issue("api.example");
        let old = pair.der();
        let listener = ListenerTls::load(&files(&pair, None)).unwrap();
        let client = Arc::new(authority.client(None));
        assert_eq!(handshake(&listener, &client).await.unwrap().1, old);

        let new = authority.issue("api.example").der(); // in the same files
        assert_ne!(new, old);
        assert!(reload(&listener, &files(&pair, None)).unwrap());
        assert!(
            !reload(&listener, &files(&pair, None)).unwrap(),
            "nothing changed since"
        );
        let (learnt, _) = handshake(&listener, &client).await.unwrap();
        assert_eq!(learnt.resumed, Some(true));
        let newcomer = Arc::new(authority.client(None));
        assert_eq!(handshake(&listener, &newcomer).await.unwrap().1, new);
    }

    #[tokio::test]
    async fn sessions_end_when_other_clients_are_let_in() {
        let servers = Authority::new("servers");
        let (before, after) = (Authority::new("before"), Authority::new("after"));
        let pair = servers.issue("api.example");
        let listener = ListenerTls::load(&files(&pair, Some((&before, true)))).unwrap();
        let client = Arc::new(servers.client(Some(&before.issue("ann"))));
        handshake(&listener, &client).await.unwrap();
        let (learnt, _) = handshake(&listener, &client).await.unwrap();
        assert_eq!(learnt.resumed, Some(true));
        assert_eq!(learnt.client_subject.as_deref(), Some("CN=ann"));
        assert!(reload(&listener, &files(&pair, Some((&after, true)))).unwrap());
        handshake(&listener, &client)
            .await
            .expect_err("ann is nobody's client any more");
    }

    #[tokio::test]
    async fn files_that_do_not_do_are_named_and_change_nothing() {
        let authority = Authority::new("ca");
        let (one, other) = (authority.issue("one"), authority.issue("other"));
        let good = files(&authority.issue("api.example"), None);
        let listener = ListenerTls::load(&good).unwrap();
        let check = |bad: Files, expected: &str| {
            let error = reload(&listener, &bad).unwrap_err().to_string();
            let file_names: Vec<&str> = error
                .split(' ')
                .map(|word| word.rsplit('/').next().unwrap())
                .collect();
            assert_eq!(file_names.join(" "), expected);
        };
        check(
            Files {
                key: other.key.clone(),
                ..files(&one, None)
            },
            "other.key and one.pem do not make a pair a server can use",
        );
        let missing = one.key.with_file_name("missing.pem");
        check(
            Files {
                key: missing,
                ..files(&one, None)
            },
            "cannot read missing.pem",
        );
        check(
            Files {
                certificate: one.key.clone(),
                ..files(&one, None)
            },
            "one.key has no certificate in PEM form",
        );
        check(
            Files {
                key: one.certificate.clone(),
                ..files(&one, None)
            },
            "one.pem has no private key in PEM form",
        );
        let broken = authority.file("broken.pem", "-----BEGIN CERTIFICATE-----\n???\n");
        check(
            Files {
                client_ca: Some(broken),
                ..files(&one, None)
            },
            "broken.pem is not well-formed PEM",
        );
        handshake(&listener, &Arc::new(authority.client(None)))
            .await
            .unwrap();
    }
}
