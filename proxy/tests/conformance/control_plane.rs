//! The Go program: built once, told what to do by lines of JSON, heard by lines of JSON.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command as Blocking, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::timeout,
};

/// Nothing takes longer, on a busy machine either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct ControlPlane {
    _program: Child,
    commands: ChildStdin,
    heard: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    done: usize,
    pub(crate) address: SocketAddr,
}

/// How the server behaves.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Serves a snapshot.
    Snapshot,
    /// Serves a snapshot, each type once everything of it was asked for.
    Ordered,
    /// Answers as it is told.
    Scripted,
}

impl ControlPlane {
    /// Starts the server; `None`: it cannot be built here.
    pub(crate) async fn start(manner: Manner) -> Option<Self> {
        let program = program()?;
        let mut command = Command::new(program);
        match manner {
            Manner::Snapshot => &mut command,
            Manner::Ordered => command.arg("-ads"),
            Manner::Scripted => command.arg("-scripted"),
        };
        let mut program = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = program.stdin.take().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let (heard, (told, count)) = (Arc::<Mutex<Vec<Value>>>::default(), watch::channel(0));
        let hearing = heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut heard = hearing.lock().unwrap();
                heard.push(serde_json::from_str(&line).unwrap());
                told.send_replace(heard.len());
            }
        });
        let mut server = Self {
            _program: program,
            commands,
            heard,
            count,
            done: 0,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        server.open().await;
        Some(server)
    }

    /// Listens, at the same address as before. What was known is lost.
    pub(crate) async fn open(&mut self) {
        self.tell(json!({ "do": "start" })).await;
        let listening = |event: &Value| {
            (event["event"] == "listening").then(|| event["address"].as_str().unwrap().parse().unwrap())
        };
        self.address = self.hear(listening).await;
    }

    /// Ends every stream and listens no more.
    pub(crate) async fn close(&mut self) {
        self.tell(json!({ "do": "stop" })).await;
    }

    /// Serves these resources, each in the form of [`crate::resources`], and nothing else.
    pub(crate) async fn set(&mut self, version: &str, resources: &[Value]) {
        let resources: Vec<_> = resources.iter().map(|body| json!({ "body": body })).collect();
        self.tell(json!({ "do": "set", "version": version, "resources": resources }))
            .await;
    }

    /// Tells the program something, and waits until it has done it.
    pub(crate) async fn tell(&mut self, command: Value) {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
        self.done += 1;
        let done = self.done;
        self.until(|events| {
            let all = events.iter().filter(|event| event["event"] == "done");
            (all.count() >= done).then_some(())
        })
        .await;
    }

    /// Waits for an event.
    pub(crate) async fn hear<T>(&self, mut is: impl FnMut(&Value) -> Option<T>) -> T {
        self.until(|events| events.iter().find_map(&mut is)).await
    }

    /// Waits for the first request of a type on a stream that is one.
    pub(crate) async fn request(&self, of: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        let of = crate::resources::url(of);
        self.hear(|event| {
            let request = &event["request"];
            (request["typeUrl"] == of.as_str() && is(request)).then(|| request.clone())
        })
        .await
    }

    /// The requests heard so far, of one type.
    pub(crate) fn requests(&self, of: &str) -> Vec<Value> {
        let of = crate::resources::url(of);
        let heard = self.heard.lock().unwrap();
        let requests = heard.iter().map(|event| &event["request"]);
        requests
            .filter(|request| request["typeUrl"] == of.as_str())
            .cloned()
            .collect()
    }

    /// Forgets all that was heard.
    pub(crate) fn forget(&mut self) {
        let mut heard = self.heard.lock().unwrap();
        heard.clear();
        self.done = 0;
    }

    async fn until<T>(&self, mut is: impl FnMut(&[Value]) -> Option<T>) -> T {
        let mut count = self.count.clone();
        let waiting = async {
            loop {
                count.mark_unchanged();
                if let Some(found) = is(&self.heard.lock().unwrap()) {
                    return found;
                }
                count.changed().await.expect("the server runs");
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!(
                "it was not heard in time; heard: {:#?}",
                self.heard.lock().unwrap()
            ),
        }
    }
}

/// The program, built by the first who asks.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(build) {
        Ok(program) => Some(program),
        Err(lacking) => {
            let skip = env::var_os("WEIR_NO_SKIP").is_none_or(|value| value.is_empty() || value == "0");
            assert!(skip, "{lacking}");
            eprintln!("skipped: {lacking}");
            None
        }
    }
}

fn build() -> Result<PathBuf, String> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-server");
    // Another test run may start the program meanwhile.
    let fresh = program.with_extension(std::process::id().to_string());
    let built = Blocking::new("go")
        .args(["build", "-o"])
        .arg(&fresh)
        .arg(".")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/server"))
        .output();
    match built {
        Ok(output) if output.status.success() => match std::fs::rename(&fresh, &program) {
            Ok(()) => Ok(program),
            Err(error) => Err(format!("{}: {error}", program.display())),
        },
        Ok(output) => Err(format!("go build: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("no go on PATH ({error}): install Go 1.24 or later")),
    }
}
