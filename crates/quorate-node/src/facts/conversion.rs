//! What a conversion has to know of a host. Start at [`look`]; who is connected to whom is in [`super::connections`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use quorate_plan::{
    Missing, Seen,
    observation::{Backup, EndpointName, HostConversion, Look, Manifest, Readyz, Receipt},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    ETCD_DATA, PATIENCE, api::readyz_of, began, blocked, connections, endpoint, homes, in_time,
    no_answer, pki, seen,
};
use crate::{
    clients,
    command::{Command, CommandError, Tools},
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
    shown,
};

/// Kubeconfigs that are looked at: kubeadm's, and root's own.
pub(crate) const KUBECONFIGS: [&str; 7] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/root/.kube/config",
];

/// What was kept before a conversion, below Quorate's state.
pub(crate) const KEPT: &str = "conversion";
/// The note that all of it was kept.
pub(crate) const NOTE: &str = "backup.json";
/// The note that an operator's machine has it.
pub(crate) const RECEIPT: &str = "receipt.json";

/// Where kube-proxy says that it is well.
const PROXY_HEALTH: &str = "127.0.0.1:10256";
/// Longest of its answers that is read, in bytes.
const PROXY_ANSWER_BYTES_MAX: u64 = 4 << 10;

pub(super) async fn look(
    paths: &Paths,
    tools: &Tools,
    look: &Look,
    manifests: &Seen<BTreeMap<String, Manifest>>,
) -> Seen<Option<Box<HostConversion>>> {
    let Some(conversion) = &look.conversion else {
        return Seen::now(None);
    };
    let (served, leads, kubeadm, sockets, blocked) = tokio::join!(
        served(paths, manifests),
        leads(paths, tools, look.endpoint.as_ref()),
        kubeadm(paths, tools),
        connections::look(paths, &conversion.watched),
        blocked::look(paths, &conversion.watched),
    );
    let (connections, callers) = sockets;
    let runs = connections
        .get()
        .map(|connections| connections.contains_key("kube-proxy"));
    let proxy_healthy = match runs {
        Ok(true) => Seen::now(Some(proxy_is_well().await)),
        Ok(false) => Seen::now(None),
        Err(missing) => Seen::Unknown(missing),
    };
    Seen::now(Some(Box::new(HostConversion {
        kubeconfigs: seen("kubeconfigs", kubeconfigs(paths)),
        homes: seen("people's kubeconfigs", homes::look(paths)),
        serving: seen(
            "the serving certificate",
            super::certificate_digest(&paths.pki("apiserver.crt")),
        ),
        served,
        leads,
        proxy_healthy,
        connections,
        began_with: seen("what kubelet and kube-proxy began with", began::look(paths)),
        callers,
        backup: seen("what was kept", backup(paths)),
        off_host: seen("what left this host", off_host(paths)),
        kubeadm,
        blocked,
        data_mount: data_mount(paths, manifests),
    })))
}

/// All kubeconfigs on the host with the servers they name.
pub(crate) fn kubeconfigs(paths: &Paths) -> Result<BTreeMap<String, BTreeSet<String>>, FileError> {
    let mut found = BTreeMap::new();
    for name in KUBECONFIGS {
        if let Some(servers) = pki::servers(&paths.at(name))? {
            found.insert(name.to_owned(), servers);
        }
    }
    Ok(found)
}

/// The note of what was kept.
pub(crate) fn backup(paths: &Paths) -> Result<Option<Backup>, FileError> {
    durable::read_json(&kept(paths, NOTE))
}

/// The note of what an operator's machine has of it.
pub(crate) fn off_host(paths: &Paths) -> Result<Option<Receipt>, FileError> {
    durable::read_json(&kept(paths, RECEIPT))
}

/// A place among what was kept.
pub(crate) fn kept(paths: &Paths, name: impl AsRef<Path>) -> std::path::PathBuf {
    paths.state(KEPT).join(name)
}

/// Where the filesystem of etcd's data is mounted, when that is not `/`.
fn data_mount(paths: &Paths, manifests: &Seen<BTreeMap<String, Manifest>>) -> Seen<Option<String>> {
    let data = match manifests.get() {
        Ok(manifests) => match manifests.get("etcd") {
            Some(etcd) => etcd.flag("data-dir").unwrap_or(ETCD_DATA),
            None => return Seen::now(None),
        },
        Err(missing) => return Seen::Unknown(missing),
    };
    let mounts = durable::read_text(&paths.at("/proc/self/mountinfo"));
    let under = mounts.map(|text| {
        let text = text.unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        let above = points.filter(|point| *point != "/" && Path::new(data).starts_with(point));
        above.max_by_key(|point| point.len()).map(shown::line)
    });
    seen("mounted filesystems", under)
}

async fn served(
    paths: &Paths,
    manifests: &Seen<BTreeMap<String, Manifest>>,
) -> Seen<Option<String>> {
    let address = match manifests.get() {
        Ok(manifests) => clients::apiserver_address(manifests),
        Err(missing) => return Seen::Unknown(missing),
    };
    let Some(address) = address else {
        return Seen::now(None);
    };
    let what = "the served certificate";
    in_time(what, async {
        match served_digest(paths, address, PATIENCE).await {
            Ok(digest) => Seen::now(Some(digest)),
            Err(err) => Seen::Unknown(no_answer(what, &err)),
        }
    })
    .await
}

