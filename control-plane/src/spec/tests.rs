use super::*;

const TARGET: &str = "\
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata:
  name: buy
  namespace: shop
spec:
  destination:
    kind: ServiceAccount
    name: shop
    namespace: shop
  rules:
  - kind: HTTPRouteGroup
    name: routes
  sources:
  - kind: ServiceAccount
    name: buyer
    namespace: buyer
";

fn source(text: &str) -> Source {
    Source {
        file: "a.yaml".into(),
        line: 11,
        text: text.into(),
    }
}

fn diagnostics(text: &str) -> Vec<Diagnostic> {
    match read(&source(text)).unwrap() {
        Document::Other(diagnostic) => diagnostic.into_iter().collect(),
        Document::Object(_, _, diagnostics) | Document::Invalid(_, diagnostics) => diagnostics,
    }
}

/// The only diagnostic of a text: severity, line, field.
fn only(text: &str) -> (Severity, u32, String) {
    let diagnostics = diagnostics(text);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:#?}");
    let Diagnostic {
        severity,
        line,
        field,
        ..
    } = &diagnostics[0];
    (*severity, *line, field.clone())
}

#[test]
fn splits_at_markers_and_counts_lines() {
    let text = "# only a comment\n---\na: 1\n---\n\n# nothing\n--- # third\nb: |\n  --- not one\n";
    assert_eq!(
        split(text),
        [
            (2, "---\na: 1\n".into()),
            (7, "--- # third\nb: |\n  --- not one\n".into())
        ]
    );
    assert_eq!(split("a: 1"), [(1, "a: 1".into())]);
    assert_eq!(split("\n\n"), []);
}

#[test]
fn the_items_of_a_list_are_documents() {
    let text = "---\napiVersion: v1\nitems:\n- a: 1\n  b:\n  - 2\n\n- a: 3\nkind: List\nmetadata: {}\n";
    assert_eq!(
        split(text),
        [(4, "  a: 1\n  b:\n  - 2\n\n".into()), (8, "  a: 3\n".into())]
    );
    let indented = "kind: List\nitems:\n  # why\n  -\n    a: 1\n  - a: 2\n";
    assert_eq!(
        split(indented),
        [(4, "   \n    a: 1\n".into()), (6, "    a: 2\n".into())]
    );
    let json = "{kind: List, items: [{a: 1}]}";
    assert_eq!(split(json), [(1, json.into())]);
}

#[test]
fn a_good_object_has_no_diagnostics() {
    assert!(diagnostics(TARGET).is_empty());
    let Document::Object(key, Object::TrafficTarget(_), _) = read(&source(TARGET)).unwrap() else {
        panic!("not read");
    };
    assert_eq!(key.to_string(), "TrafficTarget shop/buy");
}

#[test]
fn an_unknown_field_is_a_warning_with_its_line() {
    let text = TARGET.replace("    name: routes\n", "    name: routes\n    matchs: [a]\n");
    assert_eq!(
        only(&text),
        (Severity::Warning, 24, "spec.rules[0].matchs".to_owned())
    );
}

#[test]
fn a_wrong_type_is_an_error_with_its_line_and_field() {
    let text = TARGET.replace(
        "  rules:\n  - kind: HTTPRouteGroup\n    name: routes\n",
        "  rules: 3\n",
    );
    assert_eq!(only(&text), (Severity::Error, 21, "spec.rules".to_owned()));
    assert!(matches!(read(&source(&text)).unwrap(), Document::Invalid(..)));
}

#[test]
fn a_missing_field_is_an_error_of_the_object_only() {
    let text = TARGET.replace("    name: routes\n", "");
    let found = &diagnostics(&text)[0];
    assert_eq!(found.severity, Severity::Error);
    assert!(found.message.contains("name"), "{found}");
    assert!((20..=22).contains(&found.line), "{found}");
}

#[test]
fn text_that_is_not_yaml_names_line_and_column() {
    let broken = read(&source("kind: A\nspec: [1, 2\nb: }\n")).unwrap_err();
    assert_eq!(broken.severity, Severity::Error);
    assert!(broken.line >= 12, "{broken}");
    assert!(broken.to_string().starts_with("error: a.yaml:1"), "{broken}");
}

#[test]
fn kinds_to_come_say_that_they_open_nothing() {
    let retry = "spec: {source: {kind: ServiceAccount, name: a}, retryPolicy: {retryOn: 5xx}}";
    let setting = "spec: {host: a.default.svc.cluster.local}";
    for (kind, spec) in [
        ("Egress", "spec: {}"),
        ("IngressBackend", "spec: {}"),
        ("Retry", retry),
        ("UpstreamTrafficSetting", setting),
    ] {
        let text = format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\n{spec}\n"
        );
        assert_eq!(only(&text), (Severity::Warning, 12, "kind".to_owned()));
        assert!(
            diagnostics(&text)[0]
                .message
                .contains("not supported yet; ignored, and nothing is opened by it")
        );
    }
}

#[test]
fn another_version_names_the_one_that_is_served() {
    let found = &diagnostics(&TARGET.replace("v1alpha3", "v1alpha2"))[0];
    assert_eq!((found.severity, found.line), (Severity::Error, 11));
    assert!(found.remedy.contains("access.smi-spec.io/v1alpha3"));
}

#[test]
fn kinds_of_others_are_no_matter() {
    assert!(diagnostics("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {}\n").is_empty());
    assert!(diagnostics("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n").is_empty());
}

#[test]
fn json_is_read_and_located() {
    let text = r#"{"apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit",
 "metadata": {"name": "s", "namespace": "shop"},
 "spec": {"service": "a", "backends": [
   {"service": "b", "weight": 1, "wait": 2}]}}"#;
    assert_eq!(
        only(text),
        (Severity::Warning, 14, "spec.backends[0].wait".to_owned())
    );
}

#[test]
fn durations_are_those_of_go() {
    let parse = |text| GoDuration::parse(text).map(|it| it.0.as_millis());
    assert_eq!(parse("24h"), Some(86_400_000));
    assert_eq!(parse("1h30m"), Some(5_400_000));
    assert_eq!(parse("1.5s"), Some(1500));
    assert_eq!(parse("200ms"), Some(200));
    assert_eq!(parse("0"), Some(0));
    for wrong in ["", "5", "-5s", "5 s", "h", "1x", "s5"] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

/// A manifest that a cluster refuses is not used from a file either, and one that it takes is.
#[test]
fn scalars_are_what_an_api_server_takes_them_for() {
    let labelled = |label: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels:\n    b: {label}\n")
    };
    for number_or_bool in ["1", "true", "no"] {
        let found = (Severity::Error, 16, "metadata.labels.b".to_owned());
        assert_eq!(only(&labelled(number_or_bool)), found, "{number_or_bool}");
    }
    assert!(diagnostics(&labelled("\"1\"")).is_empty());
    let config = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nmetadata:\n  name: c\nspec:\n  \
                  traffic:\n    enableEgress: yes\n";
    assert!(diagnostics(config).is_empty());
}
