//! Fetching from a mirror on loopback: a good one, and every way a bad one can be bad.

mod mirror;

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use self::mirror::{Answer, BIN, Mirror, complete};
use super::*;
use crate::bundle::{Bundle, BundleError};
use crate::verify::verify;

struct Lab {
    mirror: Mirror,
    out: TempDir,
}

impl Lab {
    async fn new() -> Self {
        let mirror = Mirror::start(None).await;
        complete(&mirror);
        Self {
            mirror,
            out: tempfile::tempdir().unwrap(),
        }
    }

    async fn fetch(&self) -> Result<FetchReport, FetchError> {
        self.fetch_with(None).await
    }

    async fn fetch_with(&self, ca: Option<&Path>) -> Result<FetchReport, FetchError> {
        let url = self.mirror.url();
        let request = FetchRequest {
            kubernetes: "1.35.4".parse().unwrap(),
            arch: Arch::Amd64,
            mirror: &url,
            registry: None,
            ca,
            out: self.out.path(),
        };
        let report = fetch(&request, &mut |_| {}).await?;
        assert_eq!(verify(self.out.path(), &mut |_| {}).unwrap(), []);
        Ok(report)
    }

    /// Fetches and expects an error, after which there is no bundle; then mends the mirror and expects one.
    async fn fails_then_works(&self, path: &str, spoil: impl FnOnce(&mut Answer)) -> FetchError {
        for entry in std::fs::read_dir(self.out.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
        }
        let mut good = None;
        self.mirror.change(path, |answer| {
            good = Some(answer.clone());
            spoil(answer);
        });
        let err = self.fetch().await.unwrap_err();
        assert!(err.to_string().contains(path), "{err}");
        assert!(matches!(
            Bundle::open(self.out.path()),
            Err(BundleError::Unfinished(_) | BundleError::Absent(_))
        ));
        self.mirror.asked();
        self.mirror.put(path, good.unwrap());
        self.fetch().await.unwrap();
        err
    }

    fn blob_of(&self, image: &str, starts: &str) -> String {
        let prefix = format!("/v2/{image}/blobs/");
        let mut found = None;
        for path in self
            .mirror
            .paths()
            .into_iter()
            .filter(|path| path.starts_with(&prefix))
        {
            self.mirror.change(&path, |answer| {
                if answer.body.starts_with(starts.as_bytes()) {
                    found = Some(path.clone());
                }
            });
        }
        found.unwrap()
    }

    fn manifest_of(&self, image: &str) -> String {
        let prefix = format!("/v2/{image}/manifests/sha256:");
        self.mirror
            .paths()
            .into_iter()
            .find(|path| path.starts_with(&prefix))
            .unwrap()
    }
}

