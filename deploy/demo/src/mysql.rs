//! As much of the MySQL client/server protocol as a counter needs: protocol 10 handshake with
//! `mysql_native_password`, and text queries with at most one column and one row.
//!
//! Source: "MySQL Internals: Client/Server Protocol".

use aws_lc_rs::digest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// The largest packet that is read: statements and rows here are short.
const MAX_PACKET: usize = 64 * 1024;

const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
const CAPABILITIES: u32 =
    CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
const UTF8: u8 = 33;
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
const COM_PING: u8 = 14;
const PLUGIN: &[u8] = b"mysql_native_password";
/// A challenge that never contains NUL, as the protocol asks.
pub(crate) type Challenge = [u8; 20];

/// What can go wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("a packet of {0} bytes is more than this demo reads")]
    TooLarge(usize),
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("the server refused: {0}")]
    Refused(String),
}

/// Packets with their sequence numbers over a byte stream.
pub(crate) struct Packets<S> {
    stream: BufStream<S>,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Packets<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: BufStream::new(stream),
            sequence: 0,
        }
    }

    pub(crate) async fn read(&mut self) -> Result<Vec<u8>, Error> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await?;
        let length = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        if length > MAX_PACKET {
            return Err(Error::TooLarge(length));
        }
        self.sequence = header[3].wrapping_add(1);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(payload)
    }

    pub(crate) async fn write(&mut self, payload: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(payload.len()).map_err(|_| Error::TooLarge(payload.len()))?;
        let [a, b, c, over] = length.to_le_bytes();
        if over != 0 {
            return Err(Error::TooLarge(payload.len()));
        }
        self.stream.write_all(&[a, b, c, self.sequence]).await?;
        self.stream.write_all(payload).await?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        Ok(self.stream.flush().await?)
    }

    /// A client begins each command at sequence 0.
    fn restart(&mut self) {
        self.sequence = 0;
    }
}

/// `SHA1(password) XOR SHA1(challenge + SHA1(SHA1(password)))`.
pub(crate) fn scramble(password: &str, challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha1 = |parts: &[&[u8]]| {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        parts.iter().for_each(|part| context.update(part));
        context.finish()
    };
    let once = sha1(&[password.as_bytes()]);
    let twice = sha1(&[once.as_ref()]);
    let mask = sha1(&[challenge, twice.as_ref()]);
    once.as_ref()
        .iter()
        .zip(mask.as_ref())
        .map(|(a, b)| a ^ b)
        .collect()
}

/// The first packet of a server.
pub(crate) fn greeting(challenge: &Challenge) -> Vec<u8> {
    let [low_a, low_b, high_a, high_b] = CAPABILITIES.to_le_bytes();
    let mut packet = vec![10];
    packet.extend(b"5.6.0-weir-bookstore\0");
    packet.extend(1u32.to_le_bytes());
    packet.extend(&challenge[..8]);
    packet.extend([0, low_a, low_b, UTF8, 2, 0, high_a, high_b, 21]);
    packet.extend([0; 10]);
    packet.extend(&challenge[8..]);
    packet.push(0);
    packet.extend(PLUGIN);
    packet.push(0);
    packet
}

/// User and scrambled password of a client's first packet.
pub(crate) fn credentials(packet: &[u8]) -> Result<(String, Vec<u8>), Error> {
    let malformed = || Error::Malformed("handshake response");
    let rest = packet.get(32..).ok_or_else(malformed)?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
    let user = String::from_utf8_lossy(&rest[..end]).into_owned();
    let rest = &rest[end + 1..];
    let length = usize::from(*rest.first().ok_or_else(malformed)?);
    let scrambled = rest.get(1..1 + length).ok_or_else(malformed)?;
    Ok((user, scrambled.to_vec()))
}

/// What a client asks for.
pub(crate) enum Command {
    Quit,
    Ping,
    Query(String),
    Other,
}

pub(crate) fn command(packet: &[u8]) -> Result<Command, Error> {
    let (code, rest) = packet.split_first().ok_or(Error::Malformed("command"))?;
    Ok(match *code {
        COM_QUIT => Command::Quit,
        COM_PING => Command::Ping,
        COM_QUERY => Command::Query(String::from_utf8_lossy(rest).into_owned()),
        _ => Command::Other,
    })
}

/// A packet that says that all is well.
pub(crate) const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
/// A packet that ends a list.
pub(crate) const EOF: [u8; 5] = [0xfe, 0, 0, 2, 0];

/// A packet that says what is wrong.
pub(crate) fn error(code: u16, state: &[u8; 5], message: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend(code.to_le_bytes());
    packet.push(b'#');
    packet.extend(state);
    packet.extend(message.as_bytes());
    packet
}

