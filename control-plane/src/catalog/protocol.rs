//! What is spoken on a port, as far as it is declared.

use super::Protocol;

/// Told by `appProtocol`, else by the port name up to its first `-` (`tcp-server-first` counts as one word), else not
/// declared. `None`: the `appProtocol` is unknown.
pub(super) fn of_port(app_protocol: Option<&str>, name: &str) -> Option<Protocol> {
    if let Some(declared) = app_protocol.filter(|declared| !declared.is_empty()) {
        return known(&declared.to_ascii_lowercase());
    }
    if name == "tcp-server-first" || name.starts_with("tcp-server-first-") {
        return Some(Protocol::TcpServerFirst);
    }
    let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
    Some(known(prefix).unwrap_or(Protocol::Undeclared))
}

fn known(protocol: &str) -> Option<Protocol> {
    Some(match protocol {
        "http" | "http1" | "http2" | "h2c" | "ws" | "kubernetes.io/h2c" | "kubernetes.io/ws" => {
            Protocol::Http
        }
        "grpc" => Protocol::Grpc,
        // Encrypted by the application, or a protocol whose client speaks first.
        "tcp" | "https" | "wss" | "kubernetes.io/wss" | "tls" | "amqp" | "cassandra" | "kafka" | "ldap"
        | "memcached" | "mongo" | "mongodb" | "postgres" | "postgresql" | "redis" | "zookeeper" => {
            Protocol::Tcp
        }
        "tcp-server-first" | "ftp" | "imap" | "mariadb" | "mysql" | "nats" | "pop3" | "smtp" | "ssh" => {
            Protocol::TcpServerFirst
        }
        _ => return None,
    })
}
