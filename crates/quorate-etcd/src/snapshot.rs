//! A member's database as a stream of bytes that proves itself: the member appends the SHA-256 of what it sent.

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::wire;
use crate::{Client, EtcdError};

const CALL: &str = "/etcdserverpb.Maintenance/Snapshot";

/// Length of the appended hash, in bytes.
const SUM_LEN: usize = 32;

/// etcd's database is written in whole sectors of 512 bytes; a length that is not (plus the hash) was not sent by etcd.
const SECTOR: u64 = 512;

/// A snapshot in flight. Read it with [`Snapshot::next`] until it yields `None`, or with [`Snapshot::write_to`]: only then is it
/// known to be whole. Dropping it earlier ends the stream.
#[must_use = "a snapshot that is not read to its end is not verified"]
pub struct Snapshot {
    endpoint: String,
    stream: tonic::Streaming<wire::SnapshotResponse>,
    stall_max: Duration,
    seal: Seal,
    total: Option<u64>,
    version: String,
    sum: Option<SnapshotSum>,
}

/// What a verified snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSum {
    /// Everything that was sent, the appended hash included, in bytes.
    pub bytes: u64,
    /// The SHA-256 of the database, which is also the snapshot's last 32 bytes.
    pub sha256: [u8; 32],
    /// The version of the storage that wrote it, such as `3.6.0`; empty before 3.6.
    pub storage_version: String,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("endpoint", &self.endpoint)
            .field("bytes", &self.seal.bytes)
            .finish_non_exhaustive()
    }
}

/// Writing a snapshot failed on one of its two sides.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotWriteError {
    /// The member's side.
    #[error("the snapshot did not arrive whole")]
    Etcd(#[source] EtcdError),
    /// Our side.
    #[error("the snapshot could not be written")]
    Write(#[source] std::io::Error),
}

impl Client {
    /// Streams this member's database. `begin_within` is for the first byte, `stall_max` for each pause after it: how long the
    /// whole takes depends on its size.
    ///
    /// The bytes are the file `etcdctl snapshot save` would write, the appended hash included, which `etcdutl snapshot restore`
    /// wants to see.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn snapshot(
        &self,
        begin_within: Duration,
        stall_max: Duration,
    ) -> Result<Snapshot, EtcdError> {
        let stream = self.streaming(CALL, wire::Empty {}, begin_within).await?;
        Ok(Snapshot {
            endpoint: self.endpoint.to_string(),
            stream,
            stall_max,
            seal: Seal::default(),
            total: None,
            version: String::new(),
            sum: None,
        })
    }
}

impl Snapshot {
    /// The next bytes; `None` once everything has arrived and the hash was right.
    ///
    /// # Errors
    /// [`EtcdError::SnapshotDamaged`] at the end when it is not what the member meant to send; [`EtcdError::Deadline`] when it
    /// stalls; see [`EtcdError`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, EtcdError> {
        loop {
            if self.sum.is_some() {
                return Ok(None);
            }
            let started = Instant::now();
            let message = match tokio::time::timeout(self.stall_max, self.stream.message()).await {
                Err(_) => return Err(EtcdError::deadline(&self.endpoint, CALL, self.stall_max)),
                Ok(Err(status)) => {
                    return Err(EtcdError::from_status(
                        &self.endpoint,
                        CALL,
                        started.elapsed(),
                        &status,
                    ));
                }
                Ok(Ok(message)) => message,
            };
            match message {
                Some(part) if part.blob.is_empty() => {}
                Some(part) => {
                    if self.total.is_none() {
                        self.total =
                            Some(part.remaining_bytes + part.blob.len() as u64 + SUM_LEN as u64);
                        self.version = part.version;
                    }
                    self.seal.take(&part.blob);
                    return Ok(Some(part.blob));
                }
                None => {
                    let sha256 = self
                        .seal
                        .verify()
                        .map_err(|why| EtcdError::SnapshotDamaged {
                            endpoint: self.endpoint.clone(),
                            why,
                        })?;
                    let storage_version = std::mem::take(&mut self.version);
                    self.sum = Some(SnapshotSum {
                        bytes: self.seal.bytes,
                        sha256,
                        storage_version,
                    });
                }
            }
        }
    }

    /// How many bytes there will be, known after the first part.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// What it was, once [`Snapshot::next`] has yielded `None`.
    pub fn sum(&self) -> Option<&SnapshotSum> {
        self.sum.as_ref()
    }

    /// Writes all of it and flushes the writer. Syncing and renaming the file into place stay with the caller, after this.
    ///
    /// # Errors
    /// Either side's.
    pub async fn write_to<W: AsyncWrite + Unpin>(
        mut self,
        to: &mut W,
    ) -> Result<SnapshotSum, SnapshotWriteError> {
        while let Some(part) = self.next().await.map_err(SnapshotWriteError::Etcd)? {
            to.write_all(&part)
                .await
                .map_err(SnapshotWriteError::Write)?;
        }
        to.flush().await.map_err(SnapshotWriteError::Write)?;
        Ok(self.sum.expect("next() yields None only after setting it"))
    }
}

