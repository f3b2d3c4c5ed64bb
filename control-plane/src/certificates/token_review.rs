//! Tokens of a cluster: the API server says whose they are.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Semaphore, time::timeout};

use super::{TokenError, TokenIdentity, Verifier, join_token::AUDIENCE};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Tokens of ServiceAccounts are about 1 KiB.
const TOKEN_LIMIT: usize = 16 * 1024;
/// Reviews at a time: a storm of new sidecars must not become one of the API server.
const CONCURRENT: usize = 32;
const ANSWER: Duration = Duration::from_secs(10);

/// Asks the API server with a TokenReview. Only tokens made for the controller, of a ServiceAccount and bound to a pod, are
/// accepted. Nothing is remembered: a token ends when its pod does.
pub struct TokenReviews {
    api: Api<TokenReview>,
    permits: Semaphore,
}

impl TokenReviews {
    /// Reviews at this API server.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            permits: Semaphore::new(CONCURRENT),
        }
    }

    async fn review(&self, token: &str) -> Result<TokenIdentity, TokenError> {
        if token.len() > TOKEN_LIMIT || !is_jwt(token) {
            return Err(TokenError::Bad(
                "it is not a token of a ServiceAccount".to_owned(),
            ));
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let asked = async {
            let _permit = self.permits.acquire().await;
            self.api.create(&PostParams::default(), &review).await
        };
        let answer = match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(TokenError::Unavailable(error.to_string())),
            Err(_) => return Err(TokenError::Unavailable("no answer within 10 s".to_owned())),
        };
        whose(answer.status.unwrap_or_default())
    }
}

impl Verifier for TokenReviews {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenIdentity, TokenError>> {
        Box::pin(self.review(token))
    }
}

/// Whether it looks like a signed JWT: what does not is not worth the API server's time.
fn is_jwt(token: &str) -> bool {
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    token.bytes().all(url_safe) && token.split('.').filter(|part| !part.is_empty()).count() == 3
}

fn whose(status: TokenReviewStatus) -> Result<TokenIdentity, TokenError> {
    if status.authenticated != Some(true) {
        return Err(refused(status.error.unwrap_or_default()));
    }
    // An API server that knows nothing of audiences would leave them out, and accept a token made for anyone.
    if !status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE)
    {
        return Err(TokenError::WrongAudience);
    }
    let user = status.user.unwrap_or_default();
    let account = user
        .username
        .as_deref()
        .and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let Some((namespace, service_account)) = account.and_then(|account| account.split_once(':')) else {
        return Err(TokenError::Bad("it is not of a ServiceAccount".to_owned()));
    };
    let (Some(pod), Some(pod_uid)) = (extra(&user, POD_NAME), extra(&user, POD_UID)) else {
        return Err(TokenError::Bad("it is not bound to a pod".to_owned()));
    };
    Ok(TokenIdentity {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod,
        pod_uid,
    })
}

fn refused(error: String) -> TokenError {
    match error {
        error if error.contains("expired") => TokenError::Expired,
        error if error.contains("audience") => TokenError::WrongAudience,
        error if error.is_empty() => TokenError::Bad("the API server does not accept it".to_owned()),
        error => TokenError::Bad(error),
    }
}

/// A field that must have exactly one value.
fn extra(user: &UserInfo, key: &str) -> Option<String> {
    let extra: &BTreeMap<String, Vec<String>> = user.extra.as_ref()?;
    match extra.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> TokenReviewStatus {
        let extra = [(POD_NAME, "web-0"), (POD_UID, "u-1")];
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:web".to_owned()),
                extra: Some(
                    extra
                        .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                        .into(),
                ),
                ..UserInfo::default()
            }),
        }
    }

    fn with_user(change: impl FnOnce(&mut UserInfo)) -> Result<TokenIdentity, TokenError> {
        let mut status = accepted();
        change(status.user.as_mut().unwrap());
        whose(status)
    }

    #[test]
    fn a_token_of_a_pod_is_its_accounts() {
        let identity = whose(accepted()).unwrap();
        assert_eq!(identity.namespace, "shop");
        assert_eq!(identity.service_account, "web");
        assert_eq!(
            (identity.pod.as_str(), identity.pod_uid.as_str()),
            ("web-0", "u-1")
        );
    }

    #[test]
    fn what_is_not_bound_to_a_pod_is_refused() {
        let unbound = with_user(|user| user.extra = None);
        assert_eq!(
            unbound,
            Err(TokenError::Bad("it is not bound to a pod".to_owned()))
        );
        let twice = with_user(|user| {
            let uids = vec!["u-1".to_owned(), "u-2".to_owned()];
            user.extra.as_mut().unwrap().insert(POD_UID.to_owned(), uids);
        });
        assert!(twice.is_err());
    }

    #[test]
    fn people_are_refused() {
        let person = with_user(|user| user.username = Some("alice".to_owned()));
        assert_eq!(
            person,
            Err(TokenError::Bad("it is not of a ServiceAccount".to_owned()))
        );
    }

    #[test]
    fn an_answer_without_our_audience_is_refused() {
        let mut status = accepted();
        status.audiences = None;
        assert_eq!(whose(status), Err(TokenError::WrongAudience));
    }

    #[test]
    fn what_the_api_server_does_not_accept_is_refused() {
        let status = |error: &str| TokenReviewStatus {
            error: Some(error.to_owned()),
            ..accepted_not()
        };
        assert_eq!(whose(status("token has expired")), Err(TokenError::Expired));
        assert_eq!(
            whose(status("token audiences [\"api\"] is invalid")),
            Err(TokenError::WrongAudience)
        );
        assert!(matches!(whose(accepted_not()), Err(TokenError::Bad(_))));
    }

    fn accepted_not() -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(false),
            ..accepted()
        }
    }

    #[test]
    fn what_is_no_token_never_reaches_the_api_server() {
        assert!(is_jwt("eyJh.eyJp._sig-1"));
        for text in ["", "abc", "a.b", "a.b.", "a.b.c.d", "a b.c.d", "a.b.c\u{e9}"] {
            assert!(!is_jwt(text), "{text}");
        }
    }
}
