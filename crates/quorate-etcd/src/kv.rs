//! Reading and writing keys: what drills and the repair of stale Kubernetes endpoints need, no more.

use std::time::Duration;

use crate::wire;
use crate::{Client, EtcdError};

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that last wrote it.
    pub mod_revision: i64,
    /// How often it was written since it was created, starting at 1.
    pub version: i64,
}

/// The keys found by [`Client::get_prefix`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// The entries, by key.
    pub entries: Vec<KeyValue>,
    /// How many keys there are with the prefix, whatever the limit.
    pub count: u64,
    /// Whether the limit left some out.
    pub more: bool,
    /// The store's revision when it was read.
    pub revision: i64,
}

impl From<wire::KeyValue> for KeyValue {
    fn from(kv: wire::KeyValue) -> Self {
        KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
        }
    }
}

/// The end of the range of all keys with `prefix`: the prefix with its last byte below 0xff raised by one; a zero byte ("no end")
/// when there is none.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// etcd has no empty key; the range of everything starts at the zero byte.
fn prefix_start(prefix: &[u8]) -> Vec<u8> {
    if prefix.is_empty() {
        vec![0]
    } else {
        prefix.to_vec()
    }
}

impl Client {
    /// The key's value, as a quorum agrees on it.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get(&self, key: &[u8], within: Duration) -> Result<Option<KeyValue>, EtcdError> {
        let request = wire::RangeRequest {
            key: key.to_vec(),
            ..Default::default()
        };
        let answer = self.range(request, within).await?;
        Ok(answer.kvs.into_iter().next().map(KeyValue::from))
    }

    /// The key's value as this member has it, which may be old; works without a quorum and on a learner.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get_local(
        &self,
        key: &[u8],
        within: Duration,
    ) -> Result<Option<KeyValue>, EtcdError> {
        let request = wire::RangeRequest {
            key: key.to_vec(),
            serializable: true,
            ..Default::default()
        };
        let answer = self.range(request, within).await?;
        Ok(answer.kvs.into_iter().next().map(KeyValue::from))
    }

    /// The first `limit` keys that start with `prefix`, by key, as a quorum agrees on them. An empty prefix is every key.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get_prefix(
        &self,
        prefix: &[u8],
        limit: u32,
        within: Duration,
    ) -> Result<Entries, EtcdError> {
        let request = wire::RangeRequest {
            key: prefix_start(prefix),
            range_end: prefix_end(prefix),
            limit: i64::from(limit),
            ..Default::default()
        };
        let answer = self.range(request, within).await?;
        Ok(Entries {
            entries: answer.kvs.into_iter().map(KeyValue::from).collect(),
            count: u64::try_from(answer.count).unwrap_or_default(),
            more: answer.more,
            revision: answer.header.map_or(0, |h| h.revision),
        })
    }

    /// Writes a key and returns the revision that wrote it.
    ///
    /// # Errors
    /// See [`EtcdError`], [`EtcdError::may_have_applied`] above all.
    pub async fn put(&self, key: &[u8], value: &[u8], within: Duration) -> Result<i64, EtcdError> {
        const CALL: &str = "/etcdserverpb.KV/Put";
        let answer: wire::HeaderOnly = self
            .unary(
                CALL,
                wire::PutRequest {
                    key: key.to_vec(),
                    value: value.to_vec(),
                },
                within,
            )
            .await?;
        answer
            .header
            .map(|h| h.revision)
            .ok_or_else(|| self.malformed(CALL, "it has no header"))
    }

    /// Deletes a key and returns whether it was there.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn delete(&self, key: &[u8], within: Duration) -> Result<bool, EtcdError> {
        let request = wire::DeleteRangeRequest {
            key: key.to_vec(),
            range_end: Vec::new(),
        };
        Ok(self.delete_range(request, within).await? > 0)
    }

    /// Deletes all keys that start with `prefix` and returns how many there were.
    ///
    /// # Errors
    /// See [`EtcdError`].
    ///
    /// # Panics
    /// When the prefix is empty: that would delete the whole store, which nobody means.
    pub async fn delete_prefix(&self, prefix: &[u8], within: Duration) -> Result<u64, EtcdError> {
        assert!(
            !prefix.is_empty(),
            "delete_prefix with an empty prefix would delete every key"
        );
        let request = wire::DeleteRangeRequest {
            key: prefix.to_vec(),
            range_end: prefix_end(prefix),
        };
        self.delete_range(request, within).await
    }

    async fn range(
        &self,
        request: wire::RangeRequest,
        within: Duration,
    ) -> Result<wire::RangeResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/Range", request, within).await
    }

    async fn delete_range(
        &self,
        request: wire::DeleteRangeRequest,
        within: Duration,
    ) -> Result<u64, EtcdError> {
        let answer: wire::DeleteRangeResponse = self
            .unary("/etcdserverpb.KV/DeleteRange", request, within)
            .await?;
        Ok(u64::try_from(answer.deleted).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_without_it() {
        for (prefix, end) in [
            (&b"/registry/"[..], &b"/registry0"[..]),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
            (b"", b"\0"),
        ] {
            assert_eq!(prefix_end(prefix), end, "prefix {prefix:?}");
        }
    }
}