#[tokio::test]
async fn a_good_mirror_gives_a_whole_bundle() {
    let lab = Lab::new().await;
    let report = lab.fetch().await.unwrap();
    let bundle = Bundle::open(lab.out.path()).unwrap();
    assert_eq!(bundle.id(), report.id);
    assert_eq!(bundle.missing(), []);
    assert_eq!(bundle.images().count(), 8);
    assert_eq!(
        bundle.image(ImageRole::Coredns).unwrap().reference,
        "quorate.local/coredns:v1.13.1"
    );
    let objects = bundle.flannel_objects("10.1.0.0/16").unwrap();
    assert!(
        objects.contains("image: quorate.local/flannel:") && objects.contains("10.1.0.0/16"),
        "{objects}"
    );
    assert!(!objects.contains("${"), "{objects}");

    // The archive is an OCI layout whose index leads to every blob.
    let archive = std::fs::read(bundle.image(ImageRole::Etcd).unwrap().archive).unwrap();
    let mut blobs = BTreeMap::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        blobs.insert(entry.path().unwrap().to_str().unwrap().to_owned(), bytes);
    }
    let get = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &blobs[&format!("blobs/sha256/{hex}")];
        assert_eq!(Sha256::of(bytes).to_string(), hex);
        bytes
    };
    let index: Value = serde_json::from_slice(&blobs["index.json"]).unwrap();
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "quorate.local/etcd:3.6.6-0"
    );
    let manifest: Value = serde_json::from_slice(get(&entry["digest"])).unwrap();
    assert_eq!(entry["mediaType"], manifest["mediaType"]);
    get(&manifest["config"]["digest"]);
    for layer in manifest["layers"].as_array().unwrap() {
        get(&layer["digest"]);
    }
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let lab = Lab::new().await;
    let first = lab.fetch().await.unwrap();
    lab.mirror.asked();
    let second = lab.fetch().await.unwrap();
    assert_eq!(first.id, second.id);
    assert!(
        second
            .files
            .values()
            .all(|outcome| *outcome == Outcome::Unchanged),
        "{:?}",
        second.files
    );
    for asked in lab.mirror.asked() {
        assert!(
            asked.path.ends_with(".sha256") || asked.path.contains("/manifests/"),
            "{}",
            asked.path
        );
    }

    // Another build of a program on the mirror: only that one.
    lab.mirror.put(&format!("{BIN}/kubectl"), Answer::ok("new"));
    lab.mirror.put(
        &format!("{BIN}/kubectl.sha256"),
        Answer::ok(Sha256::of(b"new").to_string()),
    );
    let third = lab.fetch().await.unwrap();
    let fetched: Vec<_> = third
        .files
        .iter()
        .filter(|(_, outcome)| **outcome == Outcome::Fetched)
        .map(|(p, _)| p.as_str())
        .collect();
    assert_eq!(fetched, ["bin/kubectl"]);
}

#[tokio::test]
async fn a_corrupted_program_is_thrown_away() {
    let lab = Lab::new().await;
    let err = lab
        .fails_then_works(&format!("{BIN}/kubelet"), |answer| answer.body[777] ^= 1)
        .await;
    assert!(matches!(err, FetchError::Digest { .. }), "{err}");
    // Fetched from its start: what was thrown away is not continued.
    let asked = lab.mirror.asked();
    let again = asked
        .iter()
        .find(|asked| asked.path.ends_with("/kubelet"))
        .unwrap();
    assert_eq!(again.headers.get("range"), None);
    // What came before it was kept.
    assert!(!asked.iter().any(|asked| asked.path.ends_with("/kubeadm")));
}

#[tokio::test]
async fn a_truncated_program_is_continued() {
    let lab = Lab::new().await;
    let err = lab
        .fails_then_works(&format!("{BIN}/kubeadm"), |answer| answer.cut = Some(1234))
        .await;
    assert!(
        matches!(
            err,
            FetchError::Truncated {
                expected: 40_000,
                found: 1234,
                ..
            }
        ),
        "{err}"
    );
    let asked = lab.mirror.asked();
    let again = asked
        .iter()
        .find(|asked| asked.path.ends_with("/kubeadm"))
        .unwrap();
    assert_eq!(
        again.headers.get("range").map(String::as_str),
        Some("bytes=1234-")
    );
}

#[tokio::test]
async fn a_truncated_layer_is_continued_even_where_ranges_are_ignored() {
    for ranges in [true, false] {
        let lab = Lab::new().await;
        let layer = lab.blob_of("kube-proxy", "layer of");
        lab.mirror.change(&layer, |answer| answer.ranges = ranges);
        let err = lab
            .fails_then_works(&layer, |answer| answer.cut = Some(5000))
            .await;
        assert!(
            matches!(err, FetchError::Truncated { found: 5000, .. }),
            "{err}"
        );
    }
}

#[tokio::test]
async fn what_must_be_there_is_named_when_it_is_not() {
    for path in [
        format!("{BIN}/kubectl"),
        format!("{BIN}/kubectl.sha256"),
        "/v2/pause/manifests/3.10.1".into(),
    ] {
        let lab = Lab::new().await;
        let err = lab
            .fails_then_works(&path, |answer| answer.status = 404)
            .await;
        assert!(matches!(err, FetchError::Status { .. }), "{err}");
        assert!(err.to_string().contains("404"), "{err}");
    }
}

