//! Files to hosts, over channels of their own: the binary, once by its hash, and the files of a bundle that are missing there. A host
//! needs `sh`, `cat`, `chmod`, `mkdir`, `mv`, `rm`, `sha256sum`, `sync`, `uname` and `wc` for that, nothing else.
//!
//! A file appears under its name when it is whole and on disk. What was interrupted goes on with the files that are still missing.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::{
    binary::NodeBinary,
    channel::Process,
    command::{Control, DIFFERS, SshAccess, upload_script},
    failure::SshFailure,
};

/// How long a host may take nothing of what is sent, or say nothing once it has all, before the connection counts as lost: a slow disk
/// that syncs a large file takes some seconds.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Bytes read at once: few enough to notice a stall, many enough that reading costs nothing.
const BLOCK_BYTES: usize = 1 << 20;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Largest manifest of a bundle that is read, in bytes: a few dozen files are described in some KiB.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Puts the binary on a host.
pub(crate) async fn binary(
    control: &Control,
    access: &SshAccess,
    binary: &NodeBinary,
    host_machine: &str,
) -> Result<(), SshFailure> {
    if host_machine != binary.machine() {
        return Err(SshFailure::WrongMachine {
            host: host_machine.to_owned(),
            binary: binary.machine(),
        });
    }
    let what = Sending {
        doing: "copying the binary".into(),
        expected: binary.hash().to_owned(),
        path: binary.path().to_owned(),
        bytes: binary.bytes(),
    };
    send(
        control,
        access,
        &upload_script(binary.hash()),
        &what,
        |_| {},
    )
    .await
}

/// One file to send.
struct Sending {
    /// What is being done, for messages.
    doing: String,
    /// What the host compares what arrived with.
    expected: String,
    path: PathBuf,
    bytes: u64,
}

/// Runs `script` with a file as its input. `sent` gets the number of bytes so far.
async fn send(
    control: &Control,
    access: &SshAccess,
    script: &str,
    what: &Sending,
    mut sent: impl FnMut(u64),
) -> Result<(), SshFailure> {
    let here = |error: std::io::Error| SshFailure::Here {
        detail: format!("failed to read `{}`: {error}", what.path.display()),
    };
    let stalled = || SshFailure::TimedOut {
        detail: format!(
            "{}: nothing moved for {} s",
            what.doing,
            STALL_MAX.as_secs()
        ),
    };
    let mut file = File::open(&what.path).await.map_err(here)?;
    let mut process = Process::start(control, access, script)?;
    let mut stdin = process.stdin.take().expect("it was just started");
    let mut block = vec![0; BLOCK_BYTES];
    let mut total = 0;
    loop {
        let read = file.read(&mut block).await.map_err(here)?;
        if read == 0 {
            break;
        }
        match timeout(STALL_MAX, stdin.write_all(&block[..read])).await {
            Ok(Ok(())) => {}
            // The other side ended before it had everything: it says why.
            Ok(Err(_)) => break,
            Err(_) => return Err(stalled()),
        }
        total += read as u64;
        sent(total);
    }
    drop(stdin);
    let said = timeout(STALL_MAX, process.line())
        .await
        .map_err(|_| stalled())?
        .unwrap_or_default();
    if let Some(seen) = said.as_deref().and_then(|said| said.strip_prefix(DIFFERS)) {
        return Err(SshFailure::Damaged {
            what: what.path.display().to_string(),
            expected: what.expected.clone(),
            seen: crate::hostile::line(seen),
        });
    }
    process.success(&what.doing).await
}

/// What of a bundle's manifest matters here.
#[derive(Deserialize)]
struct Manifest {
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    path: String,
    size: u64,
    sha256: String,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BundleFile {
    path: String,
    bytes: u64,
    /// SHA-256, hex.
    digest: String,
    runs: bool,
}

/// A bundle that lies on the operator's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalBundle {
    dir: PathBuf,
    id: String,
    files: Vec<BundleFile>,
}

