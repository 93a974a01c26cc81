//! A host's backup to this machine, sealed there. It is a file of ours once it is whole, on disk, and the same bytes as the host gave.

use std::{
    collections::BTreeSet,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quorate_plan::{NodeName, observation::Receipt, wire::BACKUP_PART_BYTES_MAX};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::{
    channel::{GREETING_MAX, Process, greeting},
    command::{Control, SshAccess, backup_script},
    failure::SshFailure,
};

/// How long nothing may come before the connection counts as lost: a slow disk that is read beside a busy etcd takes some seconds.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What every age file begins with.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// What is being done, for messages.
const DOING: &str = "carrying the backup here";

/// Where backups go, and to whom they are sealed.
#[derive(Clone)]
pub struct Backups {
    /// The folder on this machine. It is made where it is missing, for its owner alone.
    pub folder: PathBuf,
    /// The age recipients, looked up when there is something to seal; the error is a message.
    pub recipients: Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backups({})", self.folder.display())
    }
}

impl Backups {
    /// Brings the backup of a host here, and says what is here then.
    pub(crate) async fn fetch(
        &self,
        control: &Control,
        access: &SshAccess,
        hash: &str,
        node: &NodeName,
        progress: &mut dyn FnMut(String),
    ) -> Result<Receipt, SshFailure> {
        let recipients = (self.recipients)().map_err(|detail| SshFailure::Here { detail })?;
        // They become words of a shell's script.
        let plain = |one: &String| {
            one.starts_with("age1") && one.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if recipients.is_empty() || !recipients.iter().all(plain) {
            return Err(SshFailure::Here {
                detail: "there is no age recipient that the backup could be sealed to".into(),
            });
        }
        let partial = self.partial(node)?;
        let mut file = new_file(&partial).await.map_err(here(&partial))?;
        let mut process = Process::start(control, access, &backup_script(hash, &recipients))?;
        drop(process.stdin.take());
        let greeted = timeout(GREETING_MAX, greeting(&mut process, hash)).await;
        match greeted {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(_))) => {
                return Err(SshFailure::NotGreeted {
                    seen: "that it is not there any more".into(),
                });
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => {
                return Err(SshFailure::TimedOut {
                    detail: format!("no greeting within {} s", GREETING_MAX.as_secs()),
                });
            }
        }
        let taken = match take(&mut process.stdout, &mut file, progress).await {
            Ok(taken) => taken,
            Err(Broken::Here(error)) => return Err(here(&partial)(error)),
            Err(Broken::Stalled) => {
                return Err(SshFailure::TimedOut {
                    detail: format!("{DOING}: nothing came for {} s", STALL_MAX.as_secs()),
                });
            }
            // The host ended before it had said all: it says why.
            Err(Broken::There) => {
                process.success(DOING).await?;
                return Err(SshFailure::NotUnderstood {
                    expected: "a whole backup",
                    seen: "the end of it before there was one".into(),
                });
            }
            Err(Broken::Senseless(seen)) => {
                return Err(SshFailure::NotUnderstood {
                    expected: "the parts of a backup",
                    seen,
                });
            }
        };
        process.success(DOING).await?;
        progress("reading back what arrived".into());
        let (bytes, sha256) = read_back(&mut file).await.map_err(here(&partial))?;
        if (bytes, &sha256) != (taken.bytes, &taken.sha256) {
            return Err(SshFailure::Damaged {
                what: partial.display().to_string(),
                expected: format!("{} bytes with SHA-256 {}", taken.bytes, taken.sha256),
                seen: format!("{bytes} bytes with SHA-256 {sha256}"),
            });
        }
        let path = self.folder.join(format!("{node}-{}.age", &sha256[..12]));
        fs::rename(&partial, &path).await.map_err(here(&path))?;
        let folder = File::open(&self.folder).await.map_err(here(&self.folder))?;
        folder.sync_all().await.map_err(here(&self.folder))?;
        progress(format!("the backup is in {}", path.display()));
        Ok(Receipt {
            bytes,
            sha256,
            recipients: BTreeSet::from_iter(recipients),
            machine: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            file: path.display().to_string(),
        })
    }

    /// Where it is written until it is whole. The name is always the same, so that the next attempt takes the place of one that was cut off.
    fn partial(&self, node: &NodeName) -> Result<PathBuf, SshFailure> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(here(&self.folder))?;
        Ok(self.folder.join(format!(".{node}.age.partial")))
    }
}

fn here(path: &Path) -> impl FnOnce(io::Error) -> SshFailure {
    let path = path.to_owned();
    move |error| SshFailure::Here {
        detail: format!("cannot keep the backup in `{}`: {error}", path.display()),
    }
}