#[tokio::test]
async fn what_only_private_mirrors_have_may_be_absent() {
    let lab = Lab::new().await;
    lab.mirror.remove(&format!("{BIN}/containerd.sha256"));
    lab.mirror
        .remove(&format!("/v2/flannel-io/flannel/manifests/{FLANNEL_TAG}"));
    let report = lab.fetch().await.unwrap();
    let absent: Vec<_> = report
        .files
        .iter()
        .filter(|(_, outcome)| **outcome == Outcome::Absent)
        .map(|(p, _)| p.as_str())
        .collect();
    assert_eq!(absent, ["bin/containerd", "images/flannel.tar"]);
    let bundle = Bundle::open(lab.out.path()).unwrap();
    let missing: Vec<String> = bundle.missing().iter().map(ToString::to_string).collect();
    assert_eq!(
        missing,
        [
            "bin/containerd",
            "images/flannel.tar",
            "manifests/kube-flannel.yml"
        ]
    );

    // An error that is no "not found" is never taken for an absence.
    lab.mirror.put(
        &format!("{BIN}/containerd.sha256"),
        Answer {
            status: 503,
            ..Answer::ok("busy")
        },
    );
    assert!(matches!(lab.fetch().await, Err(FetchError::Status { .. })));
}

#[tokio::test]
async fn wrong_digests_are_refused() {
    let lab = Lab::new().await;
    // A layer with one bit changed, of the right length.
    let layer = lab.blob_of("etcd", "layer of");
    let err = lab
        .fails_then_works(&layer, |answer| answer.body[9] ^= 4)
        .await;
    assert!(matches!(err, FetchError::Digest { .. }), "{err}");
    // A manifest that is not the one the index names.
    let manifest = lab.manifest_of("kube-scheduler");
    let err = lab
        .fails_then_works(&manifest, |answer| answer.body.push(b' '))
        .await;
    assert!(matches!(err, FetchError::Digest { .. }), "{err}");
    // An index that is not the one the registry announces.
    let err = lab
        .fails_then_works("/v2/kube-apiserver/manifests/v1.35.4", |answer| {
            answer.body.push(b' ')
        })
        .await;
    assert!(matches!(err, FetchError::Digest { .. }), "{err}");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let lab = Lab::new().await;
    let sum = format!("{BIN}/kubeadm.sha256");
    let err = lab
        .fails_then_works(&sum, |answer| answer.body = b"<html>\x1b[31mlogin".to_vec())
        .await;
    assert!(matches!(err, FetchError::ChecksumFile { .. }), "{err}");
    assert!(!err.to_string().contains('\u{1b}'), "{err}");
    let err = lab
        .fails_then_works(&sum, |answer| answer.body = vec![b'0'; 1 << 20])
        .await;
    assert!(matches!(err, FetchError::TooLong { .. }), "{err}");

    let index = "/v2/coredns/coredns/manifests/v1.13.1";
    let err = lab
        .fails_then_works(index, |answer| {
            let text = String::from_utf8(answer.body.clone())
                .unwrap()
                .replace("amd64", "s390x");
            answer.headers.clear();
            answer.body = text.into_bytes();
        })
        .await;
    assert!(
        err.to_string().contains("no variant for linux/amd64"),
        "{err}"
    );
    let err = lab
        .fails_then_works(index, |answer| answer.body = b"[]".to_vec())
        .await;
    assert!(matches!(err, FetchError::Digest { .. }), "{err}");

    // A layer longer than announced: nothing beyond the announced size is taken.
    let lab = Lab::new().await;
    let layer = lab.blob_of("pause", "layer of");
    let err = lab
        .fails_then_works(&layer, |answer| answer.body.extend(b"more"))
        .await;
    assert!(matches!(err, FetchError::TooLong { .. }), "{err}");
}

