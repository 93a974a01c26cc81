//! What was kept before a conversion, as it leaves its host: a tar archive, sealed with age while it is read, so that no plaintext lies or
//! travels anywhere else. [`send_backup`] is the host's end, [`read_backup`] opens what the operator's machine has of it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use age::x25519;
use quorate_plan::{observation::Backup, wire::BACKUP_PART_BYTES_MAX};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    durable::{self, FileError},
    facts::{self, KEPT, NOTE, RECEIPT, kept},
    paths::Paths,
    shown,
};

/// etcd's snapshot among what was kept.
pub(crate) const SNAPSHOT: &str = "etcd.snapshot";

/// What this host last gave away whole: the receipt is compared with it.
const OFFER: &str = "offer.json";

/// The hash at the end of a snapshot, in bytes.
const SUM_BYTES: u64 = 32;

/// Largest note that is read out of an archive, in bytes.
const NOTE_BYTES_MAX: u64 = 8 << 20;

/// Why a backup was not sealed or not opened. Contents are never part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Nobody it could be sealed to.
    #[error("`{0}` is no age recipient: expected `age1…`, as `age-keygen -y` prints it")]
    Recipient(String),
    /// A file that holds no identity.
    #[error("`{}` holds no age identity: expected a line `AGE-SECRET-KEY-1…`", .0.display())]
    Identity(PathBuf),
    /// Nothing was kept, or not all of it.
    #[error("nothing was kept here that could be given away: `quorate convert` keeps it first")]
    Nothing,
    /// The snapshot on the disk is not the one that was verified.
    #[error(
        "etcd's snapshot is damaged: expected the hash {expected}, seen {seen}; look at that host's disk"
    )]
    Snapshot {
        /// Hex.
        expected: String,
        /// Hex.
        seen: String,
    },
    /// It could not be encrypted.
    #[error("cannot seal")]
    Encrypt(#[source] age::EncryptError),
    /// It is sealed to others, or is no age file, or was damaged.
    #[error("it cannot be opened: it is sealed to another identity, or is no age file, or damaged")]
    Decrypt(#[source] age::DecryptError),
    /// It was opened and is no backup, or not a whole one.
    #[error("that is no whole backup: {0}")]
    Senseless(String),
    /// A file of this machine.
    #[error(transparent)]
    File(#[from] FileError),
    /// Reading or writing the stream failed.
    #[error("the stream of the backup broke")]
    Stream(#[source] io::Error),
}

/// What was given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// What this host last gave away whole.
pub(crate) fn offer(paths: &Paths) -> Result<Option<Offer>, FileError> {
    durable::read_json(&kept(paths, OFFER))
}

/// Seals what was kept on this host to the recipients and writes it to `out` in parts: a length (u32, big endian) and that many bytes, a
/// length of 0 at the end, then how many bytes there were (u64, big endian) and their SHA-256. Where the snapshot is not the one that was
/// verified there is no end.
///
/// # Errors
/// See [`BackupError`].
pub fn send_backup(
    paths: &Paths,
    recipients: &[String],
    out: impl Write,
) -> Result<(), BackupError> {
    let backup = facts::backup(paths)?.ok_or(BackupError::Nothing)?;
    let to = recipients
        .iter()
        .map(|text| {
            text.parse::<x25519::Recipient>()
                .map_err(|_| BackupError::Recipient(shown::line(text)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    durable::remove(&kept(paths, OFFER))?;
    let sealing = age::Encryptor::with_recipients(to.iter().map(|one| one as &dyn age::Recipient))
        .map_err(BackupError::Encrypt)?;
    let mut sealed = sealing
        .wrap_output(Parts::new(out))
        .map_err(BackupError::Stream)?;
    let mut archive = tar::Builder::new(&mut sealed);
    archive.sparse(false);
    archive.follow_symlinks(false);
    pack(&mut archive, &paths.state(KEPT), Path::new(""), &backup)?;
    archive.into_inner().map_err(BackupError::Stream)?;
    let parts = sealed.finish().map_err(BackupError::Stream)?;
    let offer = parts.end().map_err(BackupError::Stream)?;
    Ok(durable::write_json(&kept(paths, OFFER), &offer)?)
}

/// Appends what lies in a folder, in the order of its names; the notes of what left the host stay out.
fn pack(
    archive: &mut tar::Builder<impl Write>,
    root: &Path,
    below: &Path,
    backup: &Backup,
) -> Result<(), BackupError> {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder)
        .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
        .map_err(FileError::new("read", &folder))?;
    let names: BTreeSet<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    for name in names {
        let (name, path) = (below.join(&name), folder.join(&name));
        if [OFFER, RECEIPT].iter().any(|own| name == Path::new(own)) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).map_err(FileError::new("look at", &path))?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        if meta.is_dir() {
            archive
                .append_data(&mut header, &name, io::empty())
                .map_err(BackupError::Stream)?;
            pack(archive, root, &name, backup)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(FileError::new("follow", &path))?;
            header.set_size(0);
            archive
                .append_link(&mut header, &name, target)
                .map_err(BackupError::Stream)?;
        } else if meta.is_file() {
            let file = File::open(&path).map_err(FileError::new("read", &path))?;
            let mut file = Summed::new(file, meta.len());
            archive
                .append_data(&mut header, &name, &mut file)
                .map_err(BackupError::Stream)?;
            if name == Path::new(SNAPSHOT) {
                file.verify(backup)?;
            }
        }
    }
    Ok(())
}

/// A snapshot while it is read: its hash, and the one that is written at its end.
struct Summed<R> {
    from: R,
    /// Bytes until the one at its end.
    left: u64,
    digest: Sha256,
    end: Vec<u8>,
}

impl<R> Summed<R> {
    fn new(from: R, bytes: u64) -> Self {
        Self {
            from,
            left: bytes.saturating_sub(SUM_BYTES),
            digest: Sha256::new(),
            end: Vec::new(),
        }
    }

    fn verify(self, backup: &Backup) -> Result<(), BackupError> {
        let expected = match &backup.snapshot {
            Some(snapshot) => snapshot.sha256.clone(),
            None => {
                return Err(BackupError::Senseless(
                    "a snapshot that no note names".into(),
                ));
            }
        };
        let seen = facts::hex(&self.digest.finalize());
        let own = facts::hex(&self.end);
        if seen == expected && own == expected {
            Ok(())
        } else {
            Err(BackupError::Snapshot { expected, seen })
        }
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        let hashed = usize::try_from(self.left).unwrap_or(usize::MAX).min(read);
        self.digest.update(&to[..hashed]);
        self.left -= hashed as u64;
        if self.end.len() as u64 <= SUM_BYTES {
            self.end.extend_from_slice(&to[hashed..read]);
        }
        Ok(read)
    }
}

/// Sealed bytes in parts.
struct Parts<W> {
    out: W,
    part: Vec<u8>,
    bytes: u64,
    digest: Sha256,
}

impl<W: Write> Parts<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            part: Vec::with_capacity(BACKUP_PART_BYTES_MAX as usize),
            bytes: 0,
            digest: Sha256::new(),
        }
    }

    fn give(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.part.len()).expect("a part is no longer than one may be");
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&self.part)?;
        self.digest.update(&self.part);
        self.bytes += u64::from(length);
        self.part.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<Offer> {
        self.give()?;
        let digest = self.digest.finalize();
        self.out.write_all(&0u32.to_be_bytes())?;
        self.out.write_all(&self.bytes.to_be_bytes())?;
        self.out.write_all(&digest)?;
        self.out.flush()?;
        Ok(Offer {
            bytes: self.bytes,
            sha256: facts::hex(&digest),
        })
    }
}

impl<W: Write> Write for Parts<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = BACKUP_PART_BYTES_MAX as usize - self.part.len();
        let taken = space.min(bytes.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if taken == space {
            self.give()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Small parts are of no use to anybody: the last one goes with the end.
        Ok(())
    }
}

/// A new identity: the text of a file for it, and its recipient.
pub fn new_backup_identity() -> (zeroize::Zeroizing<String>, String) {
    use age::secrecy::ExposeSecret as _;
    let identity = x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let text = format!("# public key: {recipient}\n{}\n", secret.expose_secret());
    (zeroize::Zeroizing::new(text), recipient)
}

/// The recipients of the identities in the text of an identity file.
///
/// # Errors
/// [`BackupError::Identity`] when there is none.
pub fn backup_recipients(file: &Path, text: &str) -> Result<Vec<String>, BackupError> {
    let found = identities(file, text)?;
    Ok(found
        .iter()
        .map(|one| one.to_public().to_string())
        .collect())
}

fn identities(file: &Path, text: &str) -> Result<Vec<x25519::Identity>, BackupError> {
    let found: Vec<x25519::Identity> = text
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    if found.is_empty() {
        return Err(BackupError::Identity(file.to_owned()));
    }
    Ok(found)
}

/// Whether that is a recipient to which a backup can be sealed.
///
/// # Errors
/// [`BackupError::Recipient`].
pub fn check_backup_recipient(text: &str) -> Result<(), BackupError> {
    match text.parse::<x25519::Recipient>() {
        Ok(_) => Ok(()),
        Err(_) => Err(BackupError::Recipient(shown::line(text))),
    }
}

/// A file, link or folder in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupEntry {
    /// Its path, escaped.
    pub path: String,
    /// Its size in bytes; 0 for what is no file.
    pub bytes: u64,
    /// Its permissions.
    pub mode: u32,
}