/// A new file that only its owner reads; what an attempt left that was cut off goes.
async fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await
}

/// Sealed bytes that arrived, and the host's word for them.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    bytes: u64,
    sha256: String,
}

#[derive(Debug)]
enum Broken {
    /// Writing here failed.
    Here(io::Error),
    /// Nothing came any more.
    Stalled,
    /// It ended before its end.
    There,
    /// What came is something else.
    Senseless(String),
}

async fn fill(from: &mut (impl AsyncRead + Unpin), to: &mut [u8]) -> Result<(), Broken> {
    match timeout(STALL_MAX, from.read_exact(to)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Broken::There),
        Err(_) => Err(Broken::Stalled),
    }
}

/// Writes the parts of a backup to a file, which is on disk then. What came is what the host says it gave.
async fn take(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut File,
    progress: &mut dyn FnMut(String),
) -> Result<Taken, Broken> {
    let mut digest = Sha256::new();
    let mut bytes = 0u64;
    let mut part = vec![0; BACKUP_PART_BYTES_MAX as usize];
    let mut told = Instant::now();
    loop {
        let mut length = [0; 4];
        fill(from, &mut length).await?;
        let length = u32::from_be_bytes(length);
        if length == 0 {
            break;
        }
        if length > BACKUP_PART_BYTES_MAX {
            return Err(Broken::Senseless(format!("a part of {length} bytes")));
        }
        let part = &mut part[..length as usize];
        fill(from, part).await?;
        if bytes == 0 && !part.starts_with(AGE) {
            return Err(Broken::Senseless("what is not sealed with age".into()));
        }
        digest.update(&*part);
        bytes += u64::from(length);
        to.write_all(part).await.map_err(Broken::Here)?;
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            progress(format!("{DOING}: {} MB", bytes / 1_000_000));
        }
    }
    let (mut said, mut sum) = ([0; 8], [0; 32]);
    fill(from, &mut said).await?;
    fill(from, &mut sum).await?;
    let seen = digest.finalize();
    if u64::from_be_bytes(said) != bytes || sum != seen.as_slice() || bytes == 0 {
        return Err(Broken::Senseless(
            "other bytes than the host says it gave".into(),
        ));
    }
    to.sync_all().await.map_err(Broken::Here)?;
    Ok(Taken {
        bytes,
        sha256: hex(&seen),
    })
}

/// Size and SHA-256 of what is in the file.
async fn read_back(file: &mut File) -> io::Result<(u64, String)> {
    file.seek(SeekFrom::Start(0)).await?;
    let mut digest = Sha256::new();
    let mut bytes = 0;
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block).await?;
        if read == 0 {
            return Ok((bytes, hex(&digest.finalize())));
        }
        digest.update(&block[..read]);
        bytes += read as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(parts: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for part in parts {
            stream.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(part);
        }
        let all = parts.concat();
        stream.extend_from_slice(&0u32.to_be_bytes());
        stream.extend_from_slice(&(all.len() as u64).to_be_bytes());
        stream.extend_from_slice(&Sha256::digest(&all));
        stream
    }

    async fn taken(stream: &[u8]) -> (Result<Taken, Broken>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        std::fs::write(&path, "what an attempt left").unwrap();
        let mut file = new_file(&path).await.unwrap();
        let result = take(&mut &*stream, &mut file, &mut drop).await;
        file.sync_all().await.unwrap();
        if let Ok(taken) = &result {
            let (bytes, sha256) = read_back(&mut file).await.unwrap();
            assert_eq!((bytes, &sha256), (taken.bytes, &taken.sha256));
        }
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        (result, std::fs::read(&path).unwrap())
    }

    #[tokio::test]
    async fn parts_become_a_file() {
        let whole = stream(&[AGE, b"more", b"and more"]);
        let (result, file) = taken(&whole).await;
        assert_eq!(result.unwrap().bytes, file.len() as u64);
        assert_eq!(file, [AGE, b"moreand more"].concat());
        for cut in 0..whole.len() {
            let (result, _) = taken(&whole[..cut]).await;
            assert!(matches!(result, Err(Broken::There)), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_is_something_else_is_no_backup() {
        let mut flipped = stream(&[AGE, b"more"]);
        flipped[AGE.len() + 10] ^= 1;
        let long = (BACKUP_PART_BYTES_MAX + 1).to_be_bytes().to_vec();
        for wrong in [
            flipped,
            long,
            stream(&[]),
            stream(&[b"-----BEGIN PRIVATE KEY"]),
        ] {
            let (result, _) = taken(&wrong).await;
            assert!(matches!(result, Err(Broken::Senseless(_))), "{result:?}");
        }
    }
}
