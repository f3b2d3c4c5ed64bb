//! Frames (RFC 9113 §4 and §6): their heads, and those of them that are as short as their heads.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::Reason;

use super::Error;

/// Octets of a frame's head.
pub(super) const HEAD: usize = 9;
/// Octets of a frame's payload, at most: what a peer may send that was not told otherwise.
pub(super) const LARGEST: usize = 16 * 1024;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Bytes,
}

/// What the peer says of itself (RFC 9113 §6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    HeaderTableSize(u32),
    EnablePush(bool),
    MaxConcurrentStreams(u32),
    InitialWindowSize(u32),
    MaxFrameSize(u32),
    MaxHeaderListSize(u32),
}

impl Frame {
    /// Takes the next frame off the bytes read; `None`: it is not complete.
    ///
    /// # Errors
    /// When it is longer than it may be.
    pub(super) fn take(read: &mut BytesMut) -> Result<Option<Self>, Error> {
        let Some((head, _)) = read.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > LARGEST {
            return Err(Error::Protocol(Reason::FRAME_SIZE_ERROR, "a frame is too long"));
        }
        if read.len() < HEAD + length {
            return Ok(None);
        }
        read.advance(HEAD);
        Ok(Some(Self {
            kind,
            flags,
            stream: u31([s0, s1, s2, s3]),
            payload: read.split_to(length).freeze(),
        }))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Takes away what only fills a DATA or HEADERS frame up, and the priority, which is no one's any more.
    ///
    /// # Errors
    /// When that is longer than the frame.
    pub(super) fn strip(&mut self) -> Result<(), Error> {
        let too_short = Error::Protocol(
            Reason::PROTOCOL_ERROR,
            "a frame's padding is longer than the frame",
        );
        let padding = match self.has(PADDED) {
            false => 0,
            true => usize::from(self.payload.try_get_u8().map_err(|_| too_short.clone())?),
        };
        let priority = match self.kind == HEADERS && self.has(WITH_PRIORITY) {
            false => 0,
            true => 5,
        };
        let rest = self
            .payload
            .len()
            .checked_sub(padding + priority)
            .ok_or(too_short)?;
        self.payload.advance(priority);
        self.payload.truncate(rest);
        Ok(())
    }

    /// The number that is all there is in it.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn number(&self) -> Result<u32, Error> {
        let octets = self.payload.as_ref().try_into().map_err(|_| wrong_size())?;
        Ok(u32::from_be_bytes(octets))
    }

    /// The settings in it. Those that no one knows are passed over.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub(super) fn settings(&self) -> Result<impl Iterator<Item = Setting>, Error> {
        let settings = self.payload.chunks_exact(6);
        if !settings.remainder().is_empty() {
            return Err(wrong_size());
        }
        let settings = settings.map(|setting| match *setting {
            [i0, i1, v0, v1, v2, v3] => {
                Setting::of(u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3]))
            }
            _ => Ok(None),
        });
        let settings: Vec<_> = settings.collect::<Result<_, _>>()?;
        Ok(settings.into_iter().flatten())
    }
}

impl Setting {
    fn of(identifier: u16, value: u32) -> Result<Option<Self>, Error> {
        let wrong = |reason| Err(Error::Protocol(reason, "a setting is out of its range"));
        Ok(Some(match identifier {
            1 => Self::HeaderTableSize(value),
            2 if value > 1 => return wrong(Reason::PROTOCOL_ERROR),
            2 => Self::EnablePush(value == 1),
            3 => Self::MaxConcurrentStreams(value),
            4 if value > i32::MAX.unsigned_abs() => return wrong(Reason::FLOW_CONTROL_ERROR),
            4 => Self::InitialWindowSize(value),
            5 if !(0x4000..=0xff_ffff).contains(&value) => return wrong(Reason::PROTOCOL_ERROR),
            5 => Self::MaxFrameSize(value),
            6 => Self::MaxHeaderListSize(value),
            _ => return Ok(None),
        }))
    }

    fn parts(self) -> (u16, u32) {
        match self {
            Self::HeaderTableSize(value) => (1, value),
            Self::EnablePush(value) => (2, value.into()),
            Self::MaxConcurrentStreams(value) => (3, value),
            Self::InitialWindowSize(value) => (4, value),
            Self::MaxFrameSize(value) => (5, value),
            Self::MaxHeaderListSize(value) => (6, value),
        }
    }
}

/// Numbers of streams, and window increments, have 31 bits.
fn u31(octets: [u8; 4]) -> u32 {
    u32::from_be_bytes(octets) & 0x7fff_ffff
}

/// The last stream that a GOAWAY says was taken, and why.
///
/// # Errors
/// When it says no such thing.
pub(super) fn goaway(payload: &[u8]) -> Result<(u32, Reason), Error> {
    match payload {
        [a, b, c, d, e, f, g, h, ..] => {
            Ok((u31([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h]).into()))
        }
        _ => Err(wrong_size()),
    }
}

pub(super) fn wrong_size() -> Error {
    Error::Protocol(Reason::FRAME_SIZE_ERROR, "a frame has not the size of its kind")
}

/// Writes a frame's head. A payload is never longer than [`LARGEST`].
pub(super) fn put_head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = u32::try_from(length).unwrap_or_default().to_be_bytes();
    let stream = stream.to_be_bytes();
    let head = [
        length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2], stream[3],
    ];
    out.put_slice(&head);
}

pub(super) fn put_data(out: &mut BytesMut, stream: u32, data: &[u8], last: bool) {
    let flags = if last { END_STREAM } else { 0 };
    put_head(out, data.len(), DATA, flags, stream);
    out.put_slice(data);
}