/// Tells the database from the hash behind it, without knowing where the one ends before everything has arrived.
#[derive(Default)]
struct Seal {
    hasher: Sha256,
    /// The last bytes seen, which are the appended hash if nothing follows.
    tail: Vec<u8>,
    bytes: u64,
}

impl Seal {
    fn take(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.tail.extend_from_slice(part);
        let database = self.tail.len().saturating_sub(SUM_LEN);
        self.hasher.update(&self.tail[..database]);
        self.tail.drain(..database);
    }

    /// The hash, or what is wrong.
    fn verify(&mut self) -> Result<[u8; SUM_LEN], String> {
        let Ok(sent) = <[u8; SUM_LEN]>::try_from(self.tail.as_slice()) else {
            return Err(format!("it ended after {} bytes", self.bytes));
        };
        if !(self.bytes - SUM_LEN as u64).is_multiple_of(SECTOR) {
            return Err(format!(
                "{} bytes arrived, which is not a multiple of {SECTOR} plus {SUM_LEN}",
                self.bytes
            ));
        }
        let seen: [u8; SUM_LEN] = self.hasher.finalize_reset().into();
        if seen != sent {
            return Err(format!(
                "the SHA-256 of its {} bytes is not the one etcd sent",
                self.bytes
            ));
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(parts: &[&[u8]]) -> Result<[u8; SUM_LEN], String> {
        let mut seal = Seal::default();
        parts.iter().for_each(|part| seal.take(part));
        seal.verify()
    }

    #[test]
    fn a_whole_snapshot_is_known_however_it_is_cut() {
        let database = vec![3; 2048];
        let sum: [u8; SUM_LEN] = Sha256::digest(&database).into();
        let sent = [database.as_slice(), &sum].concat();
        for size in [1, 7, 31, 32, 33, 1000, sent.len()] {
            let parts: Vec<&[u8]> = sent.chunks(size).collect();
            assert_eq!(verify(&parts), Ok(sum), "in parts of {size}");
        }
    }

    #[test]
    fn a_damaged_one_is_refused() {
        let database = vec![3; 2048];
        let sum = Sha256::digest(&database);
        let mut flipped = [database.as_slice(), &sum].concat();
        flipped[100] ^= 1;
        assert!(verify(&[&flipped]).unwrap_err().contains("SHA-256"));
        // The database without its hash, which is also a multiple of 512 short of 32.
        assert!(verify(&[&database]).unwrap_err().contains("multiple"));
        // A whole sector is missing.
        assert!(
            verify(&[&database[512..], &sum])
                .unwrap_err()
                .contains("SHA-256")
        );
        assert!(
            verify(&[&sum[..31]])
                .unwrap_err()
                .contains("ended after 31")
        );
        assert!(verify(&[]).is_err());
    }
}
