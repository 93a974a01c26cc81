//! What a conversion changes on this host was kept before anything was changed: files with their modes, and on a master etcd's snapshot and
//! what the cluster keeps. All of it is read back and compared; the note that says so is written last.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_kube::Client;
use quorate_plan::observation::{Backup, KeptObjects, Snapshot};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Work, config_map, own_api};
use crate::{
    clients,
    durable::{self, FileError},
    error::ActionError,
    facts::{self, KEPT, NOTE, kept},
    off_host::SNAPSHOT,
    paths::Paths,
};

/// What is kept, as far as it is there.
const FILES: [&str; 6] = [
    "/etc/kubernetes",
    "/root/.kube/config",
    "/etc/hosts",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/instance-config.yaml",
];

/// ConfigMaps that are kept: namespace and name.
pub(super) const OBJECTS: [(&str, &str); 4] = [
    ("kube-system", "kubeadm-config"),
    ("kube-system", "kubelet-config"),
    ("kube-public", "cluster-info"),
    ("kube-system", "kube-proxy"),
];

/// How long etcd may take until the first byte of its snapshot, and between two parts of it.
const SNAPSHOT_BEGINS_WITHIN: Duration = Duration::from_secs(30);
const SNAPSHOT_STALLS_MAX: Duration = Duration::from_secs(30);

pub(super) async fn ensure(work: &Work<'_>, master: bool) -> Result<(), ActionError> {
    let paths = work.paths;
    // What is there is what was before anything was changed: it is never taken again, nor thrown away when its note cannot be read.
    if facts::backup(paths)?.is_some() {
        return Ok(());
    }
    let client = if master { Some(own_api(work)?) } else { None };
    // What an attempt left that was broken off says nothing: without the note nothing was changed yet.
    durable::remove_folder(&paths.state(KEPT))?;
    durable::private_folder(&paths.state(KEPT))?;
    work.progress.say("keeping what is changed here");
    for file in FILES {
        copy(&paths.at(file), &file_of(paths, file))?;
    }
    let snapshot = if master {
        work.progress.say("taking etcd's snapshot");
        Some(snapshot(work).await?)
    } else {
        None
    };
    let objects = match &client {
        Some(client) => Some(objects(paths, client).await?),
        None => None,
    };
    let backup = Backup {
        snapshot,
        kubeconfigs: facts::kubeconfigs(paths)?,
        serving: facts::certificate_digest(&file_of(paths, "/etc/kubernetes/pki/apiserver.crt"))?,
        objects,
    };
    Ok(durable::write_json(&kept(paths, NOTE), &backup)?)
}

/// The kept copy of a file of this host.
pub(super) fn file_of(paths: &Paths, absolute: &str) -> PathBuf {
    kept(paths, "files").join(absolute.trim_start_matches('/'))
}

/// The kept text of a ConfigMap.
pub(super) fn object_of(paths: &Paths, name: &str) -> PathBuf {
    kept(paths, "objects").join(format!("{name}.json"))
}

/// Copies a file, link or folder with modes and owners, and compares what was written with what is there. What is neither is passed over.
fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let meta = match fs::symlink_metadata(from) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(FileError::new("look at", from))?,
    };
    durable::private_folder(to.parent().expect("a copy lies in a folder"))?;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(FileError::new("follow", from))?;
        symlink(target, to).map_err(FileError::new("link", to))?;
    } else if meta.is_dir() {
        durable::private_folder(to)?;
        let entries = fs::read_dir(from).map_err(FileError::new("read", from))?;
        for entry in entries {
            let entry = entry.map_err(FileError::new("read", from))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        durable::sync_folder(to)?;
    } else if meta.is_file() {
        fs::copy(from, to).map_err(FileError::new("copy", to))?;
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
            .map_err(FileError::new("set the mode of", to))?;
        match chown(to, Some(meta.uid()), Some(meta.gid())) {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {}
            result => result.map_err(FileError::new("give away", to))?,
        }
        let file = fs::File::open(to).map_err(FileError::new("read", to))?;
        file.sync_all().map_err(FileError::new("sync", to))?;
        if sum(from)? != sum(to)? {
            return Err(FileError::senseless(to, "the copy is not what was copied"));
        }
    }
    Ok(())
}

fn sum(path: &Path) -> Result<[u8; 32], FileError> {
    sum_of_first(path, u64::MAX)
}

fn sum_of_first(path: &Path, bytes: u64) -> Result<[u8; 32], FileError> {
    let file = fs::File::open(path).map_err(FileError::new("read", path))?;
    let mut file = file.take(bytes);
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = file
            .read(&mut chunk)
            .map_err(FileError::new("read", path))?;
        if n == 0 {
            return Ok(digest.finalize().into());
        }
        digest.update(&chunk[..n]);
    }
}

/// etcd's snapshot: its hash is verified while it comes, and once more from the disk.
async fn snapshot(work: &Work<'_>) -> Result<Snapshot, ActionError> {
    let etcd = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let path = kept(work.paths, SNAPSHOT);
    durable::write(&path, &[], 0o600)?;
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .await
        .map_err(FileError::new("open", &path))?;
    let mut snapshot = etcd
        .snapshot(SNAPSHOT_BEGINS_WITHIN, SNAPSHOT_STALLS_MAX)
        .await
        .map_err(ActionError::etcd("beginning a snapshot"))?;
    let mut bytes = 0u64;
    while let Some(part) = snapshot
        .next()
        .await
        .map_err(ActionError::etcd("taking a snapshot"))?
    {
        file.write_all(&part)
            .await
            .map_err(FileError::new("write", &path))?;
        bytes += part.len() as u64;
    }
    file.sync_all()
        .await
        .map_err(FileError::new("sync", &path))?;
    drop(file);
    let sha256 = verified(path.clone(), bytes).await?;
    Ok(Snapshot { bytes, sha256 })
}

