//! The kubelet runs with kubeadm's configuration, rotates its own certificate, and starts at boot.
//!
//! kubeadm has it start with the certificate inside kubelet.conf, then points kubelet.conf at the rotated one and restarts it (`kubeadm init
//! phase kubelet-finalize`). Pods that are assigned around that restart may wait for minutes. Here it starts as it will go on.

use std::{os::unix::fs::symlink, path::Path};

use base64::Engine as _;
use quorate_plan::kubeadm::{ClusterSettings, Peer};
use zeroize::Zeroizing;

use super::{TOOL_WITHIN, Work, certificates::issued_here};
use crate::{
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    kubeadm::{Extra, Kubeadm},
    paths::Paths,
    shown, utc,
};

/// Where the kubelet keeps its certificate and key: a link to the newest pair.
const CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

const CERTIFICATE_DATA: &str = "client-certificate-data:";
const KEY_DATA: &str = "client-key-data:";

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    rotating(work.paths)?;
    let extra = Extra::default();
    Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?
        .phase(&["kubelet-start"])
        .await?;
    start(work).await
}

/// Moves certificate and key out of kubelet.conf to where the kubelet keeps, and from now on replaces, them.
fn rotating(paths: &Paths) -> Result<(), ActionError> {
    let path = paths.kubernetes("kubelet.conf");
    let text = Zeroizing::new(durable::read_text(&path)?.unwrap_or_default());
    let (Some(certificate), Some(key)) = (
        embedded(&path, &text, CERTIFICATE_DATA)?,
        embedded(&path, &text, KEY_DATA)?,
    ) else {
        return Ok(());
    };
    let current = paths.at(CURRENT);
    // A pair that the kubelet has renewed is newer than ours; one of an earlier life of this host is of another CA.
    let of_this_ca = match durable::read(&current)? {
        Some(pair) => issued_here(paths, &pair, "ca.crt")?,
        None => false,
    };
    if !of_this_ca {
        let name = format!("kubelet-client-{}.pem", utc::stamp(utc::now()));
        let pair = current.with_file_name(name);
        let both = Zeroizing::new([certificate.as_slice(), key.as_slice()].concat());
        durable::write(&pair, &both, 0o600)?;
        let new = current.with_file_name(".kubelet-client.quorate-new");
        durable::remove(&new)?;
        symlink(&pair, &new).map_err(FileError::new("link", &new))?;
        durable::rename(&new, &current)?;
    }
    let text = Zeroizing::new(pointing(&text));
    Ok(durable::write(&path, text.as_bytes(), 0o600)?)
}

/// What a line of a kubeconfig holds in base64. `None`: there is no such line.
fn embedded(path: &Path, text: &str, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let Some(data) = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(key))
    else {
        return Ok(None);
    };
    base64::engine::general_purpose::STANDARD
        .decode(data.trim())
        .map(|bytes| Some(Zeroizing::new(bytes)))
        .map_err(|_| FileError::senseless(path, "its certificate or key is not base64"))
}

/// The same kubeconfig with the kubelet's file in place of certificate and key.
fn pointing(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        if trimmed.starts_with(CERTIFICATE_DATA) {
            out.push_str(&format!("{indent}client-certificate: {CURRENT}\n"));
        } else if trimmed.starts_with(KEY_DATA) {
            out.push_str(&format!("{indent}client-key: {CURRENT}\n"));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// kubeadm does not say whether the kubelet started.
pub(super) async fn start(work: &Work<'_>) -> Result<(), ActionError> {
    let enable = ["enable", "--now", "kubelet.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(enable))
        .await?;
    work.wait("the kubelet to run", || async {
        let show = ["is-active", "kubelet.service"];
        match work
            .tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(show))
            .await
        {
            Ok(_) => Ok(()),
            Err(err) => Err(shown::chain(&err)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing;

    /// A CA, and what it issues to a kubelet.
    fn authority() -> (String, impl Fn() -> String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let issue = move || {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.use_authority_key_identifier_extension = true;
            params.signed_by(&key, &issuer).unwrap().pem()
        };
        (pem, issue)
    }

    fn kubeconfig(certificate: &str) -> String {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        format!(
            "users:\n- name: system:node:cp-1\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            encode(certificate),
            encode("KEY\n")
        )
    }

    const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";

    #[test]
    fn the_pair_moves_to_where_the_kubelet_renews_it() {
        let machine = testing::machine();
        rotating(&machine.paths).unwrap();
        let (ca, issue) = authority();
        machine.write("/etc/kubernetes/pki/ca.crt", &ca);
        let first = issue();
        machine.write(KUBECONFIG, kubeconfig(&first));
        rotating(&machine.paths).unwrap();
        assert_eq!(machine.read(CURRENT), format!("{first}KEY\n"));
        let current = machine.paths.at(CURRENT);
        assert!(current.is_symlink(), "the kubelet replaces links only");
        let mode = std::fs::metadata(&current).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let config = machine.read(KUBECONFIG);
        assert!(!config.contains("-data:"), "{config}");
        assert!(
            config.contains(&format!("client-key: {CURRENT}")),
            "{config}"
        );
        rotating(&machine.paths).unwrap();
        assert_eq!(machine.read(KUBECONFIG), config);

        // Killed before kubelet.conf was written: what is there by then stays.
        machine.write(KUBECONFIG, kubeconfig(&first));
        let renewed = issue();
        std::fs::write(&current, &renewed).unwrap();
        rotating(&machine.paths).unwrap();
        assert_eq!(machine.read(CURRENT), renewed);
        assert_eq!(machine.read(KUBECONFIG), config);

        // An earlier life of this host.
        let (ca, issue) = authority();
        machine.write("/etc/kubernetes/pki/ca.crt", &ca);
        let second = issue();
        machine.write(KUBECONFIG, kubeconfig(&second));
        rotating(&machine.paths).unwrap();
        assert_eq!(machine.read(CURRENT), format!("{second}KEY\n"));
    }

    #[test]
    fn garbage_is_not_moved() {
        let machine = testing::machine();
        machine.write(
            KUBECONFIG,
            "client-certificate-data: !\nclient-key-data: !\n",
        );
        assert!(rotating(&machine.paths).is_err());
        assert!(!machine.paths.at(CURRENT).exists());
    }
}
