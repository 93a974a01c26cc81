//! What a conversion has to know of the cluster. Start at [`look`].

use std::collections::BTreeSet;

use base64::Engine as _;
use quorate_kube::{Client, KubeError};
use quorate_plan::{
    NodeName,
    observation::{ApiConversion, ConversionLook},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    PATIENCE,
    api::{config_map, list, seen},
    server_of, stored,
};
use crate::{paths::Paths, shown, utc};

/// Bootstrap tokens, ours and others'.
const TOKENS: &str =
    "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
/// Pods of cluster DNS, by the label that every kubeadm gives them.
const DNS_PODS: &str = "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns";
/// The Deployment of cluster DNS.
pub(crate) const DNS: &str = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";

pub(super) async fn look(paths: &Paths, client: &Client, look: &ConversionLook) -> ApiConversion {
    let before = super::backup(paths).ok().flatten();
    let before = before.and_then(|backup| Some(backup.objects?.endpoint));
    let (unsigned, proxy, dns_nodes, dns_wanted, stored, networks, sockets) = tokio::join!(
        Box::pin(unsigned(client)),
        Box::pin(proxy(client)),
        Box::pin(dns_nodes(client)),
        Box::pin(dns_wanted(client)),
        Box::pin(stored::look(client, &look.watched, before.as_deref())),
        Box::pin(stored::networks(client)),
        Box::pin(stored::sockets(client)),
    );
    ApiConversion {
        unsigned: seen("signatures of cluster-info", unsigned),
        proxy: seen("kube-proxy's configuration", proxy),
        dns_nodes: seen("pods of cluster DNS", dns_nodes),
        dns_wanted: seen("the Deployment of cluster DNS", dns_wanted),
        stored: super::seen("objects that hold an old address", stored),
        networks: seen("DaemonSets", networks),
        sockets: seen("nodes' annotations", sockets),
    }
}

/// Tokens for which `cluster-info` carries no signature that verifies. None where it is not published at all.
pub(crate) async fn unsigned(client: &Client) -> Result<BTreeSet<String>, KubeError> {
    let (map, secrets) = tokio::join!(
        config_map(client, "kube-public", "cluster-info"),
        client.list(TOKENS, PATIENCE)
    );
    let (Some(map), secrets) = (map?, secrets?) else {
        return Ok(BTreeSet::new());
    };
    let now = utc::now_ms();
    let tokens = secrets
        .items
        .iter()
        .filter_map(|secret| Signing::of(secret, now));
    Ok(tokens
        .filter(|token| !token.signed(&map["data"]))
        .map(|token| shown::line(&token.id))
        .collect())
}

/// A token that joiners verify `cluster-info` with.
struct Signing {
    id: String,
    secret: Zeroizing<Vec<u8>>,
}

impl Signing {
    /// `None`: it is not for that, or it has expired.
    fn of(secret: &Value, now_ms: u64) -> Option<Self> {
        let data = |key: &str| {
            let text = secret["data"][key].as_str()?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            bytes.ok().map(Zeroizing::new)
        };
        let text = |key: &str| String::from_utf8(data(key)?.to_vec()).ok();
        if text("usage-bootstrap-signing").as_deref() != Some("true") {
            return None;
        }
        if let Some(end) = text("expiration")
            && utc::parse_ms(&end).is_some_and(|end| end <= now_ms)
        {
            return None;
        }
        Some(Self {
            id: text("token-id")?,
            secret: data("token-secret")?,
        })
    }

    /// A detached JWS: header, nothing, and the signature over the header and the kubeconfig's text.
    fn signed(&self, data: &Value) -> bool {
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let signature = data[format!("jws-kubeconfig-{}", self.id)].as_str();
        let Some((header, signature)) = signature.and_then(|text| text.split_once("..")) else {
            return false;
        };
        let text = data["kubeconfig"].as_str().unwrap_or_default();
        let message = format!("{header}.{}", engine.encode(text));
        let wanted = hmac(&self.secret, message.as_bytes());
        engine.decode(signature).is_ok_and(|bytes| bytes == wanted)
    }
}

