//! Looks into the PEM files a configuration names, so that a wrong one is a mistake of the
//! configuration and not of the first handshake.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file does not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("{path} has no private key in PEM form")]
    NoKey { path: PathBuf },
    #[error("{path} is not well-formed PEM")]
    BrokenPem { path: PathBuf },
    #[error(
        "{path} has a private key of a kind that is not supported (RSA, ECDSA P-256 or P-384, Ed25519 are)"
    )]
    KeyKind { path: PathBuf },
    #[error("{path} has a certificate that is not well-formed")]
    BrokenCertificate { path: PathBuf },
    #[error("{key} is not the private key of {certificate}")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{path} is empty")]
    Empty { path: PathBuf },
}

/// A certificate chain, the own certificate first.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(FileError::NoCertificate {
            path: path.to_owned(),
        }),
        Ok(chain) => Ok(chain),
        Err(_) => Err(FileError::BrokenPem {
            path: path.to_owned(),
        }),
    }
}

/// A private key that can sign.
pub(super) fn signer(path: &Path) -> Result<Arc<dyn SigningKey>, FileError> {
    let path = || path.to_owned();
    let der = PrivateKeyDer::from_pem_slice(&read(&path())?).map_err(|error| match error {
        pem::Error::NoItemsFound => FileError::NoKey { path: path() },
        _ => FileError::BrokenPem { path: path() },
    })?;
    any_supported_type(&der).map_err(|_| FileError::KeyKind { path: path() })
}

/// Whether the key is that of the chain's first certificate.
pub(super) fn check_pair(
    (certificate, chain): (&Path, Vec<CertificateDer<'static>>),
    (key, signer): (&Path, Arc<dyn SigningKey>),
) -> Result<(), FileError> {
    match CertifiedKey::new(chain, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(FileError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
        Err(_) => Err(FileError::BrokenCertificate {
            path: certificate.to_owned(),
        }),
    }
}

/// Certificates of authorities.
pub(super) fn check_authorities(path: &Path) -> Result<(), FileError> {
    let mut store = RootCertStore::empty();
    chain(path)?
        .into_iter()
        .try_for_each(|certificate| store.add(certificate))
        .map_err(|_| FileError::BrokenCertificate {
            path: path.to_owned(),
        })
}

/// A bearer token on the first line.
pub(super) fn check_token(path: &Path) -> Result<(), FileError> {
    secret(path).map(drop)
}

/// The first line, without blanks around it.
pub(super) fn secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let text = read(path)?;
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match line.trim_ascii() {
        [] => Err(FileError::Empty {
            path: path.to_owned(),
        }),
        secret => Ok(secret.to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}