impl LocalBundle {
    /// Reads what a bundle consists of. The manifest comes last: where it is, everything is.
    pub(crate) fn open(dir: &Path, id: &str) -> Result<Self, SshFailure> {
        let here = |what: &str, path: &Path| SshFailure::Here {
            detail: format!(
                "{what} in `{}`; `quorate bundle verify` tells more",
                path.display()
            ),
        };
        let manifest = dir.join("manifest.json");
        let bytes = read_at_most(&manifest, MANIFEST_BYTES_MAX)
            .map_err(|error| here(&format!("the bundle cannot be read ({error})"), &manifest))?;
        let seen = hex(&bytes);
        if seen != id {
            return Err(here(
                &format!("expected bundle {id}, seen bundle {seen}"),
                dir,
            ));
        }
        let parsed: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| here(&format!("the manifest cannot be read ({error})"), &manifest))?;
        let mut files = Vec::new();
        for file in parsed.files {
            if !is_plain(&file.path) {
                return Err(here("a file has a name that is none", &manifest));
            }
            let path = dir.join(&file.path);
            let metadata = std::fs::metadata(&path)
                .map_err(|error| here(&format!("a file is missing ({error})"), &path))?;
            if !metadata.is_file() || metadata.len() != file.size {
                return Err(here("a file is not what the manifest says", &path));
            }
            use std::os::unix::fs::PermissionsExt as _;
            files.push(BundleFile {
                path: file.path,
                bytes: file.size,
                digest: file.sha256,
                runs: metadata.permissions().mode() & 0o111 != 0,
            });
        }
        files.push(BundleFile {
            path: "manifest.json".into(),
            bytes: bytes.len() as u64,
            digest: seen,
            runs: false,
        });
        Ok(Self {
            dir: dir.to_owned(),
            id: id.to_owned(),
            files,
        })
    }

    /// Where it is gathered on a host until it was verified there.
    fn destination(&self) -> String {
        format!("/var/lib/quorate/bundles/{}.partial", self.id)
    }

    /// Names the files that are there already, by digest and path, one a line: one that arrived damaged is sent again.
    fn list_script(&self) -> String {
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        format!(
            "cd {} 2>/dev/null || exit 0; for f in {}; do [ -f $f ] && sha256sum $f; done; exit 0",
            self.destination(),
            paths.join(" ")
        )
    }

    /// Puts one file in place from standard input.
    fn file_script(&self, file: &BundleFile) -> String {
        let destination = self.destination();
        let path = format!("{destination}/{}", file.path);
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let mode = if file.runs { "0755" } else { "0644" };
        format!(
            "set -eu; umask 022; mkdir -p {directory}; t={path}.$$; trap \"rm -f $t\" EXIT; cat >$t; s=$(wc -c <$t); \
             [ $s -eq {} ] || {{ echo {DIFFERS} $s; exit 1; }}; chmod {mode} $t; sync $t; mv -f $t {path}",
            file.bytes
        )
    }

    /// Brings the files to a host that are missing there.
    pub(crate) async fn deliver(
        &self,
        control: &Control,
        access: &SshAccess,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), SshFailure> {
        let present = self.present(control, access).await?;
        let missing: Vec<&BundleFile> = self
            .files
            .iter()
            .filter(|file| !present.contains(&format!("{}  {}", file.digest, file.path)))
            .collect();
        let all: u64 = missing.iter().map(|file| file.bytes).sum();
        let mut before = 0;
        let mut told = Instant::now();
        for file in missing {
            let what = Sending {
                doing: format!("copying {}", file.path),
                expected: format!("{} bytes", file.bytes),
                path: self.dir.join(&file.path),
                bytes: file.bytes,
            };
            let sent = |bytes: u64| {
                if told.elapsed() >= PROGRESS_EVERY {
                    told = Instant::now();
                    progress(format!(
                        "copying the bundle: {} of {} MB, {}",
                        (before + bytes) / 1_000_000,
                        all / 1_000_000,
                        file.path
                    ));
                }
            };
            send(control, access, &self.file_script(file), &what, sent).await?;
            before += what.bytes;
        }
        Ok(())
    }

    async fn present(
        &self,
        control: &Control,
        access: &SshAccess,
    ) -> Result<Vec<String>, SshFailure> {
        let mut process = Process::start(control, access, &self.list_script())?;
        drop(process.stdin.take());
        let mut present = Vec::new();
        loop {
            let line =
                timeout(STALL_MAX, process.line())
                    .await
                    .map_err(|_| SshFailure::TimedOut {
                        detail: format!("nothing for {} s", STALL_MAX.as_secs()),
                    })?;
            match line {
                Ok(Some(line)) if present.len() <= self.files.len() => present.push(line),
                Ok(Some(_)) => {
                    return Err(SshFailure::NotUnderstood {
                        expected: "at most one line a file",
                        seen: "more".into(),
                    });
                }
                Ok(None) | Err(_) => break,
            }
        }
        process.success("looking for the bundle's files").await?;
        Ok(present)
    }
}

