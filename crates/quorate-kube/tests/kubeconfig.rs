//! Kubeconfig files as kubeadm writes them, and those that cannot be used.

use std::path::Path;

use quorate_kube::{Credentials, Kubeconfig, KubeconfigError};

const ADMIN: &str = r"
apiVersion: v1
kind: Config
preferences: {}
current-context: kubernetes-admin@kubernetes
clusters:
- name: other
  cluster: {server: https://10.0.0.9:6443}
- name: kubernetes
  cluster:
    certificate-authority-data: Q0E=
    server: https://api.demo.internal:6443
users:
- name: kubernetes-admin
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: U0VDUkVU
contexts:
- name: kubernetes-admin@kubernetes
  context: {cluster: kubernetes, user: kubernetes-admin}
";

fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    Kubeconfig::parse(text, Path::new("."))
}

#[test]
fn kubeadms_admin_conf_is_understood() {
    let config = parse(ADMIN).unwrap();
    assert_eq!(
        (config.server(), config.ca_pem(), config.namespace()),
        ("https://api.demo.internal:6443", &b"CA"[..], "default")
    );
    let Credentials::Certificate { cert_pem, key_pem } = config.credentials() else {
        panic!("{config:?}")
    };
    assert_eq!(
        (cert_pem.as_slice(), key_pem.as_slice()),
        (&b"CERT"[..], &b"SECRET"[..])
    );
    assert!(!format!("{config:?}").contains("SECRET"));
}

#[test]
fn files_are_found_beside_the_kubeconfig() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("pki")).unwrap();
    write("pki/ca.crt", "CA FILE");
    write("pki/token", "  abc\n");
    write(
        "kubelet.conf",
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u, namespace: kube-system}}]\n\
         clusters: [{name: k, cluster: {server: 'https://10.0.0.1:6443', certificate-authority: pki/ca.crt, tls-server-name: api.test}}]\n\
         users: [{name: u, user: {tokenFile: pki/token}}]\n",
    );
    let config = Kubeconfig::load(&folder.path().join("kubelet.conf")).unwrap();
    assert_eq!(
        (config.ca_pem(), config.namespace()),
        (&b"CA FILE"[..], "kube-system")
    );
    assert!(matches!(config.credentials(), Credentials::Token(token) if token.as_str() == "abc"));
    assert!(matches!(
        config.anonymous().credentials(),
        Credentials::None
    ));
    std::fs::remove_file(folder.path().join("pki/ca.crt")).unwrap();
    let err = Kubeconfig::load(&folder.path().join("kubelet.conf")).unwrap_err();
    assert!(
        matches!(&err, KubeconfigError::Read { path, .. } if path.ends_with("pki/ca.crt")),
        "{err:?}"
    );
}

#[test]
fn what_cannot_be_used_is_named_without_showing_secrets() {
    let cases = [
        (
            ADMIN.replace("current-context: kubernetes-admin@kubernetes", ""),
            "has no current-context",
        ),
        (
            ADMIN.replace("current-context: kube", "current-context: cube"),
            "has no context of the name",
        ),
        (
            ADMIN.replace("- name: kubernetes-admin\n", "- name: somebody\n"),
            "has no user of the name",
        ),
        (
            ADMIN.replace("cluster: kubernetes,", "cluster: lost,"),
            "has no cluster of the name",
        ),
        (
            ADMIN.replace("    client-key-data: U0VDUkVU\n", ""),
            "has no client-key",
        ),
        (
            ADMIN.replace("U0VDUkVU", "'U0VDUkVU!'"),
            "client-key-data is not usable: it is not base64",
        ),
        (
            ADMIN.replace("    client-key-data: U0VDUkVU", "    exec: {command: aws}"),
            "`exec`, which is not supported",
        ),
        (
            ADMIN.replace(
                "    certificate-authority-data: Q0E=",
                "    insecure-skip-tls-verify: true",
            ),
            "`insecure-skip-tls-verify`, which is not supported",
        ),
        (ADMIN.replace("U0VDUkVU", "[U0VDUkVU]"), "line 17"),
        (
            ADMIN.replace("client-key-data: U0VDUkVU", "client-key-data: \"U0VDUkVU"),
            "not a kubeconfig",
        ),
    ];
    for (text, said) in cases {
        let err = parse(&text).unwrap_err();
        assert!(err.to_string().contains(said), "{err} should say {said:?}");
        assert!(!format!("{err} {err:?}").contains("U0VDUkVU"), "{err:?}");
    }
}