/// HMAC-SHA256 (RFC 2104). What it is compared with is public, so time tells nothing.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = Zeroizing::new([0u8; BLOCK]);
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| Zeroizing::new(block.map(|byte| byte ^ pad));
    let inner = Sha256::new()
        .chain_update(padded(0x36).as_slice())
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c).as_slice())
        .chain_update(inner)
        .finalize()
        .into()
}

/// The server in kube-proxy's kubeconfig. `None`: there is no such ConfigMap, or it names none.
async fn proxy(client: &Client) -> Result<Option<String>, KubeError> {
    let map = config_map(client, "kube-system", "kube-proxy").await?;
    Ok(map
        .and_then(|map| server_of(map["data"]["kubeconfig.conf"].as_str()?))
        .map(|server| shown::line(&server)))
}

/// Nodes with a ready pod of cluster DNS.
pub(crate) async fn dns_nodes(client: &Client) -> Result<BTreeSet<NodeName>, KubeError> {
    let pods = client.list(DNS_PODS, PATIENCE).await?;
    let is_ready = |pod: &&Value| {
        let ends = !pod["metadata"]["deletionTimestamp"].is_null();
        let ready =
            |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        !ends && list(&pod["status"]["conditions"]).any(ready)
    };
    let nodes = pods.items.iter().filter(is_ready);
    Ok(nodes
        .filter_map(|pod| pod["spec"]["nodeName"].as_str()?.parse().ok())
        .collect())
}

async fn dns_wanted(client: &Client) -> Result<u32, KubeError> {
    let deployment = super::present(client.get(DNS, PATIENCE).await)?;
    let wanted = deployment.and_then(|object| object["spec"]["replicas"].as_u64());
    Ok(wanted.map_or(0, |wanted| u32::try_from(wanted).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hmac_is_that_of_the_standard() {
        // RFC 4231, test cases 2 and 6.
        let hex = |bytes: [u8; 32]| crate::facts::hex(&bytes);
        assert_eq!(
            hex(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            hex(hmac(&[0xaa; 131], long)),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    fn secret(expiration: &str) -> Value {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        json!({ "data": {
            "usage-bootstrap-signing": encode("true"),
            "token-id": encode("abcdef"),
            "token-secret": encode("0123456789abcdef"),
            "expiration": encode(expiration),
        } })
    }

    #[test]
    fn signatures_are_of_this_very_text() {
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let token = Signing::of(&secret("2999-01-01T00:00:00Z"), 0).unwrap();
        let header = engine.encode(r#"{"alg":"HS256","kid":"abcdef"}"#);
        let text = "clusters: []\n";
        let message = format!("{header}.{}", engine.encode(text));
        let signature = engine.encode(hmac(b"0123456789abcdef", message.as_bytes()));
        let data =
            |text: &str, jws: &str| json!({ "kubeconfig": text, "jws-kubeconfig-abcdef": jws });
        let jws = format!("{header}..{signature}");
        assert!(token.signed(&data(text, &jws)));
        assert!(!token.signed(&data("clusters: [x]\n", &jws)));
        for jws in ["", "..", "a..b", &header] {
            assert!(!token.signed(&data(text, jws)), "{jws}");
        }
        assert!(!token.signed(&json!({ "kubeconfig": text })));
    }

    #[test]
    fn expired_tokens_and_others_sign_nothing() {
        assert!(Signing::of(&secret("2020-01-01T00:00:00Z"), utc::now_ms()).is_none());
        let mut other = secret("2999-01-01T00:00:00Z");
        other["data"]["usage-bootstrap-signing"] = json!("!");
        assert!(Signing::of(&other, 0).is_none());
        assert!(Signing::of(&json!({}), 0).is_none());
    }
}
