//! A certificate for a name, signed by an authority of its own, as files and as configurations.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{KeyLog, RootCertStore, SupportedProtocolVersion};

use crate::cleanup::Scratch;

/// The one name the certificate bears.
pub const NAME: &str = "upstream.test";

/// An authority, and one certificate it signed for [`NAME`].
pub struct Certificate {
    directory: Scratch,
    authority: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// Makes both.
    pub fn new() -> anyhow::Result<Self> {
        let authority_key = rcgen::KeyPair::generate()?;
        let mut authority = rcgen::CertificateParams::new(Vec::new())?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Its own: a certificate whose issuer is called as itself passes for self-signed.
        let name = &mut authority.distinguished_name;
        name.push(rcgen::DnType::CommonName, "calltap load test authority");
        let signed = authority.self_signed(&authority_key)?;
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate()?;
        let leaf = rcgen::CertificateParams::new(vec![NAME.to_owned()])?;
        let leaf = leaf.signed_by(&key, &issuer)?;
        let directory = Scratch::new("calltap-certificate-")?;
        fs::write(directory.path().join("ca.pem"), signed.pem())?;
        fs::write(directory.path().join("chain.pem"), leaf.pem())?;
        fs::write(directory.path().join("key.pem"), key.serialize_pem())?;
        Ok(Self {
            directory,
            authority: signed.der().clone(),
            leaf: leaf.der().clone(),
            key: key.serialize_der(),
        })
    }

    /// The authority's file.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The files of the certificate and its key.
    pub fn files(&self) -> (PathBuf, PathBuf) {
        let file = |name| self.directory.path().join(name);
        (file("chain.pem"), file("key.pem"))
    }

    /// For a server with this certificate.
    pub fn server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> anyhow::Result<rustls::ServerConfig> {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        Ok(builder
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.clone()], key.into())?)
    }

    /// For a client that trusts the authority alone.
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> anyhow::Result<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let builder = rustls::ClientConfig::builder_with_provider(provider());
        Ok(builder
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// Writes TLS secrets into a file, as `SSLKEYLOGFILE` has them.
#[derive(Debug)]
pub struct Secrets(Mutex<File>);

impl Secrets {
    /// Into a new file, to which others may append, too.
    pub fn create(path: &Path) -> std::io::Result<Arc<Self>> {
        File::create(path)?;
        let file = File::options().append(true).open(path)?;
        Ok(Arc::new(Self(Mutex::new(file))))
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its secrets a connection cannot be judged, which then says so.
        let _ = file.write_all(line.as_bytes());
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
