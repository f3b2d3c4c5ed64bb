//! A server that says exactly what a test makes it say.

use serde_json::{Value, json};

use crate::{
    control_plane::{ControlPlane, Manner},
    proxy::Variant,
    resources::url,
};

pub(crate) struct Scripted {
    pub(crate) server: ControlPlane,
    variant: Variant,
    /// Responses so far, for their nonces.
    sent: usize,
}

/// What became of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack,
    /// With the reason.
    Nack(String),
}

/// A resource of a response, in force until the server says otherwise.
pub(crate) fn plain(body: &Value) -> Value {
    let name = body["cluster_name"].as_str().or(body["name"].as_str()).unwrap();
    json!({ "name": name, "version": "1", "body": body })
}

impl Scripted {
    pub(crate) async fn start(variant: Variant) -> Option<Self> {
        let server = ControlPlane::start(Manner::Scripted).await?;
        Some(Self {
            server,
            variant,
            sent: 0,
        })
    }

    /// Sends resources of a type once it was asked for, and gives the answer.
    pub(crate) async fn send(&mut self, kind: &str, resources: &[Value]) -> Answer {
        self.say(kind, json!({ "resources": resources })).await
    }

    /// The same for plain resources that must be taken.
    pub(crate) async fn give(&mut self, kind: &str, bodies: &[Value]) {
        let resources: Vec<_> = bodies.iter().map(plain).collect();
        assert_eq!(self.send(kind, &resources).await, Answer::Ack, "{kind}");
    }

    /// Takes names away, in the state of the world by sending what is left.
    pub(crate) async fn take_away(&mut self, kind: &str, names: &[&str], left: &[Value]) {
        let answer = match self.variant {
            Variant::Delta => self.say(kind, json!({ "removed": names })).await,
            Variant::StateOfTheWorld => {
                let left: Vec<_> = left.iter().map(plain).collect();
                self.send(kind, &left).await
            }
        };
        assert_eq!(answer, Answer::Ack, "{kind}");
    }

    async fn say(&mut self, kind: &str, what: Value) -> Answer {
        self.server.request(kind, |_| true).await;
        let nonce = self.speak(kind, what).await;
        let answer = self
            .server
            .request(kind, |request| request["responseNonce"] == nonce.as_str())
            .await;
        match answer["errorDetail"]["message"].as_str() {
            None => Answer::Ack,
            Some(reason) => Answer::Nack(reason.to_owned()),
        }
    }

    /// Sends a response without waiting for its answer, and gives its nonce.
    pub(crate) async fn speak(&mut self, kind: &str, what: Value) -> String {
        self.sent += 1;
        let nonce = format!("nonce {}", self.sent);
        let mut command = json!({
            "do": "send",
            "type": url(kind),
            "version": format!("version {}", self.sent),
            "nonce": nonce,
        });
        for (field, value) in what.as_object().unwrap() {
            command[field] = value.clone();
        }
        self.server.tell(command).await;
        nonce
    }

    /// Waits until a name was asked for.
    pub(crate) async fn asked_for(&self, kind: &str, name: &str) {
        let field = match self.variant {
            Variant::Delta => "resourceNamesSubscribe",
            Variant::StateOfTheWorld => "resourceNames",
        };
        let names = |request: &Value| {
            let names = request[field].as_array();
            names.is_some_and(|names| names.iter().any(|asked| asked == name))
        };
        self.server.request(kind, names).await;
    }
}