/// What a whole backup has in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupContents {
    /// In the order of the archive.
    pub entries: Vec<BackupEntry>,
    /// etcd's snapshot, whose bytes have the hash at its end and the one that its host noted: size in bytes and hash, hex.
    pub snapshot: Option<(u64, String)>,
}

/// Opens a sealed backup and reads all of it, so that what is told is known to be whole; `into` a new folder of that path if there is one.
///
/// # Errors
/// See [`BackupError`]. What was written into a folder until then is of no use.
pub fn read_backup(
    sealed: impl Read,
    identity_file: &Path,
    identity_text: &str,
    into: Option<&Path>,
) -> Result<BackupContents, BackupError> {
    let identities = identities(identity_file, identity_text)?;
    let opened = age::Decryptor::new(sealed)
        .and_then(|sealed| sealed.decrypt(identities.iter().map(|one| one as &dyn age::Identity)))
        .map_err(BackupError::Decrypt)?;
    if let Some(folder) = into {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(FileError::new("make the folder", folder))?;
    }
    let mut archive = tar::Archive::new(opened);
    let mut entries = Vec::new();
    let mut note = None;
    let mut snapshot = None;
    for entry in archive.entries().map_err(BackupError::Stream)? {
        let mut entry = entry.map_err(BackupError::Stream)?;
        let path = entry.path().map_err(BackupError::Stream)?.into_owned();
        let kind = entry.header().entry_type();
        let bytes = if kind.is_file() { entry.size() } else { 0 };
        entries.push(BackupEntry {
            path: shown::line(&path.to_string_lossy()),
            bytes,
            mode: entry.header().mode().map_err(BackupError::Stream)? & 0o7777,
        });
        if kind.is_file() && (path == Path::new(SNAPSHOT) || path == Path::new(NOTE)) {
            let mut from = Summed::new(&mut entry, bytes);
            if path == Path::new(NOTE) {
                let mut text = Vec::new();
                (&mut from)
                    .take(NOTE_BYTES_MAX)
                    .read_to_end(&mut text)
                    .map_err(BackupError::Stream)?;
                if let Some(folder) = into {
                    durable::write(&folder.join(NOTE), &text, 0o600)?;
                }
                note = Some(
                    serde_json::from_slice::<Backup>(&text)
                        .map_err(|err| BackupError::Senseless(shown::line(&err.to_string())))?,
                );
                continue;
            }
            match into {
                Some(folder) => {
                    use std::os::unix::fs::OpenOptionsExt as _;
                    let path = folder.join(SNAPSHOT);
                    let mut file = fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&path)
                        .map_err(FileError::new("make", &path))?;
                    io::copy(&mut from, &mut file).map_err(BackupError::Stream)?;
                    file.sync_all().map_err(FileError::new("sync", &path))?;
                }
                None => drop(io::copy(&mut from, &mut io::sink()).map_err(BackupError::Stream)?),
            }
            let Summed { digest, end, .. } = from;
            snapshot = Some((bytes, facts::hex(&digest.finalize()), facts::hex(&end)));
        } else if let Some(folder) = into {
            let inside = entry.unpack_in(folder).map_err(BackupError::Stream)?;
            if !inside {
                return Err(BackupError::Senseless(format!(
                    "`{}` lies outside of it",
                    shown::line(&path.to_string_lossy())
                )));
            }
        }
    }
    // To its very end: what was cut off behind the archive's own end is told by age alone.
    let mut opened = archive.into_inner();
    io::copy(&mut opened, &mut io::sink()).map_err(BackupError::Stream)?;
    let note = note.ok_or_else(|| BackupError::Senseless(format!("there is no `{NOTE}` in it")))?;
    let snapshot = match (note.snapshot, snapshot) {
        (None, None) => None,
        (Some(noted), Some((bytes, seen, own))) => {
            if seen != noted.sha256 || own != noted.sha256 || bytes != noted.bytes {
                return Err(BackupError::Snapshot {
                    expected: noted.sha256,
                    seen,
                });
            }
            Some((bytes, seen))
        }
        (Some(_), None) => {
            return Err(BackupError::Senseless(format!(
                "there is no `{SNAPSHOT}` in it"
            )));
        }
        (None, Some(_)) => {
            return Err(BackupError::Senseless(
                "a snapshot that no note names".into(),
            ));
        }
    };
    Ok(BackupContents { entries, snapshot })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::testing::{self, Machine};

    fn snapshot() -> (Vec<u8>, String) {
        // Longer than a part, and than a chunk of age's.
        let data = vec![7u8; 600 << 10];
        let sum = Sha256::digest(&data);
        ([data.as_slice(), &sum].concat(), facts::hex(&sum))
    }

    fn kept_master() -> Machine {
        let machine = testing::machine();
        let (bytes, sha256) = snapshot();
        machine.write("/var/lib/quorate/conversion/etcd.snapshot", &bytes);
        machine.write(
            "/var/lib/quorate/conversion/files/etc/kubernetes/pki/ca.key",
            "very secret",
        );
        symlink(
            "pki/ca.key",
            machine
                .paths
                .at("/var/lib/quorate/conversion/files/etc/kubernetes/link"),
        )
        .unwrap();
        let key = machine
            .paths
            .at("/var/lib/quorate/conversion/files/etc/kubernetes/pki/ca.key");
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
        let note = format!(
            r#"{{"snapshot":{{"bytes":{},"sha256":"{sha256}"}},"kubeconfigs":{{}},"serving":null,"objects":null}}"#,
            bytes.len()
        );
        machine.write("/var/lib/quorate/conversion/backup.json", &note);
        machine
    }

    /// The sealed bytes of a stream of parts that has an end.
    fn joined(mut stream: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::new();
        loop {
            let (length, rest) = stream.split_at_checked(4)?;
            let length = u32::from_be_bytes(length.try_into().ok()?);
            assert!(length <= BACKUP_PART_BYTES_MAX);
            if length == 0 {
                let (bytes, digest) = rest.split_at_checked(8)?;
                assert_eq!(bytes, (sealed.len() as u64).to_be_bytes());
                assert_eq!(digest, Sha256::digest(&sealed).as_slice());
                return Some(sealed);
            }
            let (part, rest) = rest.split_at_checked(length as usize)?;
            sealed.extend_from_slice(part);
            stream = rest;
        }
    }

    fn identity() -> (String, String) {
        let (text, recipient) = new_backup_identity();
        (text.to_string(), recipient)
    }

    #[test]
    fn it_leaves_sealed_and_can_be_opened_and_unpacked() {
        let machine = kept_master();
        let (text, recipient) = identity();
        let file = Path::new("key");
        assert_eq!(
            backup_recipients(file, &text).unwrap(),
            [recipient.as_str()]
        );
        let mut stream = Vec::new();
        send_backup(&machine.paths, &[recipient], &mut stream).unwrap();
        let sealed = joined(&stream).unwrap();
        let offer = offer(&machine.paths).unwrap().unwrap();
        assert_eq!(offer.bytes, sealed.len() as u64);
        assert!(sealed.starts_with(b"age-encryption.org/v1\n"));
        let secret = b"very secret";
        assert!(!stream.windows(secret.len()).any(|window| window == secret));

        let contents = read_backup(sealed.as_slice(), file, &text, None).unwrap();
        let (bytes, sha256) = snapshot();
        assert_eq!(contents.snapshot, Some((bytes.len() as u64, sha256)));
        let names: Vec<&str> = contents
            .entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect();
        assert!(
            names.contains(&"files/etc/kubernetes/pki/ca.key"),
            "{names:?}"
        );
        assert!(!names.contains(&OFFER), "{names:?}");

        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("opened");
        read_backup(sealed.as_slice(), file, &text, Some(&into)).unwrap();
        assert_eq!(fs::read(into.join("etcd.snapshot")).unwrap(), bytes);
        let key = into.join("files/etc/kubernetes/pki/ca.key");
        assert_eq!(fs::read(&key).unwrap(), secret);
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert!(into.join("files/etc/kubernetes/link").is_symlink());
        assert_eq!(fs::metadata(&into).unwrap().mode() & 0o777, 0o700);
        let again = read_backup(sealed.as_slice(), file, &text, Some(&into));
        assert!(again.is_err(), "written over what is there");
    }

    #[test]
    fn only_a_recipient_opens_it_and_damage_is_told() {
        let machine = kept_master();
        let (text, recipient) = identity();
        let (other, second) = identity();
        let file = Path::new("key");
        let mut stream = Vec::new();
        send_backup(&machine.paths, &[recipient, second], &mut stream).unwrap();
        let sealed = joined(&stream).unwrap();
        for one in [&text, &other] {
            read_backup(sealed.as_slice(), file, one, None).unwrap();
        }
        let stranger = read_backup(sealed.as_slice(), file, &identity().0, None);
        assert!(matches!(stranger, Err(BackupError::Decrypt(_))));
        let nobody = read_backup(sealed.as_slice(), file, "# nothing\n", None);
        assert!(matches!(nobody, Err(BackupError::Identity(_))));
        let cut = &sealed[..sealed.len() - 1];
        assert!(read_backup(cut, file, &text, None).is_err());
        let mut flipped = sealed.clone();
        flipped[300 << 10] ^= 1;
        assert!(read_backup(flipped.as_slice(), file, &text, None).is_err());
        let no_age = read_backup(&b"hello"[..], file, &text, None);
        assert!(matches!(no_age, Err(BackupError::Decrypt(_))));
    }

    #[test]
    fn a_damaged_snapshot_has_no_end() {
        let machine = kept_master();
        let (mut bytes, _) = snapshot();
        bytes[5] ^= 1;
        machine.write("/var/lib/quorate/conversion/etcd.snapshot", &bytes);
        let mut stream = Vec::new();
        let sent = send_backup(&machine.paths, &[identity().1], &mut stream);
        assert!(matches!(sent, Err(BackupError::Snapshot { .. })));
        assert!(joined(&stream).is_none());
        assert_eq!(offer(&machine.paths).unwrap(), None);
    }

    #[test]
    fn nothing_is_sent_of_what_was_not_kept_or_to_nobody() {
        let mut stream = Vec::new();
        let sent = send_backup(&testing::machine().paths, &[identity().1], &mut stream);
        assert!(matches!(sent, Err(BackupError::Nothing)));
        let machine = kept_master();
        let sent = send_backup(&machine.paths, &["age1\u{1b}".into()], &mut stream);
        assert!(matches!(sent, Err(BackupError::Recipient(_))));
        let sent = send_backup(&machine.paths, &[], &mut stream);
        assert!(matches!(sent, Err(BackupError::Encrypt(_))));
        assert!(stream.is_empty());
        check_backup_recipient("age1nothing").unwrap_err();
    }
}
