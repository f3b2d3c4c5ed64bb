//! Why a handshake failed: text for people, and one word for metrics.

use std::{io, time::Duration};

use rustls::{AlertDescription, CertificateError};

use super::PeerIdentityError;

/// The kind of a failure. Its name is the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// A certificate's validity has not begun or is over.
    Expired,
    /// A certificate does not lead to a trusted root.
    UnknownCa,
    /// A certificate does not carry the name expected, or not a name that can be relied on.
    WrongIdentity,
    /// The peer showed no certificate, or ours or the roots are not there yet.
    NoCertificate,
    /// No application protocol in common.
    Alpn,
    /// The peer does not speak TLS, or no version or suite of it that is allowed here.
    Protocol,
    /// The handshake took too long.
    Timeout,
    /// The connection broke.
    Io,
}

impl Failure {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::UnknownCa => "unknown_ca",
            Self::WrongIdentity => "wrong_identity",
            Self::NoCertificate => "no_certificate",
            Self::Alpn => "alpn",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Io => "io",
        }
    }

    /// The failure behind an I/O error of a TLS stream, if it is one of TLS. In TLS 1.3 a client learns only from
    /// its first read that the server refused its certificate.
    pub fn of(error: &io::Error) -> Option<Self> {
        tls_error(error).map(classify)
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A secret is not there.
    #[error(
        "the secret {name:?} has not arrived; is the control plane reachable, and does it serve (or, for the \
         proxy's own certificate, sign) it?"
    )]
    Missing {
        /// The secret's name.
        name: String,
    },
    /// A secret, or the configuration that names it, is of no use.
    #[error("TLS cannot be set up: {0}")]
    Unusable(String),
    /// It took too long.
    #[error("the TLS handshake was not done after {0:?}; is the peer a TLS endpoint, and is it overloaded?")]
    Timeout(Duration),
    /// The two sides could not agree, or one refused the other.
    #[error("the TLS handshake failed: {0}{hint}", hint = hint(.0))]
    Refused(rustls::Error),
    /// The connection broke.
    #[error(
        "the connection broke during the TLS handshake: {0}; the peer may have closed it after refusing ours"
    )]
    Io(io::Error),
}

impl HandshakeError {
    /// The kind.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Missing { .. } => Failure::NoCertificate,
            Self::Unusable(_) => Failure::Protocol,
            Self::Timeout(_) => Failure::Timeout,
            Self::Refused(error) => classify(error),
            Self::Io(_) => Failure::Io,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(tls) => Self::Refused(tls.clone()),
            None => Self::Io(error),
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn classify(error: &rustls::Error) -> Failure {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(error) => classify_certificate(error),
        E::NoCertificatesPresented => Failure::NoCertificate,
        E::NoApplicationProtocol => Failure::Alpn,
        E::AlertReceived(alert) => classify_alert(*alert),
        _ => Failure::Protocol,
    }
}

fn classify_certificate(error: &CertificateError) -> Failure {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Failure::Expired
        }
        E::UnknownIssuer | E::BadSignature => Failure::UnknownCa,
        E::Other(other) if other.0.downcast_ref::<PeerIdentityError>().is_some() => Failure::WrongIdentity,
        E::NotValidForName | E::NotValidForNameContext { .. } => Failure::WrongIdentity,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => Failure::WrongIdentity,
        _ => Failure::Protocol,
    }
}

fn classify_alert(alert: AlertDescription) -> Failure {
    use AlertDescription as A;
    match alert {
        A::CertificateExpired => Failure::Expired,
        A::UnknownCA | A::DecryptError => Failure::UnknownCa,
        A::CertificateUnknown | A::AccessDenied | A::BadCertificate | A::UnsupportedCertificate => {
            Failure::WrongIdentity
        }
        A::CertificateRequired | A::NoCertificate => Failure::NoCertificate,
        A::NoApplicationProtocol => Failure::Alpn,
        _ => Failure::Protocol,
    }
}

fn hint(error: &rustls::Error) -> &'static str {
    let by_peer = matches!(error, rustls::Error::AlertReceived(_));
    match (classify(error), by_peer) {
        (Failure::Expired, false) => {
            "; check both clocks, and that the peer renews its certificate (its /certs)"
        }
        (Failure::Expired, true) => {
            "; the peer finds our certificate expired: check both clocks and /certs here"
        }
        (Failure::UnknownCa, false) => "; the peer's certificate is not of a root in our trust bundle",
        (Failure::UnknownCa, true) => "; our certificate is not of a root in the peer's trust bundle",
        (Failure::WrongIdentity, _) => "; the endpoint is not (or no longer) who the configuration expects",
        (Failure::NoCertificate, _) => "; a client without a sidecar cannot connect here",
        (Failure::Alpn, _) => "; the other side expects another protocol on this port",
        _ => "",
    }
}
