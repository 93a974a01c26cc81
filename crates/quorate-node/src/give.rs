//! What this host gives another one, sealed to it. Start at [`give`].

use std::time::{Duration, Instant};

use quorate_kube::Client;
use quorate_plan::{Handover, Sealed, admit::Recipient};
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::{
    clients,
    durable::{self, FileError},
    error::ActionError,
    facts,
    paths::Paths,
    seal::{CA_FILES, CaSet, ClusterCa, JoinToken, seal},
    shown,
    token::{self, Token},
};

/// How long one answer of the API may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the controller manager may take to sign `cluster-info` for a new token. It takes a fraction of a second; where it was just
/// elected, some seconds.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked for the signature.
const POLL: Duration = Duration::from_millis(100);

/// Seals what is asked for to the recipient.
///
/// # Errors
/// When this host does not have it, or cannot make it.
pub(crate) async fn give(
    paths: &Paths,
    what: &Handover,
    to: &Recipient,
) -> Result<Sealed, ActionError> {
    let mark = facts::mark(paths)?;
    if mark.as_ref().map(|mark| &mark.node) != Some(what.from()) {
        return Err(ActionError::unexpected(
            format!("to be asked for what {} gives", what.from()),
            match mark {
                Some(mark) => format!("this is {}", mark.node),
                None => "this host has no name in a cluster".to_owned(),
            },
            "look at the address of that host in the cluster file",
        ));
    }
    Ok(match what {
        Handover::CaSet { .. } => seal(&ca_set(paths)?, to)?,
        Handover::ClusterCa { .. } => {
            let pem = Zeroizing::new(needed(paths, "ca.crt")?);
            seal(&ClusterCa { pem }, to)?
        }
        Handover::JoinToken { .. } => seal(&join_token(paths).await?, to)?,
    })
}

fn ca_set(paths: &Paths) -> Result<CaSet, ActionError> {
    let mut files = Vec::new();
    for name in CA_FILES {
        files.push((name, Zeroizing::new(needed(paths, name)?)));
    }
    Ok(CaSet { files })
}

fn needed(paths: &Paths, name: &str) -> Result<Vec<u8>, FileError> {
    let path = paths.pki(name);
    durable::read(&path)?
        .ok_or_else(|| FileError::new("read", &path)(std::io::ErrorKind::NotFound.into()))
}

async fn join_token(paths: &Paths) -> Result<JoinToken, ActionError> {
    let ca_hash = facts::public_key_hash(&paths.pki("ca.crt"), &needed(paths, "ca.crt")?)?;
    let manifests = facts::manifests(paths)?;
    let address = clients::apiserver_address(&manifests).ok_or_else(|| {
        ActionError::unexpected(
            "an apiserver on this host",
            "no kube-apiserver.yaml with an --advertise-address",
            "run `quorate status` to see which hosts are masters",
        )
    })?;
    let client = clients::api(paths, "admin.conf", address)?;
    let token = Token::generate()?;
    token
        .publish(&client, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("making a bootstrap token"))?;
    if let Err(err) = signed(&client, token.id()).await {
        // It would be of no use to anybody; it ends by itself where this fails too.
        let _ = token::withdraw(&client, token.id(), ANSWER_WITHIN).await;
        return Err(err);
    }
    Ok(JoinToken {
        token: token.reveal().clone(),
        ca_hash,
    })
}

/// A join that begins before `cluster-info` is signed for its token waits five seconds more.
async fn signed(client: &Client, id: &str) -> Result<(), ActionError> {
    let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    let signature = format!("jws-kubeconfig-{id}");
    let started = Instant::now();
    loop {
        let seen = match client.get(path, ANSWER_WITHIN).await {
            Ok(map) if map["data"][&signature].is_string() => return Ok(()),
            Ok(_) => "cluster-info without it".to_owned(),
            Err(err) => shown::line(&shown::chain(&err)),
        };
        if started.elapsed() >= SIGNED_WITHIN {
            return Err(ActionError::Late {
                what: "the controller manager to sign cluster-info for a new token".to_owned(),
                waited_s: started.elapsed().as_secs(),
                seen,
            });
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{seal, testing};

    #[tokio::test]
    async fn the_ca_set_reaches_its_receiver_and_nobody_else() {
        let machine = testing::machine();
        let receiver = seal::Identity::generate();
        let what = Handover::CaSet {
            from: "cp-1".parse().unwrap(),
        };
        let asked = async || give(&machine.paths, &what, &receiver.recipient()).await;
        let err = asked().await.unwrap_err();
        assert!(err.to_string().contains("no name in a cluster"), "{err}");
        machine.write(
            "/var/lib/quorate/mark.json",
            r#"{"cluster":"demo","node":"cp-1","disposable":true}"#,
        );
        let err = asked().await.unwrap_err();
        assert!(matches!(err, ActionError::File(_)), "{err}");
        for name in CA_FILES {
            machine.write(&format!("/etc/kubernetes/pki/{name}"), name);
        }
        let sealed = asked().await.unwrap();
        let set: CaSet = seal::open(&receiver, &[sealed]).ok().unwrap();
        assert!(
            set.files
                .iter()
                .all(|(name, bytes)| bytes.as_slice() == name.as_bytes())
        );
        let other = Handover::ClusterCa {
            from: "cp-2".parse().unwrap(),
        };
        let err = give(&machine.paths, &other, &receiver.recipient())
            .await
            .unwrap_err();
        assert!(err.to_string().contains("this is cp-1"), "{err}");
    }
}
