//! Bootstrap tokens: made for one worker or for one phase of kubeadm, and known as ours by their description.

use std::time::Duration;

use quorate_kube::{Client, KubeError};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{error::ActionError, random, utc};

/// How our tokens are known among others.
pub(crate) const DESCRIPTION: &str = "quorate";

/// How long a token is good for. A join takes seconds; a slow machine gets minutes.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// A token, `id.secret`.
pub(crate) struct Token {
    text: Zeroizing<String>,
}

/// Length of a token's ID: it is public.
const ID_LENGTH: usize = 6;
/// Length of a token's secret.
const SECRET_LENGTH: usize = 16;

impl Token {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, ActionError> {
        let mut text = Zeroizing::new(String::with_capacity(ID_LENGTH + 1 + SECRET_LENGTH));
        let letters = |length| {
            random::letters(length)
                .map(Zeroizing::new)
                .map_err(crate::durable::FileError::new(
                    "read",
                    std::path::Path::new("/dev/urandom"),
                ))
        };
        text.push_str(&letters(ID_LENGTH)?);
        text.push('.');
        text.push_str(&letters(SECRET_LENGTH)?);
        Ok(Self { text })
    }

    /// The public part.
    pub(crate) fn id(&self) -> &str {
        &self.text[..ID_LENGTH]
    }

    /// All of it.
    pub(crate) fn reveal(&self) -> &Zeroizing<String> {
        &self.text
    }

    /// Makes it known to the cluster, for a worker to join with.
    pub(crate) async fn publish(&self, client: &Client, within: Duration) -> Result<(), KubeError> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": format!("bootstrap-token-{}", self.id()), "namespace": "kube-system" },
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "description": DESCRIPTION,
                "token-id": self.id(),
                "token-secret": &self.text[ID_LENGTH + 1..],
                "expiration": utc::rfc3339(utc::now() + LIFETIME.as_secs()),
                "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true",
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
            },
        });
        client
            .create("/api/v1/namespaces/kube-system/secrets", &secret, within)
            .await
            .map(drop)
    }
}

/// Takes a token from the cluster. One that is gone is fine.
pub(crate) async fn withdraw(client: &Client, id: &str, within: Duration) -> Result<(), KubeError> {
    let path = format!("/api/v1/namespaces/kube-system/secrets/bootstrap-token-{id}");
    crate::facts::present(client.delete(&path, within).await).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_kubeadms_form() {
        let token = Token::generate().unwrap();
        let text = token.reveal().as_str();
        let (id, secret) = text.split_once('.').unwrap();
        assert_eq!((id.len(), secret.len()), (ID_LENGTH, SECRET_LENGTH));
        assert_eq!(token.id(), id);
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        assert!(id.bytes().chain(secret.bytes()).all(plain));
    }
}