/// Has what `encode` writes be the header block of a message, in as many frames as it takes.
pub(super) fn put_headers(out: &mut BytesMut, stream: u32, last: bool, encode: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    let flags = if last { END_STREAM } else { 0 };
    put_head(out, 0, HEADERS, flags | END_HEADERS, stream);
    encode(out);
    let length = out.len() - start - HEAD;
    if length <= LARGEST {
        let head = u32::try_from(length).unwrap_or_default().to_be_bytes();
        if let Some(place) = out.get_mut(start..start + 3) {
            place.copy_from_slice(&head[1..]);
        }
        return;
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let mut pieces = block.chunks(LARGEST).peekable();
    let mut kind = HEADERS;
    let mut flags = flags;
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        put_head(out, piece.len(), kind, flags, stream);
        out.put_slice(piece);
        (kind, flags) = (CONTINUATION, 0);
    }
}

pub(super) fn put_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    put_head(out, 4, RST_STREAM, 0, stream);
    out.put_u32(reason.into());
}

pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, increment: u32) {
    put_head(out, 4, WINDOW_UPDATE, 0, stream);
    out.put_u32(increment);
}

pub(super) fn put_ping(out: &mut BytesMut, flags: u8, payload: [u8; 8]) {
    put_head(out, payload.len(), PING, flags, 0);
    out.put_slice(&payload);
}

pub(super) fn put_goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    put_head(out, 8, GOAWAY, 0, 0);
    out.put_u32(last);
    out.put_u32(reason.into());
}

pub(super) fn put_settings(out: &mut BytesMut, settings: &[Setting]) {
    put_head(out, settings.len() * 6, SETTINGS, 0, 0);
    for setting in settings {
        let (identifier, value) = setting.parts();
        out.put_u16(identifier);
        out.put_u32(value);
    }
}

pub(super) fn put_settings_ack(out: &mut BytesMut) {
    put_head(out, 0, SETTINGS, ACK, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8]) -> Result<Option<Frame>, Error> {
        Frame::take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_frame_is_taken_once_it_is_complete() {
        let mut out = BytesMut::new();
        put_data(&mut out, 5, b"data", true);
        for end in 0..out.len() {
            assert!(taken(&out[..end]).unwrap().is_none(), "{end}");
        }
        let frame = taken(&out).unwrap().unwrap();
        assert_eq!((frame.kind, frame.stream), (DATA, 5));
        assert!(frame.has(END_STREAM));
        assert_eq!(frame.payload, "data");
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_head() {
        assert!(taken(&[0, 0x40, 1, DATA, 0, 0, 0, 0, 1]).is_err());
        assert!(taken(&[0, 0x40, 0, DATA, 0, 0, 0, 0, 1]).unwrap().is_none());
    }

    #[test]
    fn padding_and_priority_are_taken_away() {
        let strip = |kind, flags, payload: &'static [u8]| {
            let payload = Bytes::from_static(payload);
            let mut frame = Frame {
                kind,
                flags,
                stream: 1,
                payload,
            };
            frame.strip().map(|()| frame.payload)
        };
        assert_eq!(strip(DATA, PADDED, &[2, b'a', 0, 0]).unwrap(), "a");
        assert_eq!(strip(DATA, PADDED, &[0]).unwrap(), "");
        assert!(strip(DATA, PADDED, &[1]).is_err());
        assert!(strip(DATA, PADDED, &[]).is_err());
        let both = PADDED | WITH_PRIORITY;
        assert_eq!(strip(HEADERS, both, &[1, 0, 0, 0, 0, 9, b'a', 0]).unwrap(), "a");
        assert!(strip(HEADERS, WITH_PRIORITY, &[0, 0, 0, 0]).is_err());
        assert_eq!(strip(DATA, WITH_PRIORITY, b"abc").unwrap(), "abc");
    }

    #[test]
    fn settings_come_as_they_were_sent() {
        let sent = [
            Setting::HeaderTableSize(1),
            Setting::EnablePush(false),
            Setting::MaxConcurrentStreams(100),
            Setting::InitialWindowSize(7),
            Setting::MaxFrameSize(0x4000),
            Setting::MaxHeaderListSize(9),
        ];
        let mut out = BytesMut::new();
        put_settings(&mut out, &sent);
        let frame = taken(&out).unwrap().unwrap();
        assert!(frame.settings().unwrap().eq(sent));
        for wrong in [
            Setting::InitialWindowSize(1 << 31),
            Setting::MaxFrameSize(0x3fff),
            Setting::MaxFrameSize(0x100_0000),
        ] {
            let mut out = BytesMut::new();
            put_settings(&mut out, &[wrong]);
            assert!(taken(&out).unwrap().unwrap().settings().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_long_header_block_goes_in_several_frames() {
        let block: Vec<u8> = (0..251).cycle().take(2 * LARGEST + 5).collect();
        let mut out = BytesMut::from(&b"before"[..]);
        put_headers(&mut out, 3, true, |out| out.put_slice(&block));
        let mut read = out.split_off(6);
        assert_eq!(out, "before");
        let mut kinds = Vec::new();
        let mut joined = Vec::new();
        while let Some(frame) = Frame::take(&mut read).unwrap() {
            kinds.push((frame.kind, frame.flags));
            joined.extend_from_slice(&frame.payload);
        }
        let expected = [
            (HEADERS, END_STREAM),
            (CONTINUATION, 0),
            (CONTINUATION, END_HEADERS),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(joined, block);
    }
}
