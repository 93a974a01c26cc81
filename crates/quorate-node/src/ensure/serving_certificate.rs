//! The apiserver of this host serves a certificate with all names, or the one that was kept. It reads a pair that was renamed into place by
//! itself, a fifth of a second later: nothing is restarted, and connections that are open stay.
//!
//! kubeadm keeps a certificate that is there and ends well all the same, so it issues aside, and only what is served counts.

use std::{fs, path::Path};

use quorate_plan::kubeadm::{ClusterSettings, Peer};

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work, apiserver, backed_up::file_of};
use crate::{
    durable::{self, FileError},
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
    paths::Paths,
    shown,
};

/// Of kubeadm: the certificate is public, its key is not.
const MODES: [(&str, u32); 2] = [("key", 0o600), ("crt", 0o644)];

/// What the certificate is issued from.
const AUTHORITY: [&str; 2] = ["ca.crt", "ca.key"];

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let paths = work.paths;
    if !has_names(&paths.pki("apiserver.crt"), settings, node)? {
        let staging = paths.kubernetes(".quorate-serving");
        durable::remove_folder(&staging)?;
        durable::private_folder(&staging)?;
        for name in AUTHORITY {
            let (from, to) = (paths.pki(name), staging.join(name));
            fs::hard_link(&from, &to).map_err(FileError::new("link", &to))?;
        }
        let extra = Extra {
            certificates: Some(&staging),
            ..Extra::default()
        };
        Kubeadm::new(paths, work.tools, settings, node, &extra, TOOL_WITHIN)?
            .phase(&["certs", "apiserver"])
            .await?;
        if !has_names(&staging.join("apiserver.crt"), settings, node)? {
            return Err(ActionError::unexpected(
                "kubeadm to issue a certificate with all names",
                "some are missing from it",
                "look whether this host's kubeadm is the cluster's version",
            ));
        }
        put(paths, &staging)?;
        durable::remove_folder(&staging)?;
        work.progress.say("issued apiserver.crt");
    }
    served(work, node).await
}

/// The pair that was kept comes back.
pub(super) async fn keep(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    let paths = work.paths;
    let kept = file_of(paths, "/etc/kubernetes/pki");
    let (was, is) = (
        facts::certificate_digest(&kept.join("apiserver.crt"))?,
        facts::certificate_digest(&paths.pki("apiserver.crt"))?,
    );
    if was.is_some() && was != is {
        let staging = paths.kubernetes(".quorate-serving");
        durable::remove_folder(&staging)?;
        durable::private_folder(&staging)?;
        for (end, _) in MODES {
            let name = format!("apiserver.{end}");
            let to = staging.join(&name);
            fs::copy(kept.join(&name), &to).map_err(FileError::new("copy", &to))?;
        }
        put(paths, &staging)?;
        durable::remove_folder(&staging)?;
    }
    served(work, node).await
}

fn has_names(path: &Path, settings: &ClusterSettings, node: &Peer) -> Result<bool, FileError> {
    let own = [node.name.to_string(), node.address.to_string()];
    let certificate = facts::read_certificate(path)?;
    Ok(certificate.is_some_and(|certificate| {
        let mut wanted = settings.sans.iter().chain(&own);
        wanted.all(|name| certificate.sans.contains(name))
    }))
}

/// Renames a staged pair into place, the key first: while the two do not fit the apiserver goes on with the old ones.
fn put(paths: &Paths, staging: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt as _;
    for (end, mode) in MODES {
        let name = format!("apiserver.{end}");
        let from = staging.join(&name);
        fs::set_permissions(&from, fs::Permissions::from_mode(mode))
            .map_err(FileError::new("set the mode of", &from))?;
        let file = fs::File::open(&from).map_err(FileError::new("read", &from))?;
        file.sync_all().map_err(FileError::new("sync", &from))?;
        durable::rename(&from, &paths.pki(&name))?;
    }
    Ok(())
}

/// Waits until what lies here is what is served.
async fn served(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    let address = apiserver(node);
    let wanted = facts::certificate_digest(&work.paths.pki("apiserver.crt"))?;
    work.wait("the apiserver to serve the new certificate", || async {
        match facts::served_digest(work.paths, address, ANSWER_WITHIN).await {
            Ok(served) if Some(&served) == wanted.as_ref() => Ok(()),
            Ok(_) => Err("it serves another".into()),
            Err(err) => Err(shown::line(&shown::chain(&err))),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{kubeadm::tests::settings, testing};

    fn certificate(names: &[&str]) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn every_name_has_to_be_in_it() {
        let machine = testing::machine();
        let node = Peer {
            name: "cp-1".parse().unwrap(),
            address: "10.0.0.11".parse().unwrap(),
        };
        let path = machine.paths.pki("apiserver.crt");
        let has = || has_names(&path, &settings(), &node).unwrap();
        assert!(!has(), "there is none");
        machine.write(
            "/etc/kubernetes/pki/apiserver.crt",
            certificate(&["cp-1", "10.0.0.11"]),
        );
        assert!(!has());
        let all = ["cp-1", "10.0.0.11", "api.demo.internal"];
        machine.write("/etc/kubernetes/pki/apiserver.crt", certificate(&all));
        assert!(has());
    }

    #[test]
    fn a_pair_is_put_with_kubeadms_modes_whatever_it_was_staged_with() {
        let machine = testing::machine();
        machine.write("/etc/kubernetes/.quorate-serving/apiserver.crt", "crt");
        machine.write("/etc/kubernetes/.quorate-serving/apiserver.key", "key");
        machine.write("/etc/kubernetes/pki/apiserver.crt", "old");
        put(
            &machine.paths,
            &machine.paths.kubernetes(".quorate-serving"),
        )
        .unwrap();
        assert_eq!(machine.read("/etc/kubernetes/pki/apiserver.crt"), "crt");
        assert_eq!(machine.read("/etc/kubernetes/pki/apiserver.key"), "key");
        for (end, mode) in MODES {
            let path = machine.paths.pki(&format!("apiserver.{end}"));
            let there = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(there & 0o7777, mode);
        }
    }
}
