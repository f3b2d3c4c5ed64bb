//! A body in chunks (RFC 9112 §7.1), read.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{Error, head};

/// Longest line with a chunk's size, extensions included.
const LINE: usize = 4 * 1024;

/// Takes chunks apart.
#[derive(Debug, Default)]
pub(super) struct Decoder(State);

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So many bytes of the chunk are still to come.
    Data(u64),
    /// The line end after a chunk.
    DataEnd,
    Trailers,
    Done,
}

/// What comes next of the body.
#[derive(Debug)]
pub(super) enum Part {
    Data(Bytes),
    /// The last, with the trailers if there are any.
    End(Option<HeaderMap>),
}

impl Decoder {
    /// Takes the next part off the bytes read; `None`: more must be read first, or the end was given.
    ///
    /// # Errors
    /// When they are no chunks.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Option<Part>, Error> {
        loop {
            match self.0 {
                State::Size => {
                    let Some((size, line)) = size(read)? else {
                        return Ok(None);
                    };
                    read.advance(line);
                    self.0 = match size {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    let at_hand = usize::try_from(left).map_or(read.len(), |left| left.min(read.len()));
                    if at_hand == 0 {
                        return Ok(None);
                    }
                    self.0 = match left - at_hand as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(Some(Part::Data(read.split_to(at_hand).freeze())));
                }
                State::DataEnd => {
                    if !b"\r\n".starts_with(&read[..read.len().min(2)]) {
                        return Err(Error::Malformed("a chunk is longer than its size"));
                    }
                    if read.len() < 2 {
                        return Ok(None);
                    }
                    read.advance(2);
                    self.0 = State::Size;
                }
                State::Trailers => {
                    let Some(trailers) = head::parse_trailers(read)? else {
                        return Ok(None);
                    };
                    self.0 = State::Done;
                    return Ok(Some(Part::End(
                        Some(trailers).filter(|fields| !fields.is_empty()),
                    )));
                }
                State::Done => return Ok(None),
            }
        }
    }
}

/// The size of a chunk and the length of its line; `None`: the line is not complete.
fn size(read: &[u8]) -> Result<Option<(u64, usize)>, Error> {
    let Some(end) = read.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return match read.len() < LINE {
            true => Ok(None),
            false => Err(Error::Malformed("a chunk's size line is too long")),
        };
    };
    let line = read[..end].strip_suffix(b"\r");
    let line = line.ok_or(Error::Malformed("a chunk's size line ends without CR"))?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let blank = rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let rest = &rest[blank..];
    // Between the size and an extension whitespace is tolerated, and in an extension no bare CR.
    if !(rest.is_empty() || rest.starts_with(b";")) || rest.contains(&b'\r') {
        return Err(INVALID);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| INVALID)?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| INVALID)?;
    Ok(Some((size, end + 1)))
}

const INVALID: Error = Error::Malformed("invalid chunk size");

#[cfg(test)]
mod tests {
    use super::*;

    /// The body and its trailers, with the bytes arriving `at_once`, and what is left of them.
    fn decoded(bytes: &[u8], at_once: usize) -> Result<(Vec<u8>, Option<HeaderMap>, BytesMut), Error> {
        let (mut decoder, mut read, mut body) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(at_once);
        loop {
            match decoder.decode(&mut read)? {
                Some(Part::Data(data)) => body.extend_from_slice(&data),
                Some(Part::End(trailers)) => {
                    pieces.for_each(|piece| read.extend_from_slice(piece));
                    return Ok((body, trailers, read));
                }
                None => read.extend_from_slice(pieces.next().ok_or(Error::Closed)?),
            }
        }
    }

    #[test]
    fn chunks_come_out_whole_however_they_arrive() {
        let bytes = b"5\r\nhello\r\n00a ; name=\"v\"\r\n0123456789\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\nnext";
        for at_once in 1..bytes.len() {
            let (body, trailers, left) = decoded(bytes, at_once).unwrap();
            assert_eq!(body, b"hello0123456789");
            assert_eq!(trailers.unwrap().get_all("x-sum").iter().count(), 2);
            assert_eq!(&left[..], b"next");
        }
        let (body, trailers, _) = decoded(b"0\r\n\r\n", 1).unwrap();
        assert!(body.is_empty() && trailers.is_none());
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"5\r;\r\nhello\r\n",
            b"5\r\r\nhello\r\n",
            b"5;\r;\r\nhello\r\n",
            b"5\r\nhellooo\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"10000000000000000\r\n",
            b"0\r\nno trailer\r\n\r\n",
        ] {
            for at_once in [1, bytes.len()] {
                let found = decoded(bytes, at_once);
                assert!(matches!(found, Err(Error::Malformed(_))), "{bytes:?}: {found:?}");
            }
        }
        let endless = [b"5;".as_slice(), &[b'x'; LINE]].concat();
        assert!(matches!(decoded(&endless, 100), Err(Error::Malformed(_))));
    }
}
