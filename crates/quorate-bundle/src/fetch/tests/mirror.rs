//! A mirror on loopback that serves the documented layout, and misbehaves where a test wants it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::digest::Sha256;

/// What a path answers.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub(super) cut: Option<usize>,
    /// Answer byte ranges.
    pub(super) ranges: bool,
    /// Ask for this token.
    pub(super) token: Option<&'static str>,
}

impl Answer {
    pub(super) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![],
            body: body.into(),
            cut: None,
            ranges: true,
            token: None,
        }
    }

    pub(super) fn redirect(to: String) -> Self {
        Self {
            status: 307,
            headers: vec![("location", to)],
            ..Self::ok("")
        }
    }
}

/// A request as it arrived: its path and its headers, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

/// A running mirror. It ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Mirror {
    pub(super) address: SocketAddr,
    pub(super) scheme: &'static str,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Mirror {
    pub(super) async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mirror = Self {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let serving = mirror.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (mirror, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => mirror.serve(tcp).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                mirror.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        mirror
    }

    pub(super) fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    pub(super) fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Answer)) {
        change(
            self.answers
                .lock()
                .unwrap()
                .get_mut(path)
                .unwrap_or_else(|| panic!("no {path}")),
        );
    }

    pub(super) fn remove(&self, path: &str) {
        self.answers.lock().unwrap().remove(path).unwrap();
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.answers.lock().unwrap().keys().cloned().collect()
    }

    /// Everything asked since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
            .collect();
        self.asked.lock().unwrap().push(Asked {
            path: path.clone(),
            headers: headers.clone(),
        });
        let found = self.answers.lock().unwrap().get(&path).cloned();
        let missing = Answer {
            status: 404,
            ..Answer::ok("no such thing")
        };
        let mut answer = found.unwrap_or(missing);
        if let Some(token) = answer.token
            && headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            let realm = format!(
                "Bearer realm=\"{}/token\",service=\"mirror\",scope=\"repository:x:pull\"",
                self.url()
            );
            answer = Answer {
                status: 401,
                headers: vec![("www-authenticate", realm)],
                ..Answer::ok("log in")
            };
        }
        let range = headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        if let Some(from) = range.filter(|_| answer.ranges && answer.status == 200) {
            let total = answer.body.len();
            if from >= total {
                answer.status = 416;
            } else {
                answer.status = 206;
                answer.headers.push((
                    "content-range",
                    format!("bytes {from}-{}/{total}", total - 1),
                ));
                answer.body.drain(..from);
            }
        }
        let mut out = format!(
            "HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str("\r\n");
        let body = &answer.body[..answer
            .cut
            .unwrap_or(answer.body.len())
            .min(answer.body.len())];
        // The client may be gone already.
        let _ = stream.write_all(out.as_bytes()).await;
        let _ = stream.write_all(body).await;
        let _ = stream.shutdown().await;
    }
}

pub(super) const BIN: &str = "/release/v1.35.4/bin/linux/amd64";

/// Puts everything a complete mirror of 1.35.4 has.
pub(super) fn complete(mirror: &Mirror) {
    let programs = [
        "kubeadm",
        "kubelet",
        "kubectl",
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "etcd",
        "etcdctl",
        "etcdutl",
    ];
    let plugins = [
        "cni/bridge",
        "cni/flannel",
        "cni/host-local",
        "cni/loopback",
        "cni/portmap",
    ];
    for name in programs.into_iter().chain(plugins) {
        let body = format!("{name} ").repeat(5000);
        let sum = Sha256::of(body.as_bytes());
        let beside = if name == "kubelet" {
            format!("{sum}  kubelet\n")
        } else {
            sum.to_string()
        };
        mirror.put(&format!("{BIN}/{name}"), Answer::ok(body));
        mirror.put(&format!("{BIN}/{name}.sha256"), Answer::ok(beside));
    }
    for (name, tag) in [
        ("pause", "3.10.1"),
        ("etcd", "3.6.6-0"),
        ("kube-apiserver", "v1.35.4"),
        ("kube-controller-manager", "v1.35.4"),
        ("kube-scheduler", "v1.35.4"),
        ("kube-proxy", "v1.35.4"),
        ("coredns/coredns", "v1.13.1"),
        ("flannel-io/flannel", super::super::FLANNEL_TAG),
    ] {
        image(mirror, name, tag);
    }
}

/// Puts an image with an index of two processors, one layer of its own and one that appears twice.
fn image(mirror: &Mirror, name: &str, tag: &str) {
    let blob = |body: Vec<u8>| {
        let digest = format!("sha256:{}", Sha256::of(&body));
        let size = body.len();
        mirror.put(&format!("/v2/{name}/blobs/{digest}"), Answer::ok(body));
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": size })
    };
    let document = |reference: Option<&str>, media_type: &str, value: serde_json::Value| {
        let body = serde_json::to_vec(&value).unwrap();
        let digest = format!("sha256:{}", Sha256::of(&body));
        let size = body.len();
        let headers = vec![
            ("content-type", media_type.to_owned()),
            ("docker-content-digest", digest.clone()),
        ];
        let answer = Answer {
            headers,
            ..Answer::ok(body)
        };
        mirror.put(
            &format!("/v2/{name}/manifests/{}", reference.unwrap_or(&digest)),
            answer,
        );
        (digest, size)
    };
    let config = blob(format!("{{\"config of\":\"{name}\"}}").into_bytes());
    let layer = blob(format!("layer of {name} ").repeat(4000).into_bytes());
    let empty = blob(b"an empty layer".to_vec());
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let (digest, size) = document(
        None,
        docker,
        json!({ "schemaVersion": 2, "mediaType": docker, "config": config, "layers": [empty, layer, empty] }),
    );
    let entry = |arch: &str, digest: &str| json!({ "mediaType": docker, "digest": digest, "size": size, "platform": { "os": "linux", "architecture": arch } });
    let other = format!("sha256:{}", Sha256::of(b"arm"));
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let manifests = [entry("arm64", &other), entry("amd64", &digest)];
    document(
        Some(tag),
        list,
        json!({ "schemaVersion": 2, "mediaType": list, "manifests": manifests }),
    );
}
