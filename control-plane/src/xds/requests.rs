//! The requests of a stream: gRPC's frames taken apart. Nothing is kept between two of them, so that a stream costs no
//! buffer as large as its largest request.

use std::marker::PhantomData;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::{Status, body::Body};

/// Compressed or not, and the length.
const PREFIX: usize = 5;
/// The largest request, in bytes.
const LARGEST: usize = 4 << 20;

/// Requests, as they come.
pub(super) struct Requests<M> {
    body: Body,
    unread: BytesMut,
    kind: PhantomData<fn() -> M>,
}

/// Why no further request can be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The stream or its connection failed.
    Gone(Status),
    /// What came is no request, or too large.
    Broken(Status),
}

impl<M: Message + Default> Requests<M> {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            unread: BytesMut::new(),
            kind: PhantomData,
        }
    }

    /// The next one; `None`: the client has no more. May be given up and called again.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Unread> {
        loop {
            if let Some(request) = self.take()? {
                return Ok(Some(request));
            }
            match self.body.frame().await {
                // Trailers say nothing in this direction.
                Some(Ok(frame)) => self
                    .unread
                    .extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(status)) => return Err(Unread::Gone(status)),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(broken("the stream ends in the middle of a request")),
            }
        }
    }

    fn take(&mut self) -> Result<Option<M>, Unread> {
        let Some((&[compressed, a, b, c, d], rest)) = self.unread.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(broken("a compressed request; send it as it is"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > LARGEST {
            let why = format!("a request of {length} bytes; the largest may have {LARGEST}");
            return Err(Unread::Broken(Status::out_of_range(why)));
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(message).map_err(|error| broken(&error.to_string()))?;
        self.unread.advance(PREFIX + length);
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        Ok(Some(message))
    }
}

fn broken(why: &str) -> Unread {
    Unread::Broken(Status::internal(format!("cannot read a request: {why}")))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tonic::Code;
    use weir_xds::envoy::service::discovery::v3::DeltaDiscoveryRequest as Request;

    use super::*;
    use crate::xds::service::frame;

    fn request(nonce: &str) -> Request {
        Request {
            response_nonce: nonce.to_owned(),
            ..Request::default()
        }
    }

    fn requests(bytes: &[u8], at_once: usize) -> Requests<Request> {
        let frames: Vec<_> = bytes
            .chunks(at_once)
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        Requests::new(Body::new(StreamBody::new(stream::iter(frames))))
    }

    #[tokio::test]
    async fn requests_are_read_however_they_are_cut() {
        let all = ["first", "", "third"].map(request);
        let bytes: Vec<u8> = all.iter().flat_map(|request| frame(request).unwrap()).collect();
        for at_once in [1, 2, 5, 7, 1000] {
            let mut requests = requests(&bytes, at_once);
            for expected in &all {
                assert_eq!(requests.next().await.unwrap().as_ref(), Some(expected));
            }
            assert_eq!(requests.unread.capacity(), 0);
            assert!(requests.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let whole = frame(&request("whole")).unwrap();
        let cases: [(&[u8], Code); 4] = [
            (&whole[..whole.len() - 1], Code::Internal),
            (&[1, 0, 0, 0, 0], Code::Internal),
            (&[0, 0, 0, 0, 2, 0xff, 0xff], Code::Internal),
            (&[0, 0, 0x40, 0, 1], Code::OutOfRange),
        ];
        for (bytes, code) in cases {
            match requests(bytes, 3).next().await {
                Err(Unread::Broken(status)) => assert_eq!(status.code(), code),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }
}
