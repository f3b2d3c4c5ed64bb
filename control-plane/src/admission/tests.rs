use kube::core::admission::AdmissionResponse;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::review::{self, ReviewError};

fn question() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "name": "web-0",
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": { "username": "alice" },
            "object": { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-0" } },
            "dryRun": true
        }
    })
}

fn read(question: &Value) -> Result<String, ReviewError> {
    review::read(question.to_string().as_bytes()).map(|request| request.uid)
}

#[test]
fn the_answer_is_to_the_question() {
    let request = review::read(question().to_string().as_bytes()).unwrap();
    assert_eq!(&*review::kind(&request), "Pod");
    let answer = review::write(AdmissionResponse::from(&request).deny("no")).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "u-1");
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(answer["response"]["status"]["message"], "no");
}

#[test]
fn another_version_is_named() {
    let mut old = question();
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    assert_eq!(
        read(&old),
        Err(ReviewError::Version("admission.k8s.io/v1beta1".to_owned()))
    );
}

#[test]
fn another_kind_is_malformed() {
    let mut other = question();
    other["kind"] = json!("ConversionReview");
    assert!(matches!(read(&other), Err(ReviewError::Malformed(_))));
    assert!(matches!(review::read(b"{}"), Err(ReviewError::Malformed(_))));
    assert!(matches!(review::read(b""), Err(ReviewError::Malformed(_))));
}

#[test]
fn a_review_without_a_question_is_told() {
    let mut empty = question();
    empty.as_object_mut().unwrap().remove("request");
    assert_eq!(read(&empty), Err(ReviewError::NoRequest));
}

#[test]
fn kinds_from_the_network_are_no_unbounded_labels() {
    let mut strange = question();
    strange["request"]["kind"]["kind"] = json!("x".repeat(10_000));
    let request = review::read(strange.to_string().as_bytes()).unwrap();
    assert_eq!(&*review::kind(&request), "unknown");
}

/// JSON of any shape, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,12}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(body in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = review::read(&body);
    }

    #[test]
    fn no_field_of_a_question_breaks_the_reader(
        field in prop::sample::select(vec!["uid", "kind", "resource", "operation", "object", "userInfo", "dryRun"]),
        value in any_json(),
    ) {
        let mut question = question();
        question["request"][field] = value;
        let _ = read(&question);
    }
}
