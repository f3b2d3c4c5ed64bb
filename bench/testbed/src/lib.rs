//! A mesh in a box: ordinary Kubernetes manifests run as Linux namespaces on one machine.
//!
//! The testbed plays the parts of a cluster that a service mesh needs, and no more:
//! - *kubelet*: [`Testbed`] runs each pod as a network namespace and each container as a process in
//!   its own mount namespace, with init containers, native sidecars, probes, volumes and restarts;
//! - *controllers*: Deployments roll, StatefulSets keep names, Jobs complete;
//! - *kube-proxy*: a Service's ClusterIP reaches its ready endpoints;
//! - *API server*: a directory of manifests is watched; observed objects (Pods, EndpointSlices, Services
//!   with their ClusterIP) are written to `<run>/cluster` as YAML, one file per object.
//!
//! It knows nothing of a mesh. What a mutating webhook would do is a function the caller passes in
//! [`Options::mutate`], and so is the minting of ServiceAccount tokens in [`Options::mint`].
//!
//! It needs no root: [`Sandbox::enter`] re-executes the program in fresh user, mount, network and
//! process namespaces. Everything lives and dies with them, so nothing is left behind, even by kill -9.

mod addresses;
mod capture;
mod cluster;
mod container;
mod controllers;
mod environment;
mod manifests;
mod network;
mod options;
mod pod;
mod pods;
mod ports;
mod probe;
mod sandbox;
mod services;
mod testbed;
mod volumes;

pub use capture::{Capture, Flow};
pub use manifests::ManifestError;
pub use network::{BRIDGE, PodNetwork};
pub use options::{Image, Mint, Mutate, Options, TokenRequest};
pub use pod::{ContainerStatus, Phase, PodStatus};
pub use pods::Pods;
pub use ports::free_ports;
pub use sandbox::{EnterError, Sandbox};
pub use testbed::{Event, Testbed};
