//! What a failed request means to the person at the terminal.

use anyhow::anyhow;
use kube::Error;

/// What went wrong with a request, and what to do about it.
#[must_use]
pub fn explain(error: Error) -> anyhow::Error {
    match &error {
        Error::Api(status) => match status.code {
            401 => anyhow!(
                "the API server does not accept who you are; log in to the cluster again, or name another kubeconfig with --kubeconfig"
            ),
            403 => anyhow!(
                "the API server forbids it: {}; use an account that may, such as a cluster admin's",
                status.message
            ),
            429 => anyhow!("the API server is too busy: {}; try again later", status.message),
            _ => anyhow!("{}", status.message),
        },
        Error::HyperError(_) | Error::Service(_) => anyhow!(
            "cannot reach the API server: {}; is the cluster up, and is it the one that the kubeconfig means?",
            causes(&error)
        ),
        _ => error.into(),
    }
}

/// Whether the object, or its whole kind, is not there.
#[must_use]
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// Whether the object has changed, or has come to be, since it was looked at.
#[must_use]
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409)
}

/// The innermost causes, which say more than the layers around them.
fn causes(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> Error {
        let status = Status {
            code,
            message: "no".to_owned(),
            ..Status::default()
        };
        Error::Api(Box::new(status))
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        assert!(explain(refused(401)).to_string().contains("log in"));
        assert!(
            explain(refused(403))
                .to_string()
                .contains("use an account that may")
        );
        assert!(explain(refused(429)).to_string().contains("try again"));
        assert_eq!(explain(refused(422)).to_string(), "no");
        assert!(is_missing(&refused(404)) && is_conflict(&refused(409)));
    }

    #[test]
    fn an_absent_server_is_said_to_be_absent() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let text = explain(Error::Service(Box::new(io))).to_string();
        assert!(
            text.contains("cannot reach the API server: connection refused"),
            "{text}"
        );
    }
}
