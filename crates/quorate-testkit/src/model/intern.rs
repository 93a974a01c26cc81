//! Values by number, and what follows from them computed once. Start at [`Interned`].
//!
//! The model meets the same worlds, looks and plans again and again on its millions of paths. Each is kept once and named by a number;
//! what the production code says about it is asked once and remembered, since it is a pure function.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{Arc, Mutex, RwLock},
};

/// Parts of a table that are locked each on its own.
const SHARDS: usize = 32;

/// A hash that is quick rather than strong: equal hashes are followed by a comparison, nobody attacks a test.
#[derive(Clone, Debug, Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

pub(super) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// The hash of a value.
pub(super) fn quick<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = Quick::default();
    value.hash(&mut hasher);
    hasher.finish()
}

fn shard(hash: u64) -> usize {
    usize::try_from(hash >> 40).expect("24 bits") % SHARDS
}

/// Values that are kept once, by number from 1. Number 0 is never given, so that it can mean "none".
#[derive(Debug)]
pub(super) struct Interned<T> {
    numbers: Vec<Mutex<QuickMap<u64, Vec<u32>>>>,
    values: RwLock<Vec<Arc<T>>>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            numbers: (0..SHARDS).map(|_| Mutex::default()).collect(),
            values: RwLock::default(),
        }
    }
}

impl<T: Eq + Hash> Interned<T> {
    /// The number of a value.
    pub(super) fn put(&self, value: Arc<T>) -> u32 {
        let hash = quick(&*value);
        let mut numbers = self.numbers[shard(hash)]
            .lock()
            .expect("nobody panics in it");
        let same_hash = numbers.entry(hash).or_default();
        for number in &*same_hash {
            if *self.get(*number) == *value {
                return *number;
            }
        }
        let mut values = self.values.write().expect("nobody panics in it");
        values.push(value);
        let number = u32::try_from(values.len()).expect("fewer than four thousand million values");
        same_hash.push(number);
        number
    }

    /// The value of a number.
    ///
    /// # Panics
    /// When it was never given.
    pub(super) fn get(&self, number: u32) -> Arc<T> {
        let values = self.values.read().expect("nobody panics in it");
        values[number as usize - 1].clone()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.values.read().expect("nobody panics in it").len()
    }
}

/// Results that were computed once.
#[derive(Debug)]
pub(super) struct Memo<K, V>(Vec<Mutex<QuickMap<K, V>>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    /// What was computed for `key`; computes it when nobody did. Two at once may both compute it: it is the same.
    pub(super) fn get(&self, key: K, compute: impl FnOnce() -> V) -> V {
        let shard = &self.0[shard(quick(&key))];
        if let Some(known) = shard.lock().expect("nobody panics in it").get(&key) {
            return known.clone();
        }
        let computed = compute();
        let mut known = shard.lock().expect("nobody panics in it");
        known.entry(key).or_insert(computed).clone()
    }

    /// What was computed for `key` so far.
    pub(super) fn known(&self, key: &K) -> Option<V> {
        let shard = &self.0[shard(quick(key))];
        shard.lock().expect("nobody panics in it").get(key).cloned()
    }

    /// Remembers a result.
    pub(super) fn put(&self, key: K, value: V) {
        let shard = &self.0[shard(quick(&key))];
        shard
            .lock()
            .expect("nobody panics in it")
            .insert(key, value);
    }

    /// How many results there are.
    pub(super) fn len(&self) -> usize {
        self.0
            .iter()
            .map(|shard| shard.lock().expect("nobody panics in it").len())
            .sum()
    }
}
