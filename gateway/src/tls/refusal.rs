//! Why a client's handshake failed, in a word from a short list.

use std::io;

use rustls::Error;

use super::hello::ClientHello;

/// The oldest version that is spoken here, as the wire has it.
const TLS_1_2: u16 = 0x0303;

/// The word for an error of the acceptor. `hello`: the client's first message, if it was understood.
pub(crate) fn reason(error: &io::Error, hello: Option<&ClientHello>) -> &'static str {
    // Asked first: rustls may miss an extension that older versions do not have.
    let is_old = hello.is_some_and(|hello| hello.highest_version() < TLS_1_2);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::InvalidMessage(_)) if hello.is_none() => "tls_not_tls",
        Some(Error::PeerIncompatible(_)) if is_old => "tls_version",
        Some(Error::PeerIncompatible(_)) => "tls_nothing_in_common",
        Some(Error::NoApplicationProtocol) => "tls_application_protocol",
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => {
            "tls_client_certificate"
        }
        // It did not like us: an authority it does not know, more often than not.
        Some(Error::AlertReceived(_)) => "tls_alert",
        _ => "tls_handshake_failed",
    }
}
