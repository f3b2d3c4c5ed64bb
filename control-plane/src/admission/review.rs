//! An AdmissionReview (`admission.k8s.io/v1`), from bytes and to bytes.

use std::sync::Arc;

use http::StatusCode;
use kube::core::{
    DynamicObject, TypeMeta,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview},
};
use serde::Deserialize;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// A kind's name is a label of a metric, and comes from the network.
const KIND_LIMIT: usize = 63;

/// Why there is no answer to a body.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ReviewError {
    /// Not a review.
    #[error("the body is no {KIND}: {0}")]
    Malformed(String),
    /// Not of the version that the webhook was registered for.
    #[error("{0} is not understood; register the webhook with admissionReviewVersions: [v1]")]
    Version(String),
    /// A review that asks nothing.
    #[error("the {KIND} has no request")]
    NoRequest,
}

impl ReviewError {
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// Reads the question.
pub(super) fn read(body: &[u8]) -> Result<AdmissionRequest<DynamicObject>, ReviewError> {
    #[derive(Deserialize)]
    struct Types {
        #[serde(flatten)]
        types: Option<TypeMeta>,
    }

    let malformed = |error: serde_json::Error| ReviewError::Malformed(error.to_string());
    let Types { types } = serde_json::from_slice(body).map_err(malformed)?;
    let types = types.ok_or_else(|| ReviewError::Malformed("it has no apiVersion and kind".to_owned()))?;
    if types.kind != KIND {
        return Err(ReviewError::Malformed(format!("its kind is {:?}", types.kind)));
    }
    if types.api_version != API_VERSION {
        return Err(ReviewError::Version(types.api_version));
    }
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body).map_err(malformed)?;
    let mut request = review.request.ok_or(ReviewError::NoRequest)?;
    request.types = types;
    Ok(request)
}

/// Writes the answer.
pub(super) fn write(answer: AdmissionResponse) -> serde_json::Result<Vec<u8>> {
    let mut review = answer.into_review();
    review.types = TypeMeta {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
    };
    serde_json::to_vec(&review)
}

/// The kind of the object that is asked about, as a label.
pub(super) fn kind(request: &AdmissionRequest<DynamicObject>) -> Arc<str> {
    match request.kind.kind.as_str() {
        kind if kind.len() <= KIND_LIMIT && kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            kind.into()
        }
        _ => "unknown".into(),
    }
}
