//! A testbed with its own manifest directory, for one test.

use std::path::Path;
use std::time::Duration;

use weir_testbed::{Image, Options, Sandbox, Testbed};

/// Long enough for a loaded machine; tests wait for conditions, never this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    pub(crate) testbed: Testbed,
    dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn start(sandbox: Sandbox, manifests: &[(&str, &str)]) -> Self {
        Self::with(sandbox, manifests, |_| {}).await
    }

    pub(crate) async fn with(
        sandbox: Sandbox,
        manifests: &[(&str, &str)],
        change: impl FnOnce(&mut Options),
    ) -> Self {
        // What is mounted in it for a moment longer keeps it from being removed; the sandbox's own goes with that.
        let dir = tempfile::tempdir_in(sandbox.scratch()).unwrap();
        let (yaml, run) = (dir.path().join("manifests"), dir.path().join("run"));
        std::fs::create_dir_all(&yaml).unwrap();
        std::fs::create_dir_all(&run).unwrap();
        for (name, text) in manifests {
            std::fs::write(yaml.join(name), text).unwrap();
        }
        let mut options = Options::new(sandbox, vec![yaml.clone()], &run);
        let mut image = Image::new(std::env::current_exe().unwrap());
        image.args = vec!["app".into()];
        options.images.insert("app".into(), image);
        change(&mut options);
        let testbed = Testbed::start(options).await.unwrap();
        Self { testbed, dir }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("manifests").join(name), text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join("manifests").join(name)).unwrap();
    }

    /// Fetches `target` from inside a pod; what came back, or the error.
    pub(crate) async fn get(&self, from: &str, target: &str) -> Result<String, String> {
        let program = Path::new("/").join(std::env::current_exe().unwrap().file_name().unwrap());
        let argv = [program.to_str().unwrap(), "app", "get", target];
        let output = self
            .testbed
            .exec(from, "", &argv)
            .await
            .map_err(|error| format!("{error:#}"))?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    pub(crate) async fn stop(self) {
        self.testbed.stop().await.unwrap();
    }
}

/// A Deployment `name` of the test app in namespace `shop`, with more of the container's YAML fields.
pub(crate) fn deployment(name: &str, replicas: u32, container: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: app:latest
          args: [serve, '8080']
          ports: [{{name: http, containerPort: 8080}}]
          {container}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
"
    )
}

/// A readiness probe on `/ready`, with the pod's name in the environment.
pub(crate) const PROBED: &str =
    "env: [{name: READY, value: 'yes'}, {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1}";