/// A length-encoded string; ours are shorter than 251 bytes.
fn lenenc(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(250)];
    let mut bytes = vec![u8::try_from(text.len()).unwrap_or(0)];
    bytes.extend(text);
    bytes
}

/// The packets of a result with one column and one row.
pub(crate) fn single(column: &str, value: &str) -> [Vec<u8>; 5] {
    let mut definition = Vec::new();
    for text in ["def", "", "", "", column, column] {
        definition.extend(lenenc(text));
    }
    definition.extend([12, UTF8, 0, 250, 0, 0, 0, 253, 0, 0, 0, 0, 0]);
    [vec![1], definition, EOF.to_vec(), lenenc(value), EOF.to_vec()]
}

/// A connection to a server.
pub(crate) struct Client {
    packets: Packets<TcpStream>,
}

impl Client {
    /// Connects and logs in.
    pub(crate) async fn connect(address: &str, user: &str, password: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut packets = Packets::new(stream);
        let challenge = challenge(&packets.read().await?)?;
        packets
            .write(&login(user, &scramble(password, &challenge)))
            .await?;
        packets.flush().await?;
        let mut reply = packets.read().await?;
        if reply.first() == Some(&0xfe) {
            let challenge = switched(&reply)?;
            packets.write(&scramble(password, challenge)).await?;
            packets.flush().await?;
            reply = packets.read().await?;
        }
        expect_no_error(&reply)?;
        Ok(Self { packets })
    }

    /// Runs a statement; gives the first column of the first row, if there is one and it is not NULL.
    pub(crate) async fn query(&mut self, statement: &str) -> Result<Option<String>, Error> {
        let mut packet = vec![COM_QUERY];
        packet.extend(statement.as_bytes());
        self.packets.restart();
        self.packets.write(&packet).await?;
        self.packets.flush().await?;
        let reply = self.packets.read().await?;
        expect_no_error(&reply)?;
        let columns = match reply.first() {
            Some(0) | None => return Ok(None),
            Some(columns) => *columns,
        };
        for _ in 0..=columns {
            self.packets.read().await?;
        }
        let mut first = None;
        loop {
            let row = self.packets.read().await?;
            expect_no_error(&row)?;
            match row.first() {
                Some(0xfe) if row.len() < 9 => return Ok(first.flatten()),
                Some(&length) if first.is_none() => {
                    let value = row.get(1..1 + usize::from(length));
                    first = Some(value.map(|value| String::from_utf8_lossy(value).into_owned()));
                }
                _ => {}
            }
        }
    }
}

fn login(user: &str, scrambled: &[u8]) -> Vec<u8> {
    let mut packet = CAPABILITIES.to_le_bytes().to_vec();
    packet.extend((1u32 << 24).to_le_bytes());
    packet.push(UTF8);
    packet.extend([0; 23]);
    packet.extend(user.as_bytes());
    packet.push(0);
    packet.push(u8::try_from(scrambled.len()).unwrap_or(0));
    packet.extend(scrambled);
    packet.extend(PLUGIN);
    packet.push(0);
    packet
}

/// The 20 bytes of a server's challenge.
fn challenge(greeting: &[u8]) -> Result<Vec<u8>, Error> {
    expect_no_error(greeting)?;
    let malformed = || Error::Malformed("greeting");
    let version = greeting.get(1..).ok_or_else(malformed)?;
    let end = version.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
    let rest = &version[end + 1..];
    let mut bytes = rest.get(4..12).ok_or_else(malformed)?.to_vec();
    bytes.extend(rest.get(31..43).ok_or_else(malformed)?);
    Ok(bytes)
}

/// The new challenge of a request to change the way of logging in.
fn switched(packet: &[u8]) -> Result<&[u8], Error> {
    let malformed = || Error::Malformed("request to change the login method");
    let rest = packet.get(1..).ok_or_else(malformed)?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
    if &rest[..end] != PLUGIN {
        let plugin = String::from_utf8_lossy(&rest[..end]).into_owned();
        return Err(Error::Refused(format!(
            "it wants {plugin}, this demo only knows mysql_native_password"
        )));
    }
    rest.get(end + 1..end + 21).ok_or_else(malformed)
}

fn expect_no_error(packet: &[u8]) -> Result<(), Error> {
    match packet.first() {
        Some(0xff) => {
            let text = packet.get(3..).unwrap_or_default();
            Err(Error::Refused(String::from_utf8_lossy(text).into_owned()))
        }
        _ => Ok(()),
    }
}
