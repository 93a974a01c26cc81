//! Bootstrap tokens: made for one worker or for one phase of kubeadm, and known as ours by their description.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_kube::{Client, KubeError};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{error::ActionError, random};

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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": format!("bootstrap-token-{}", self.id()), "namespace": "kube-system" },
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "description": DESCRIPTION,
                "token-id": self.id(),
                "token-secret": &self.text[ID_LENGTH + 1..],
                "expiration": rfc3339((now + LIFETIME).as_secs()),
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

/// Seconds since 1970 as Kubernetes writes time.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01. Eras of 400 years beginning in March make the leap day the last of a year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
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

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
