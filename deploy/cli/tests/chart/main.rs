//! The three ways to install the mesh make the same objects: `kubectl apply -k deploy/chart`, the Helm chart, and
//! `weir install`. Where kubectl or helm is missing, the tests are reported as ignored, with the reason; with
//! `WEIR_NO_SKIP=1` they fail.

mod rendered;

use std::{env, path::PathBuf, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use rendered::{Objects, Tools, differences};
use weir_cluster::programs;

/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

/// Values that touch everything the templates set, as `--set` says them.
const VALUES: [&[&str]; 5] = [
    &[],
    &["meshName=other", "trustDomain=mesh.example"],
    &[
        "image.registry=registry.example.com/mesh/",
        "image.tag=v9",
        "image.pullPolicy=Always",
        "image.pullSecrets[0].name=pull",
    ],
    &[
        "controller.replicas=5",
        "controller.logLevel=debug",
        "controller.logFormat=json",
        "controller.resources.limits.cpu=null",
        "controller.resources.requests.memory=1Gi",
        "controller.nodeSelector.disk=ssd",
        "controller.tolerations[0].operator=Exists",
        "controller.affinity.podAntiAffinity.x=y",
        "controller.priorityClassName=system-cluster-critical",
        "controller.podAnnotations.note=text",
        "injector.timeoutSeconds=5",
        "validator.failurePolicy=Fail",
        "validator.timeoutSeconds=6",
    ],
    &[
        "meshConfig.spec.traffic.enableEgress=false",
        "meshConfig.spec.traffic.outboundPortExclusionList={6379,3306}",
        "meshConfig.spec.sidecar.resources.limits.cpu=100m",
        "meshConfig.spec.certificate.serviceCertValidityDuration=1h",
    ],
];

/// Values that nobody may set.
const WRONG: [&str; 9] = [
    "controler.replicas=2",
    "controller.replica=2",
    "controller.replicas=0",
    "controller.logFormat=xml",
    "image.pullPolicy=Sometimes",
    "injector.timeoutSeconds=31",
    "meshName=-",
    "trustDomain=Upper.Case",
    "validator.failurePolicy=Perhaps",
];

fn main() -> ExitCode {
    let tools = programs::find(programs::CLIENTS).map(|programs| Tools {
        programs,
        chart: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../chart"),
    });
    let tests: [(&str, Test); 4] = [
        ("kustomization_and_weir_make_the_same", kustomization),
        ("chart_and_weir_make_the_same", chart),
        ("chart_and_weir_refuse_the_same", refusals),
        ("the_chart_is_well_formed", lint),
    ];
    let trials = tests.map(|(name, test)| trial(name, test, tools.clone()));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

type Test = fn(&Tools) -> anyhow::Result<()>;

fn trial(name: &str, test: Test, tools: Result<Tools, String>) -> Trial {
    let no_skip = env::var_os(NO_SKIP).is_some_and(|value| value == "1");
    let (missing, kind) = match &tools {
        Err(reason) if !no_skip => (true, reason.clone()),
        _ => (false, String::new()),
    };
    let run = move || {
        let tools = tools?;
        test(&tools).map_err(|error| Failed::from(format!("{error:#}")))
    };
    Trial::test(name, run).with_kind(kind).with_ignored_flag(missing)
}

fn kustomization(tools: &Tools) -> anyhow::Result<()> {
    let kustomized = tools.kustomize()?;
    anyhow::ensure!(kustomized.len() == 22, "{} objects", kustomized.len());
    differences(&kustomized, &tools.weir("weir-system", &[])?)
}

fn chart(tools: &Tools) -> anyhow::Result<()> {
    for (values, namespace) in VALUES
        .into_iter()
        .zip(["weir-system", "elsewhere"].into_iter().cycle())
    {
        let mut ours: Objects = tools.weir(namespace, values)?;
        // Helm makes the namespace itself, with --create-namespace.
        ours.retain(|key, _| !key.starts_with("Namespace "));
        differences(&tools.helm(namespace, values)?, &ours)?;
    }
    Ok(())
}

fn refusals(tools: &Tools) -> anyhow::Result<()> {
    for wrong in WRONG {
        anyhow::ensure!(tools.helm("ns", &[wrong]).is_err(), "helm takes {wrong}");
        anyhow::ensure!(tools.weir("ns", &[wrong]).is_err(), "weir takes {wrong}");
    }
    Ok(())
}

fn lint(tools: &Tools) -> anyhow::Result<()> {
    tools.lint()
}
