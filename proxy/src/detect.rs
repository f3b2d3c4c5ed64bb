//! What a connection's first bytes are. Pure: bytes in, verdict out; no input makes it panic or loop.

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Too few bytes to tell.
    NeedMore,
    /// A TLS ClientHello.
    Tls(Hello),
    /// An HTTP/1 request.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// None of these.
    Opaque,
}

/// What a ClientHello offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name, lower-case; empty: none.
    pub sni: String,
    /// ALPN protocols, preferred first.
    pub alpn: Vec<String>,
}

/// What an HTTP/2 client begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A method and a target longer than this before the version are not taken for HTTP. It is beyond what the HTTP
/// server accepts as the whole header.
const LONGEST_REQUEST_LINE: usize = 64 * 1024;
const LONGEST_METHOD: usize = 32;
/// TLS allows more, but no client sends a longer hello.
const LONGEST_HELLO: usize = 64 * 1024;

/// Tells what `bytes`, the first of a connection, are.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes.first() {
        None => Detected::NeedMore,
        Some(0x16) => tls(bytes),
        Some(_) => http(bytes),
    }
}

/// HTTP/1 is a token, a space, a target, and ` HTTP/1.` before the end of the line.
fn http(bytes: &[u8]) -> Detected {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        // `PRI` alone could still become a method of HTTP/1, but no one registers one.
        return if common == PREFACE.len() {
            Detected::Http2
        } else {
            Detected::NeedMore
        };
    }
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Detected::Opaque;
    }
    match bytes.get(method) {
        None => return Detected::NeedMore,
        Some(b' ') => {}
        Some(_) => return Detected::Opaque,
    }
    let rest = &bytes[method + 1..];
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.unwrap_or(rest.len())];
    // Looked at before its end too: the verdict must not depend on how the bytes arrive.
    if line.len() >= LONGEST_REQUEST_LINE || line.iter().any(|byte| *byte < b' ' && *byte != b'\r') {
        return Detected::Opaque;
    }
    if end.is_none() {
        return Detected::NeedMore;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    if line.len() > version.len() && version.starts_with(b"HTTP/1.") {
        Detected::Http1
    } else {
        Detected::Opaque
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Why a hello cannot be read (yet).
enum Short {
    More,
    Malformed,
}

/// RFC 8446 §4.1.2 in the records of §5.1. What starts like TLS but is not a ClientHello is opaque.
fn tls(bytes: &[u8]) -> Detected {
    match handshake(bytes).and_then(|message| hello(&message)) {
        Ok(hello) => Detected::Tls(hello),
        Err(Short::More) => Detected::NeedMore,
        Err(Short::Malformed) => Detected::Opaque,
    }
}

/// The body of the first handshake message, put together from as many records as it takes.
fn handshake(mut bytes: &[u8]) -> Result<Vec<u8>, Short> {
    let mut message = Vec::new();
    loop {
        if let Some(&kind) = message.first()
            && kind != 1
        {
            return Err(Short::Malformed);
        }
        if message.len() >= 4 {
            let length =
                usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
            if length > LONGEST_HELLO {
                return Err(Short::Malformed);
            }
            if message.len() >= 4 + length {
                message.truncate(4 + length);
                message.drain(..4);
                return Ok(message);
            }
        }
        let mut header = Reader(bytes);
        if header.byte().map_err(|_| Short::More)? != 0x16 {
            return Err(Short::Malformed);
        }
        if header.byte().map_err(|_| Short::More)? != 3 {
            return Err(Short::Malformed);
        }
        header.byte().map_err(|_| Short::More)?;
        let length = header.short().map_err(|_| Short::More)?;
        if length == 0 || length > (1 << 14) {
            return Err(Short::Malformed);
        }
        let available = header.0.len().min(length);
        message.extend_from_slice(&header.0[..available]);
        bytes = &header.0[available..];
    }
}

fn hello(message: &[u8]) -> Result<Hello, Short> {
    let mut reader = Reader(message);
    let mut hello = Hello::default();
    reader.take(2 + 32)?;
    let session = usize::from(reader.byte()?);
    reader.take(session)?;
    let ciphers = reader.short()?;
    reader.take(ciphers)?;
    let compressions = usize::from(reader.byte()?);
    reader.take(compressions)?;
    if reader.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Reader(reader.vector()?);
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let mut body = Reader(extensions.vector()?);
        match kind {
            0 => hello.sni = server_name(&mut body)?,
            16 => hello.alpn = protocols(&mut body)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 §3: the first host name.
fn server_name(body: &mut Reader<'_>) -> Result<String, Short> {
    let mut names = Reader(body.vector()?);
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.vector()?;
        if kind == 0 {
            return match std::str::from_utf8(name) {
                Ok(name) => Ok(name.to_ascii_lowercase()),
                Err(_) => Err(Short::Malformed),
            };
        }
    }
    Ok(String::new())
}

/// RFC 7301 §3.1. Names that are not UTF-8 (GREASE) are left out.
fn protocols(body: &mut Reader<'_>) -> Result<Vec<String>, Short> {
    let mut names = Reader(body.vector()?);
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let length = usize::from(names.byte()?);
        if let Ok(name) = std::str::from_utf8(names.take(length)?) {
            protocols.push(name.to_owned());
        }
    }
    Ok(protocols)
}

/// Bytes still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Short::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Short> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<usize, Short> {
        let bytes = self.take(2)?;
        Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }

    fn vector(&mut self) -> Result<&'a [u8], Short> {
        let length = self.short()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests;