#[tokio::test]
async fn a_registry_may_ask_for_an_anonymous_token_and_send_blobs_elsewhere() {
    let lab = Lab::new().await;
    let storage = Mirror::start(None).await;
    lab.mirror.put(
        "/token?service=mirror&scope=repository%3Ax%3Apull",
        Answer::ok("{\"token\":\"anonymous-1\"}"),
    );
    for path in lab
        .mirror
        .paths()
        .into_iter()
        .filter(|path| path.starts_with("/v2/"))
    {
        lab.mirror.change(&path, |answer| {
            if path.contains("/blobs/") {
                storage.put(&path, answer.clone());
                *answer = Answer::redirect(format!("{}{path}", storage.url()));
            }
            answer.token = Some("anonymous-1");
        });
    }
    lab.fetch().await.unwrap();
    let stored = storage.asked();
    assert!(!stored.is_empty());
    for asked in stored {
        assert_eq!(
            asked.headers.get("authorization"),
            None,
            "the token is for the registry only"
        );
    }

    lab.mirror.put(
        "/token?service=mirror&scope=repository%3Ax%3Apull",
        Answer::ok("{}"),
    );
    assert!(matches!(lab.fetch().await, Err(FetchError::Login { .. })));
}

#[tokio::test]
async fn a_failed_fetch_leaves_the_bundle_that_was_there() {
    let lab = Lab::new().await;
    let first = lab.fetch().await.unwrap();
    lab.mirror.put(
        &format!("{BIN}/kubeadm.sha256"),
        Answer::ok(Sha256::of(b"other").to_string()),
    );
    assert!(matches!(lab.fetch().await, Err(FetchError::Digest { .. })));
    assert_eq!(Bundle::open(lab.out.path()).unwrap().id(), first.id);
    assert_eq!(
        Bundle::open(lab.out.path())
            .unwrap()
            .manifest()
            .kubernetes
            .to_string(),
        "1.35.4"
    );
}

#[tokio::test]
async fn redirections_have_an_end() {
    let lab = Lab::new().await;
    let path = format!("{BIN}/kubeadm.sha256");
    let err = lab
        .fails_then_works(&path, |answer| {
            *answer = Answer::redirect(format!("{BIN}/kubeadm.sha256"))
        })
        .await;
    assert!(matches!(err, FetchError::Redirect { .. }), "{err}");
}

#[tokio::test]
async fn a_silent_port_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let out = tempfile::tempdir().unwrap();
    let request = FetchRequest {
        kubernetes: "1.35.4".parse().unwrap(),
        arch: Arch::Amd64,
        mirror: &format!("http://{address}"),
        registry: None,
        ca: None,
        out: out.path(),
    };
    let err = fetch(&request, &mut |_| {}).await.unwrap_err();
    assert!(
        err.to_string()
            .starts_with(&format!("cannot connect to http://{address}/release/")),
        "{err}"
    );
}

#[tokio::test]
async fn https_trusts_the_named_authority_only() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let mirror = Mirror::start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    complete(&mirror);
    let lab = Lab {
        mirror,
        out: tempfile::tempdir().unwrap(),
    };
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let err = lab
        .fetch_with(Some(&write("other.pem", &other.cert.pem())))
        .await
        .unwrap_err();
    assert!(matches!(err, FetchError::Connect { .. }), "{err}");
    let err = lab
        .fetch_with(Some(&write("empty.pem", "nothing")))
        .await
        .unwrap_err();
    assert!(matches!(err, FetchError::Ca { .. }), "{err}");
    lab.fetch_with(Some(&write("right.pem", &certified.cert.pem())))
        .await
        .unwrap();
}

#[test]
fn the_flannel_tag_is_the_one_of_the_sources() {
    let go_mod = include_str!("../../../../../bundle/flannel/go.mod");
    let version = crate::go_mod::required(go_mod, "github.com/flannel-io/flannel");
    assert_eq!(version.as_deref(), Some(FLANNEL_TAG));
}