/// SHA-256 of the certificate that is served there, hex. The cluster's authority has to vouch for it.
pub(crate) async fn served_digest(
    paths: &Paths,
    address: SocketAddr,
    within: Duration,
) -> Result<String, ActionError> {
    let client = clients::of_any_name(paths.pki("ca.crt"), address)?;
    let connection = client
        .open(within)
        .await
        .map_err(ActionError::kube("opening a connection to the apiserver"))?;
    let der = connection.certificate().unwrap_or_default();
    Ok(super::hex(&Sha256::digest(der)))
}

/// Whoever answers behind the endpoint, known by the authority alone.
async fn leads(paths: &Paths, tools: &Tools, name: Option<&EndpointName>) -> Seen<Option<Readyz>> {
    let ca = paths.pki("ca.crt");
    let Some(name) = name.filter(|_| ca.exists()) else {
        return Seen::now(None);
    };
    let resolves = match timeout(PATIENCE, endpoint::resolve(paths, tools, &name.host)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(err)) => return Seen::Unknown(no_answer("the endpoint's name", &err)),
        Err(_) => BTreeSet::new(),
    };
    let Some(address) = resolves.first() else {
        return Seen::now(None);
    };
    let client = match clients::of_any_name(ca, SocketAddr::new(*address, name.port)) {
        Ok(client) => client,
        Err(err) => return Seen::Unknown(no_answer("the endpoint", &err)),
    };
    Seen::now(client.readyz(PATIENCE).await.ok().map(readyz_of))
}

async fn kubeadm(paths: &Paths, tools: &Tools) -> Seen<Option<String>> {
    // A worker's is of no interest, and starting it takes longer than all else.
    if !paths.manifest("kube-apiserver").exists() {
        return Seen::now(None);
    }
    let version = Command::new("kubeadm", PATIENCE).args(["version", "-o", "short"]);
    match tools.run(version).await {
        Ok(out) => {
            let text = out.text();
            let version = text.trim();
            Seen::now(Some(shown::line(
                version.strip_prefix('v').unwrap_or(version),
            )))
        }
        Err(CommandError::Start { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Seen::now(None)
        }
        Err(err) => Seen::Unknown(Missing::no_answer(
            "kubeadm",
            shown::line(&shown::chain(&err)),
        )),
    }
}

async fn proxy_is_well() -> bool {
    let asked = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(PROXY_HEALTH).await?;
        let request = "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(PROXY_ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        std::io::Result::Ok(answer)
    })
    .await;
    matches!(asked, Ok(Ok(answer)) if says_ok(&answer))
}

fn says_ok(answer: &[u8]) -> bool {
    let mut words = answer.split(|byte| *byte == b' ');
    words
        .next()
        .is_some_and(|http| http.starts_with(b"HTTP/1."))
        && words.next() == Some(b"200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_answer_is_its_status() {
        assert!(says_ok(b"HTTP/1.0 200 OK\r\n\r\n{}"));
        for no in [&b"HTTP/1.0 503 x"[..], b"", b"200", b"SSH-2.0 200 "] {
            assert!(!says_ok(no));
        }
    }

    #[test]
    fn every_server_of_every_kubeconfig() {
        let machine = testing::machine();
        let two = "clusters:\n- name: a\n  cluster:\n    server: https://10.0.0.1:6443\n- name: b\n  cluster:\n    server: https://other:6443\nusers: null\n";
        machine.write("/root/.kube/config", two);
        let seen = kubeconfigs(&machine.paths).unwrap();
        assert_eq!(seen.len(), 1);
        let servers = &seen["/root/.kube/config"];
        assert_eq!(
            *servers,
            ["https://10.0.0.1:6443", "https://other:6443"]
                .map(str::to_owned)
                .into()
        );
        machine.write("/etc/kubernetes/admin.conf", "\u{1b}: [");
        assert!(
            kubeconfigs(&machine.paths).is_err(),
            "unknown stays unknown"
        );
    }

    #[test]
    fn the_disk_of_etcds_data() {
        let machine = testing::machine();
        let etcd = |folder: &str| Manifest {
            image: String::new(),
            flags: vec![format!("--data-dir={folder}")],
            mounts: BTreeSet::new(),
            files: BTreeMap::new(),
        };
        let of = |folder: &str| {
            let manifests = Seen::now([("etcd".to_owned(), etcd(folder))].into());
            data_mount(&machine.paths, &manifests)
                .get()
                .unwrap()
                .clone()
        };
        machine.write(
            "/proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 8:17 / /data rw - xfs /dev/sdb1 rw\n31 22 8:33 / /data/et rw - xfs /dev/sdc1 rw\ngarbage\n",
        );
        assert_eq!(of("/data/etcd"), Some("/data".to_owned()));
        assert_eq!(of("/data"), Some("/data".to_owned()));
        assert_eq!(of("/var/lib/etcd"), None);
        let none = data_mount(&machine.paths, &Seen::now(BTreeMap::new()));
        assert_eq!(none.get().unwrap(), &None);
    }

    #[tokio::test]
    async fn nobody_asked_is_known() {
        let machine = testing::machine();
        let look = Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: None,
            conversion: None,
        };
        let manifests = Seen::now(BTreeMap::new());
        let seen = super::look(&machine.paths, &Tools::default(), &look, &manifests).await;
        assert_eq!(seen.get().unwrap(), &None);
    }
}
