//! The objects of the cases, as YAML.

/// What an application is run as.
#[derive(Clone, Copy, Debug)]
pub(super) struct App<'a> {
    /// Name, and label `app`.
    pub(super) name: &'a str,
    /// ServiceAccount, made with it; empty: one of its own name.
    pub(super) account: &'a str,
    /// Arguments of `weir-bookstore`.
    pub(super) args: &'a str,
    /// How many pods.
    pub(super) replicas: u8,
    /// Annotations of the pods, in flow style without braces.
    pub(super) annotations: &'a str,
    /// More of the container, in flow style without braces, such as `readinessProbe: {...}`.
    pub(super) container: &'a str,
    /// More of the pod's spec, in flow style without braces.
    pub(super) spec: &'a str,
}

impl<'a> App<'a> {
    /// One pod with an account of its own.
    pub(super) fn new(name: &'a str, args: &'a str) -> Self {
        Self {
            name,
            account: "",
            args,
            replicas: 1,
            annotations: "",
            container: "",
            spec: "",
        }
    }

    /// A pod in which clients are run.
    pub(super) fn client(name: &'a str) -> Self {
        Self::new(name, "wait")
    }

    fn account(&self) -> &'a str {
        if self.account.is_empty() {
            self.name
        } else {
            self.account
        }
    }

    /// What a pod of it is made from.
    pub(super) fn template(&self) -> String {
        let args: Vec<String> = self
            .args
            .split(' ')
            .map(|argument| format!("\"{argument}\""))
            .collect();
        format!(
            "metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}, spec: {{serviceAccountName: {account}, \
             terminationGracePeriodSeconds: 20, {spec}{comma} containers: [{{name: app, image: 'weir-bookstore:latest', \
             imagePullPolicy: IfNotPresent, args: [{args}], resources: {{requests: {{cpu: 1m, memory: 4Mi}}}}, {container}}}]}}",
            name = self.name,
            annotations = self.annotations,
            account = self.account(),
            spec = self.spec,
            comma = if self.spec.is_empty() { "" } else { "," },
            args = args.join(", "),
            container = self.container,
        )
    }

    /// Its ServiceAccount.
    pub(super) fn identity(&self) -> String {
        let account = self.account();
        format!("---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}}}}}\n")
    }

    /// It as a Deployment.
    pub(super) fn deployment(&self) -> String {
        format!(
            "{}---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: {}, \
             selector: {{matchLabels: {{app: {name}}}}}, template: {{{}}}}}}}\n",
            self.identity(),
            self.replicas,
            self.template(),
            name = self.name,
        )
    }
}

/// A Service of the pods labelled `app`, with ports such as `{name: http-web, port: 8080}`.
pub(super) fn service(name: &str, app: &str, ports: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {app}}}, ports: [{ports}]}}}}\n"
    )
}

/// A Service without an address of its own.
pub(super) fn headless(name: &str, app: &str, ports: &str) -> String {
    service(name, app, ports).replace("spec: {", "spec: {clusterIP: None, ")
}

/// Lets accounts make every HTTP request to a server's account.
pub(super) fn allow_http(namespace: &str, server: &str, clients: &[&str]) -> String {
    let routes = format!(
        "---\n{{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {{name: {server}}}, \
         spec: {{matches: [{{name: all, pathRegex: '.*', methods: ['*']}}]}}}}\n"
    );
    routes + &target(namespace, server, clients, "HTTPRouteGroup")
}

/// Lets accounts connect to ports of a server's account.
pub(super) fn allow_tcp(namespace: &str, server: &str, clients: &[&str], ports: &str) -> String {
    let routes = format!(
        "---\n{{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {{name: {server}}}, \
         spec: {{matches: {{name: all, ports: [{ports}]}}}}}}\n"
    );
    routes + &target(namespace, server, clients, "TCPRoute")
}

fn target(namespace: &str, server: &str, clients: &[&str], kind: &str) -> String {
    let sources: Vec<String> = clients
        .iter()
        .map(|client| format!("{{kind: ServiceAccount, name: {client}, namespace: {namespace}}}"))
        .collect();
    format!(
        "---\n{{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {{name: {server}}}, spec: \
         {{destination: {{kind: ServiceAccount, name: {server}, namespace: {namespace}}}, sources: [{}], \
         rules: [{{kind: {kind}, name: {server}}}]}}}}\n",
        sources.join(", ")
    )
}

/// Shares a Service out to others evenly.
pub(super) fn split(apex: &str, backends: &[&str]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|backend| format!("{{service: {backend}, weight: 50}}"))
        .collect();
    format!(
        "---\n{{apiVersion: split.smi-spec.io/v1alpha2, kind: TrafficSplit, metadata: {{name: {apex}}}, \
         spec: {{service: {apex}, backends: [{}]}}}}\n",
        backends.join(", ")
    )
}
