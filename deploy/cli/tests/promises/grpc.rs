//! gRPC between a client and a server that are not ours: Python's grpcio.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::ensure;

use crate::{
    Outcome, Tests,
    manifest::{pod, routes, service, target},
    scene::Scene,
    world::{World, find_program},
};

/// Names a Python that has grpcio.
const PYTHON: &str = "WEIR_TEST_PYTHON";
/// Prints a Python's own path and everything that it needs to run.
const WHERE: &str = "import grpc, sys, os
print(os.path.realpath(sys.executable) if sys.prefix == sys.base_prefix else sys.executable)
print(sys.prefix)
print(sys.base_prefix)";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add_if(
        "grpc::calls_streams_and_trailers_of_grpcio_pass_and_a_denied_call_is_permission_denied",
        Python::find(),
        calls,
    );
}

/// A Python with grpcio.
struct Python {
    program: String,
    directories: Vec<PathBuf>,
}

impl Python {
    fn find() -> Result<Self, String> {
        let program = env::var_os(PYTHON)
            .map(PathBuf::from)
            .or_else(|| find_program("python3"));
        let remedy =
            format!("set {PYTHON} to a Python that has grpcio (python3 -m venv, pip install grpcio)");
        let program = program.ok_or_else(|| format!("there is no python3; {remedy}"))?;
        let output = Command::new(&program).args(["-c", WHERE]).output();
        let output = output.map_err(|error| format!("{}: {error}; {remedy}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        let Some(own) = lines.next().filter(|_| output.status.success()) else {
            return Err(format!("{} has no grpcio; {remedy}", program.display()));
        };
        // What a container sees of the host anyway need not be mounted.
        let seen = |directory: &&str| !Path::new(directory).starts_with("/usr");
        let mut directories: Vec<PathBuf> = lines.filter(seen).map(PathBuf::from).collect();
        directories.dedup();
        Ok(Self {
            program: own.to_owned(),
            directories,
        })
    }

    /// A pod's container and volumes as YAML flow values; the container runs a script of ours.
    fn pod(&self, name: &str, command: &str) -> String {
        let mut mounts = vec!["{name: scripts, mountPath: /scripts}".to_owned()];
        let mut volumes = vec!["{name: scripts, configMap: {name: scripts}}".to_owned()];
        for (number, directory) in self.directories.iter().enumerate() {
            let directory = directory.display();
            mounts.push(format!(
                "{{name: python-{number}, mountPath: '{directory}', readOnly: true}}"
            ));
            volumes.push(format!(
                "{{name: python-{number}, hostPath: {{path: '{directory}'}}}}"
            ));
        }
        let container = format!(
            "{{name: app, image: none, command: [{command}], volumeMounts: [{}]}}",
            mounts.join(", ")
        );
        pod(name, name, "", &container, &format!("[{}]", volumes.join(", ")))
    }
}

fn scripts() -> String {
    let mut map = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: scripts, namespace: $NS}
data:
"
    .to_owned();
    for (name, text) in [
        ("server.py", include_str!("grpc_server.py")),
        ("client.py", include_str!("grpc_client.py")),
    ] {
        map.push_str(&format!("  {name}: |\n"));
        for line in text.lines() {
            map.push_str(&format!("    {line}\n"));
        }
    }
    map
}

async fn calls(world: Arc<World>, python: Python) -> Outcome {
    let matches = "{name: calls, pathRegex: '/weir[.]test[.]Peer/(Echo|Fail|Count|Chat)', methods: [POST]}, \
                   {name: forbidden, pathRegex: '/weir[.]test[.]Peer/Forbidden', methods: [POST]}";
    let serve = format!("'{}', /scripts/server.py, '50051'", python.program);
    let parts = [
        scripts(),
        python.pod("server", &serve),
        python.pod("client", "sleep, infinity"),
        service("server", "{name: grpc-peer, port: 50051}"),
        routes("peer", matches),
        target("server", &["client"], "HTTPRouteGroup", "peer", "calls"),
        target("server", &["server"], "HTTPRouteGroup", "peer", "forbidden"),
    ];
    let scene = Scene::open(world, "grpc", &parts).await?;
    let program = python.program.as_str();
    let call = |method: &'static str| {
        let scene = &scene;
        async move {
            let argv = [program, "/scripts/client.py", "server:50051", method];
            anyhow::Ok(scene.exec("client", &argv).await?.trim().to_owned())
        }
    };
    let answered = || async {
        let outcome = call("Echo").await?;
        ensure!(outcome == "hello|OK|-|unary|-", "the call comes to {outcome}");
        Ok(())
    };
    scene.eventually("a call is answered", answered).await?;
    for (method, expected) in [
        ("Fail", "|FAILED_PRECONDITION|not today: 100 %|failure|-"),
        ("Count", "1000|OK|-|stream|-"),
        ("Chat", "20|OK|-|chat|-"),
    ] {
        let outcome = call(method).await?;
        ensure!(outcome == expected, "{method} comes to {outcome}");
    }
    let outcome = call("Forbidden").await?;
    ensure!(
        outcome.starts_with("|PERMISSION_DENIED|"),
        "a denied call comes to {outcome}"
    );
    let outcome = call("Unknown").await?;
    ensure!(
        outcome.starts_with("|UNIMPLEMENTED|"),
        "a call without a route comes to {outcome}"
    );
    Ok(())
}
