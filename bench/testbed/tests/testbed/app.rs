//! The program the tests run in containers: the test binary itself, started with `app`.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

/// Runs what the arguments ask for, if they are an app's; the exit code.
pub(crate) fn run(args: &[String]) -> Option<i32> {
    let [_, app, verb, rest @ ..] = args else {
        return None;
    };
    if app != "app" {
        return None;
    }
    Some(match (verb.as_str(), rest) {
        ("serve", [port]) => serve(port.parse().expect("a port")),
        ("get", [target]) => get(target),
        ("exit", [code]) => code.parse().expect("a code"),
        _ => 64,
    })
}

/// HTTP server: `/ready` answers 200 once /tmp/ready exists or READY is set, `/file/…` serves files, else the host name.
fn serve(port: u16) -> i32 {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    println!("serving {port}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
    1
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or("/");
    let name = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let ready = std::env::var_os("READY").is_some() || std::path::Path::new("/tmp/ready").exists();
    let (status, body) = match path.strip_prefix("/file") {
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => ("200 OK", text),
            Err(error) => ("404 Not Found", error.to_string()),
        },
        None if path == "/ready" && !ready => ("503 Service Unavailable", "not yet".into()),
        None => ("200 OK", name),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Fetches `host:port/path` (or `[ip]:port/path`) and prints the body.
fn get(target: &str) -> i32 {
    match fetch(target) {
        Ok(body) => {
            print!("{body}");
            0
        }
        Err(error) => {
            eprintln!("{target}: {error}");
            1
        }
    }
}

pub(crate) fn fetch(target: &str) -> std::io::Result<String> {
    let (authority, path) = target.split_once('/').unwrap_or((target, ""));
    let mut stream = TcpStream::connect(authority)?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("no HTTP answer"))?;
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(std::io::Error::other(head.to_owned()))
    }
}
