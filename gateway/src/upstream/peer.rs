//! Prepares what Pingora needs to connect to the endpoints of a group: once, not per call.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pingora::protocols::ALPN;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::InconsistentKeys;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::UpstreamError;
use crate::config::{ClientIdentity, EndpointAddress, Limits, Protocol, UpstreamConfig};
use crate::tls::pem;

/// What the peers of a group have in common.
pub(super) struct Template {
    group: Arc<str>,
    tls: Option<Tls>,
    options: PeerOptions,
    /// Connections are pooled by address, and Pingora's pool key leaves out the authorities and
    /// half of the options; this keeps groups, and what they were before a reload, apart.
    pool_key: u64,
}

struct Tls {
    server_name: Option<String>,
    identity: Option<Arc<CertKey>>,
}

impl Template {
    pub(super) fn build(config: &UpstreamConfig, limits: &Limits) -> Result<Self, UpstreamError> {
        let mut options = PeerOptions::new();
        // One timer for TCP and TLS together; Pingora would start one for each.
        options.total_connection_timeout = Some(limits.connect);
        options.read_timeout = limits.upstream_read;
        options.write_timeout = limits.upstream_write;
        options.idle_timeout = Some(limits.upstream_idle);
        options.alpn = match config.protocol {
            Protocol::Http1 => ALPN::H1,
            Protocol::Http2 => ALPN::H2,
        };
        // One call at a time on an upstream connection keeps its packets attributable to a call,
        // and a lost one from holding up the others.
        options.max_h2_streams = 1;

        let mut pool_key = DefaultHasher::new();
        (&config.name, config.protocol == Protocol::Http2).hash(&mut pool_key);
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                if let Some(name) = &tls.server_name {
                    valid_name(&config.name, name)?;
                    name.hash(&mut pool_key);
                }
                if let Some(path) = &tls.ca {
                    let authorities = certificates(&config.name, path)?;
                    authorities.hash(&mut pool_key);
                    options.ca = Some(
                        authorities
                            .into_iter()
                            .map(wrapped)
                            .collect::<Arc<CaType>>(),
                    );
                }
                let identity = match &tls.identity {
                    Some(files) => Some(identity(&config.name, files, &mut pool_key)?),
                    None => None,
                };
                Some(Tls {
                    server_name: tls.server_name.clone(),
                    identity,
                })
            }
        };
        Ok(Self {
            group: Arc::clone(&config.name),
            tls,
            options,
            pool_key: pool_key.finish(),
        })
    }

    /// The peer of one endpoint; `resolved` is where a DNS name points to now.
    pub(super) fn peer(
        &self,
        endpoint: &EndpointAddress,
        resolved: Option<SocketAddr>,
    ) -> Result<HttpPeer, UpstreamError> {
        let server_name = match &self.tls {
            None => String::new(),
            Some(tls) => self.server_name(tls, endpoint)?,
        };
        let has_tls = self.tls.is_some();
        let mut peer = match (endpoint, resolved) {
            (EndpointAddress::Socket(address), _) => HttpPeer::new(*address, has_tls, server_name),
            (EndpointAddress::Unix(path), _) => {
                let unusable = || UpstreamError::SocketPath {
                    group: Arc::clone(&self.group),
                    endpoint: endpoint.to_string(),
                };
                let path = path.to_str().ok_or_else(unusable)?;
                HttpPeer::new_uds(path, has_tls, server_name).map_err(|_| unusable())?
            }
            (EndpointAddress::Dns { .. }, Some(address)) => {
                HttpPeer::new(address, has_tls, server_name)
            }
            // Only to see that the name will do, before there is an answer.
            (EndpointAddress::Dns { port, .. }, None) => HttpPeer::new(
                SocketAddr::from(([0, 0, 0, 0], *port)),
                has_tls,
                server_name,
            ),
        };
        peer.options = self.options.clone();
        peer.group_key = self.pool_key;
        peer.client_cert_key = self.tls.as_ref().and_then(|tls| tls.identity.clone());
        Ok(peer)
    }

    /// What a rewritten Host header says.
    pub(super) fn authority(&self, endpoint: &EndpointAddress) -> String {
        match (
            self.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            endpoint,
        ) {
            (Some(name), _) => name.to_owned(),
            // A path is no host; HTTP wants some name.
            (None, EndpointAddress::Unix(_)) => "localhost".to_owned(),
            (None, endpoint) => endpoint.to_string(),
        }
    }

    /// Never empty: Pingora takes an empty name for leave to believe any certificate.
    fn server_name(&self, tls: &Tls, endpoint: &EndpointAddress) -> Result<String, UpstreamError> {
        let name = match (&tls.server_name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, EndpointAddress::Socket(address)) => address.ip().to_string(),
            (None, EndpointAddress::Dns { host, .. }) => host.clone(),
            (None, EndpointAddress::Unix(_)) => {
                return Err(UpstreamError::NoServerName {
                    group: Arc::clone(&self.group),
                    endpoint: endpoint.to_string(),
                });
            }
        };
        valid_name(&self.group, &name)?;
        Ok(name)
    }
}

fn valid_name(group: &Arc<str>, name: &str) -> Result<(), UpstreamError> {
    ServerName::try_from(name)
        .map(|_| ())
        .map_err(|source| UpstreamError::ServerName {
            group: Arc::clone(group),
            name: name.to_owned(),
            source,
        })
}

fn identity(
    group: &Arc<str>,
    files: &ClientIdentity,
    pool_key: &mut impl Hasher,
) -> Result<Arc<CertKey>, UpstreamError> {
    let chain = certificates(group, &files.certificate)?;
    let key = pem::private_key(&files.key).map_err(|source| UpstreamError::Pem {
        group: Arc::clone(group),
        source,
    })?;
    let mismatch = |source| UpstreamError::Pair {
        group: Arc::clone(group),
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source: Box::new(source),
    };
    // Pingora trusts the pair to fit and the key to be one it can tell by its bytes; it panics
    // where they are not.
    let der = key.secret_der().to_vec();
    PrivateKeyDer::try_from(der.as_slice())
        .map_err(|error| mismatch(rustls::Error::General(error.to_owned())))?;
    let signer = any_supported_type(&key).map_err(mismatch)?;
    let pair: Vec<CertificateDer<'static>> = chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    match CertifiedKey::new(pair, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(source) => return Err(mismatch(source)),
    }
    (&chain, &der).hash(pool_key);
    Ok(Arc::new(CertKey::new(chain, der)))
}

/// The certificates of a file, each seen to be well-formed: Pingora panics over others.
fn certificates(group: &Arc<str>, path: &Path) -> Result<Vec<Vec<u8>>, UpstreamError> {
    let certificates = pem::certificates(path).map_err(|source| UpstreamError::Pem {
        group: Arc::clone(group),
        source,
    })?;
    certificates
        .into_iter()
        .map(|der| match X509Certificate::from_der(&der) {
            Ok(_) => Ok(der.to_vec()),
            Err(_) => Err(UpstreamError::Certificate {
                group: Arc::clone(group),
                path: path.to_owned(),
            }),
        })
        .collect()
}

fn wrapped(der: Vec<u8>) -> WrappedX509 {
    WrappedX509::new(der, parse_x509)
}