/// SHA-256, hex.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read_at_most(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(bytes_max)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names that mean the same to every shell: nothing a bundle does not have anyway.
fn is_plain(path: &str) -> bool {
    path.len() <= 255
        && path.split('/').all(|name| {
            !name.is_empty()
                && !name.starts_with(['.', '-'])
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &Path, paths: &[(&str, &str)]) -> String {
        let mut files = Vec::new();
        for (path, text) in paths {
            let full = dir.join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(&full, text).unwrap();
            files.push(
                serde_json::json!({"path": path, "size": text.len(), "sha256": hex(text.as_bytes())}),
            );
        }
        let manifest = serde_json::json!({ "files": files }).to_string();
        std::fs::write(dir.join("manifest.json"), &manifest).unwrap();
        hex(manifest.as_bytes())
    }

    #[test]
    fn a_bundle_is_what_its_manifest_says() {
        let dir = tempfile::tempdir().unwrap();
        let id = bundle(
            dir.path(),
            &[("bin/kubelet", "k"), ("images/etcd.tar", "ee")],
        );
        let opened = LocalBundle::open(dir.path(), &id).unwrap();
        let names: Vec<_> = opened
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.bytes))
            .collect();
        assert_eq!(names[..2], [("bin/kubelet", 1), ("images/etcd.tar", 2)]);
        assert_eq!(names[2].0, "manifest.json");

        let error = LocalBundle::open(dir.path(), "abc")
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected bundle abc"), "{error}");
        std::fs::write(dir.path().join("bin/kubelet"), "longer").unwrap();
        let error = LocalBundle::open(dir.path(), &id).unwrap_err().to_string();
        assert!(error.contains("not what the manifest says"), "{error}");
        std::fs::remove_file(dir.path().join("bin/kubelet")).unwrap();
        let error = LocalBundle::open(dir.path(), &id).unwrap_err().to_string();
        assert!(error.contains("a file is missing"), "{error}");
    }

    #[test]
    fn names_that_a_shell_would_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let id = bundle(dir.path(), &[("a b", "x")]);
        assert!(LocalBundle::open(dir.path(), &id).is_err());
        for bad in ["../x", "/x", "$(x)", "a;b", "-rf", "a//b", "", ".x"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn scripts() {
        let dir = tempfile::tempdir().unwrap();
        let id = bundle(dir.path(), &[("bin/kubelet", "k")]);
        let opened = LocalBundle {
            id: "ID".into(),
            ..LocalBundle::open(dir.path(), &id).unwrap()
        };
        assert_eq!(
            opened.list_script(),
            "cd /var/lib/quorate/bundles/ID.partial 2>/dev/null || exit 0; \
             for f in bin/kubelet manifest.json; do [ -f $f ] && sha256sum $f; done; exit 0"
        );
        assert_eq!(
            opened.file_script(&opened.files[0]),
            "set -eu; umask 022; mkdir -p /var/lib/quorate/bundles/ID.partial/bin; t=/var/lib/quorate/bundles/ID.partial/bin/kubelet.$$; \
             trap \"rm -f $t\" EXIT; cat >$t; s=$(wc -c <$t); [ $s -eq 1 ] || { echo quorate-differs $s; exit 1; }; \
             chmod 0644 $t; sync $t; mv -f $t /var/lib/quorate/bundles/ID.partial/bin/kubelet"
        );
    }
}