/// The hash at the end of a snapshot on disk, which the rest of it has.
async fn verified(path: PathBuf, bytes: u64) -> Result<String, ActionError> {
    const SUM: u64 = 32;
    let read = move || -> Result<String, FileError> {
        let there = fs::metadata(&path).map_err(FileError::new("look at", &path))?;
        if there.len() != bytes || bytes <= SUM {
            return Err(FileError::senseless(&path, "the snapshot is not whole"));
        }
        let file = fs::File::open(&path).map_err(FileError::new("read", &path))?;
        let mut end = [0u8; SUM as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, bytes - SUM)
            .map_err(FileError::new("read", &path))?;
        if sum_of_first(&path, bytes - SUM)? != end {
            return Err(FileError::senseless(
                &path,
                "the snapshot has another hash than it says",
            ));
        }
        Ok(facts::hex(&end))
    };
    let read = tokio::task::spawn_blocking(read).await;
    Ok(read.expect("reading files does not panic")?)
}

/// What the cluster keeps, whole, as JSON.
async fn objects(paths: &Paths, client: &Client) -> Result<KeptObjects, ActionError> {
    let mut names = BTreeSet::new();
    for (namespace, name) in OBJECTS {
        if let Some(map) = config_map::read(client, namespace, name).await? {
            durable::private_folder(&kept(paths, "objects"))?;
            durable::write_json(&object_of(paths, name), &map)?;
            names.insert(name);
        }
    }
    let config = facts::adopted(client)
        .await
        .map_err(ActionError::kube("reading kubeadm-config"))?;
    let understood = config.and_then(|config| Some((config.endpoint, *config.adopted?)));
    let (endpoint, adopted) = understood.ok_or_else(|| {
        ActionError::unexpected(
            "a configuration that kubeadm wrote",
            "kubeadm-config is something else, or is not there",
            "look at `kubectl -n kube-system get configmap kubeadm-config -o yaml`",
        )
    })?;
    let server = |name: &str, key: &str| -> Result<Option<String>, FileError> {
        let map: Option<serde_json::Value> = durable::read_json(&object_of(paths, name))?;
        Ok(map.and_then(|map| facts::server_of(map["data"][key].as_str()?)))
    };
    Ok(KeptObjects {
        endpoint,
        adopted,
        cluster_info: server("cluster-info", "kubeconfig")?,
        proxy: server("kube-proxy", "kubeconfig.conf")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_workers_files_are_kept_with_their_modes_and_twice_is_once() {
        let machine = testing::machine();
        machine.write(
            "/etc/kubernetes/kubelet.conf",
            "clusters:\n- name: a\n  cluster:\n    server: https://10.0.0.11:6443\nusers: null\n",
        );
        machine.write("/etc/kubernetes/pki/ca.crt", "not read here");
        machine.write("/etc/hosts", "127.0.0.1 localhost\n");
        let conf = machine.paths.kubernetes("kubelet.conf");
        fs::set_permissions(&conf, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("kubelet.conf", machine.paths.kubernetes("link")).unwrap();
        for _ in 0..2 {
            testing::with_work_async(&machine, "w-1", async |work| {
                ensure(work, false).await.unwrap();
            })
            .await;
            let backup = facts::backup(&machine.paths).unwrap().unwrap();
            let servers = &backup.kubeconfigs["/etc/kubernetes/kubelet.conf"];
            assert!(servers.contains("https://10.0.0.11:6443"));
            assert!(backup.snapshot.is_none() && backup.objects.is_none());
            let copy = file_of(&machine.paths, "/etc/kubernetes/kubelet.conf");
            assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o640);
            assert_eq!(fs::read(&copy).unwrap(), fs::read(&conf).unwrap());
            assert!(file_of(&machine.paths, "/etc/kubernetes/link").is_symlink());
        }
        let folder = machine.paths.state(KEPT);
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn what_was_broken_off_is_no_backup() {
        let machine = testing::machine();
        machine.write("/var/lib/quorate/conversion/files/etc/hosts", "half");
        assert_eq!(facts::backup(&machine.paths).unwrap(), None);
        machine.write("/var/lib/quorate/conversion/backup.json", "{");
        assert!(
            facts::backup(&machine.paths).is_err(),
            "unknown is not none"
        );
    }

    #[tokio::test]
    async fn a_snapshot_is_what_its_end_says() {
        let machine = testing::machine();
        let data = vec![7u8; 1024];
        let whole = [data.as_slice(), &Sha256::digest(&data)].concat();
        machine.write("/s", &whole);
        let path = machine.paths.at("/s");
        let bytes = whole.len() as u64;
        let digest = verified(path.clone(), bytes).await.unwrap();
        assert_eq!(digest, facts::hex(&Sha256::digest(&data)));
        assert!(verified(path.clone(), bytes - 1).await.is_err());
        let mut flipped = whole;
        flipped[3] ^= 1;
        machine.write("/s", &flipped);
        assert!(verified(path, bytes).await.is_err());
    }
}
