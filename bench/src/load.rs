//! The request of the HTTP/1.1 load, and when it is answered.

use anyhow::{Context as _, ensure};

use crate::answers::{BODY, end_of_head};

/// A GET of [`BODY`] bytes.
pub(crate) fn request(host: &str) -> Vec<u8> {
    format!("GET /anything HTTP/1.1\r\nhost: {host}\r\nuser-agent: weir-bench\r\naccept: */*\r\n\r\n")
        .into_bytes()
}

/// Whether a whole response is there.
///
/// # Errors
/// When it is not 200 or longer than it should be.
pub(crate) fn complete(bytes: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = end_of_head(bytes) else {
        return Ok(false);
    };
    good(bytes)?;
    if bytes.len() < end + BODY {
        return Ok(false);
    }
    ensure!(
        bytes.len() == end + BODY,
        "a response is longer than it should be"
    );
    Ok(true)
}

/// Whether a head says that all went well.
///
/// # Errors
/// When it does not.
pub(crate) fn good(head: &[u8]) -> anyhow::Result<()> {
    let status = status(head)?;
    ensure!(status == 200, "a request was answered {status}");
    Ok(())
}

fn status(bytes: &[u8]) -> anyhow::Result<u16> {
    let text = bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    text.and_then(|digits| digits.parse().ok())
        .context("not an HTTP/1.1 response")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_good_responses_count() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n";
        assert!(!complete(head.as_bytes()).unwrap());
        assert!(complete(head.replace("200", "503").as_bytes()).is_err());
        let whole = format!("{head}{}", "w".repeat(BODY));
        assert!(complete(whole.as_bytes()).unwrap());
        assert!(complete(whole.replace("200", "503").as_bytes()).is_err());
    }
}
