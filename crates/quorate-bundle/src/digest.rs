//! SHA-256 of files and streams. Start at [`hash_file`].

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use thiserror::Error;

/// A SHA-256 digest; written and read as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a SHA-256 digest of 64 hexadecimal digits, got {} characters", .0)]
pub struct DigestError(usize);

impl Sha256 {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Sha256 {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(text.chars().count());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16).ok_or_else(wrong)?;
            let low = char::from(pair[1]).to_digit(16).ok_or_else(wrong)?;
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(out))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

/// What a file holds: enough to tell it from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub sha256: Sha256,
}

/// Bytes per read. 256 KiB is past the point where the read calls show beside the hashing.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads a file to its end; `seen` is told the bytes of each read.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn hash_file(path: &Path, seen: &mut dyn FnMut(u64)) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut hashing = Hashing::new(io::sink());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = match file.read(&mut chunk) {
            Ok(0) => return Ok(hashing.finish().1),
            Ok(n) => n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        hashing.write_all(&chunk[..n])?;
        seen(n as u64);
    }
}

/// A writer that hashes what passes through it.
pub(crate) struct Hashing<W> {
    inner: W,
    state: sha2::Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            state: sha2::Sha256::new(),
            size: 0,
        }
    }

    /// The inner writer and what was written to it.
    pub(crate) fn finish(self) -> (W, Content) {
        let content = Content {
            size: self.size,
            sha256: Sha256(self.state.finalize().into()),
        };
        (self.inner, content)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.state.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A digest over named parts; every part is preceded by its length, so no two lists of parts collide.
pub(crate) struct Inputs(sha2::Sha256);

impl Inputs {
    pub(crate) fn new() -> Self {
        Self(sha2::Sha256::new())
    }

    pub(crate) fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(crate) fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_there_and_back() {
        let digest = Sha256::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("xyz".parse::<Sha256>(), Err(DigestError(3)));
        assert_eq!("g".repeat(64).parse::<Sha256>(), Err(DigestError(64)));
    }

    #[test]
    fn a_file_and_its_bytes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes = vec![7; CHUNK_BYTES + 3];
        std::fs::write(&path, &bytes).unwrap();
        let mut seen = 0;
        let content = hash_file(&path, &mut |n| seen += n).unwrap();
        assert_eq!(
            content,
            Content {
                size: bytes.len() as u64,
                sha256: Sha256::of(&bytes)
            }
        );
        assert_eq!(seen, bytes.len() as u64);
    }

    #[test]
    fn parts_do_not_run_together() {
        let digest = |parts: &[(&str, &str)]| {
            let mut inputs = Inputs::new();
            parts
                .iter()
                .for_each(|(name, value)| inputs.add(name, value));
            inputs.finish()
        };
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", "b"), ("c", "d")]), digest(&[("a", "bcd")]));
    }
}
