//! What is shown of the proxy's certificate.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::IssueError;
use crate::{model::Certificate, tls::PeerIdentity};

/// A certificate in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The names that it carries.
    pub identity: PeerIdentity,
    /// Serial number, hexadecimal with colons.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// How the proxy's own certificate fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The certificate in use; `None` before the first.
    pub current: Option<Details>,
    /// Certificates obtained since the start, the first not counted.
    pub rotations: u64,
    /// Failed attempts since the start.
    pub failures: u64,
    /// Why the last attempt failed; `None` when it did not.
    pub last_error: Option<String>,
}

impl Details {
    /// Reads the leaf of a chain.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn read(certificate: &Certificate) -> Result<Self, IssueError> {
        let malformed = |error: String| IssueError::Malformed(error);
        let leaf = certificate
            .chain
            .first()
            .ok_or_else(|| malformed("the chain is empty".to_owned()))?;
        let identity = PeerIdentity::parse(leaf).map_err(|error| malformed(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| malformed(error.to_string()))?;
        let time = |seconds: i64| match u64::try_from(seconds) {
            Ok(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            Err(_) => Some(SystemTime::UNIX_EPOCH),
        };
        let bad_time = || malformed("its validity is out of range".to_owned());
        Ok(Self {
            identity,
            serial: parsed.raw_serial_as_string(),
            not_before: time(parsed.validity().not_before.timestamp()).ok_or_else(bad_time)?,
            not_after: time(parsed.validity().not_after.timestamp()).ok_or_else(bad_time)?,
        })
    }

    /// How long it is still valid; zero when it is not any more.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}
