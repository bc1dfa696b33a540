//! Why a TLS handshake with a peer failed, in words, and what to do.

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use std::error::Error;
use std::io;

/// What a failed handshake means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    NotTls,
    UnknownIssuer,
    OtherName,
    Expired,
    NotYetValid,
    /// Any other reason for which the certificate is not accepted.
    BadCertificate,
    WantsClientCertificate,
    /// No version or algorithm is common to both.
    Incompatible,
    /// The peer has closed the connection without an alert.
    Closed,
}

/// What tokio-rustls says where a peer closes during a handshake.
const HANDSHAKE_EOF: &str = "tls handshake eof";

impl TlsFault {
    /// Found in an error or its causes; none where they do not come from a handshake.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(fault) = error.downcast_ref::<TlsError>() {
                return Self::of_tls(fault);
            }
            let io = error.downcast_ref::<io::Error>();
            if io.is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof && e.to_string() == HANDSHAKE_EOF) {
                return Some(Self::Closed);
            }
            // what an I/O error wraps is not among its causes
            let inner = io.and_then(io::Error::get_ref);
            next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
        }
        None
    }

    /// As [`TlsFault::of`], for an error that a handshake has ended with: that the peer closes says something, too.
    pub fn of_handshake(error: &io::Error) -> Option<Self> {
        let closed = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
        Self::of(error).or_else(|| closed.then_some(Self::Closed))
    }

    fn of_tls(error: &TlsError) -> Option<Self> {
        Some(match error {
            TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => Self::NotTls,
            TlsError::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                _ => Self::BadCertificate,
            },
            TlsError::PeerIncompatible(_) => Self::Incompatible,
            TlsError::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied => Self::WantsClientCertificate,
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity => Self::Incompatible,
                AlertDescription::UnrecognisedName => Self::OtherName,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// What it is.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotTls => "it does not speak TLS",
            Self::UnknownIssuer => "its certificate is from an unknown issuer",
            Self::OtherName => "its certificate is for another name",
            Self::Expired => "its certificate has expired",
            Self::NotYetValid => "its certificate is not valid yet",
            Self::BadCertificate => "its certificate is not believed",
            Self::WantsClientCertificate => "it wants another client certificate, or one at all",
            Self::Incompatible => "it has no version or algorithm of TLS in common with holdline (1.2 and 1.3)",
            Self::Closed => "it closes the connection during the handshake, as what does not speak TLS does",
        }
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NotTls | Self::Closed => {
                "write the port on which it speaks TLS, or http:// in the url if it is to be without"
            }
            Self::UnknownIssuer => "set tls.ca to the certificate of its authority, or have it send its whole chain",
            Self::OtherName => "write the name in the url for which its certificate is",
            Self::Expired => "have it renew its certificate; is the clock of this machine right?",
            Self::NotYetValid => "is the clock of this machine right?",
            Self::BadCertificate => "have it use a certificate that a browser believes",
            Self::WantsClientCertificate => "set tls.cert and tls.key to a certificate that it knows",
            Self::Incompatible => "have it offer TLS 1.2 or 1.3",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::InvalidMessage;

    #[test]
    fn each_tls_fault_is_named_anywhere_in_the_error_chain() {
        let bad = |why| TlsError::InvalidCertificate(why);
        for (error, fault) in [
            (TlsError::InvalidMessage(InvalidMessage::InvalidContentType), Some(TlsFault::NotTls)),
            (bad(CertificateError::UnknownIssuer), Some(TlsFault::UnknownIssuer)),
            (bad(CertificateError::NotValidForName), Some(TlsFault::OtherName)),
            (bad(CertificateError::Expired), Some(TlsFault::Expired)),
            (bad(CertificateError::NotValidYet), Some(TlsFault::NotYetValid)),
            (bad(CertificateError::Revoked), Some(TlsFault::BadCertificate)),
            (TlsError::AlertReceived(AlertDescription::CertificateRequired), Some(TlsFault::WantsClientCertificate)),
            (TlsError::AlertReceived(AlertDescription::ProtocolVersion), Some(TlsFault::Incompatible)),
            (TlsError::AlertReceived(AlertDescription::InternalError), None),
        ] {
            assert_eq!(TlsFault::of(&error), fault, "{error}");
            let inside = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            assert_eq!(TlsFault::of_handshake(&inside), fault, "{error}");
            let outside = io::Error::other(inside);
            assert_eq!(TlsFault::of(&outside), fault, "{error}");
        }
        let closed = io::Error::other(io::Error::new(io::ErrorKind::UnexpectedEof, HANDSHAKE_EOF));
        assert_eq!(TlsFault::of(&closed), Some(TlsFault::Closed));
        let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!((TlsFault::of(&closed), TlsFault::of_handshake(&closed)), (None, Some(TlsFault::Closed)));
    }
}
