//! Connection records in chunks that never move; a key outlives its record harmlessly.

/// Names one record for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

/// Generations are cut to this many bits, so that a key and a role fit an epoll token.
const GENERATION_BITS: u32 = 29;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Records a chunk holds. Growing by chunks leaves no outgrown array behind, as a vector would: that
/// was half a record for every connection.
const CHUNK: usize = 128;

/// The records of one worker.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    chunks: Vec<Vec<Entry<T>>>,
    free: Vec<u32>,
}

impl Key {
    /// The key and a role below 8 as one word.
    pub(crate) fn to_word(self, role: usize) -> usize {
        debug_assert!(role < 8);
        (self.generation as usize) << 35 | (self.index as usize) << 3 | role
    }

    /// The parts of [`Key::to_word`].
    pub(crate) fn from_word(word: usize) -> (Key, usize) {
        (
            Key {
                index: (word >> 3) as u32,
                generation: (word >> 35) as u32,
            },
            word & 7,
        )
    }
}

impl<T> Slots<T> {
    /// A key no record ever has.
    pub(crate) fn no_key(&self) -> Key {
        Key {
            index: u32::MAX,
            generation: 0,
        }
    }

    pub(crate) fn new() -> Slots<T> {
        Slots {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }

    fn entry(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.chunks
            .get_mut(index as usize / CHUNK)?
            .get_mut(index as usize % CHUNK)
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entry(index)
        {
            entry.value = Some(value);
            return Key {
                index,
                generation: entry.generation,
            };
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self
            .chunks
            .last_mut()
            .expect("one was pushed if there was none");
        let index = u32::try_from(before + chunk.len()).expect("descriptors run out long before");
        chunk.push(Entry {
            generation: 0,
            value: Some(value),
        });
        Key {
            index,
            generation: 0,
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entry(key.index)?;
        if entry.generation == key.generation {
            entry.value.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entry(key.index)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(key.index);
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.chunks
            .iter_mut()
            .flatten()
            .enumerate()
            .filter_map(|(index, entry)| {
                let key = Key {
                    index: index as u32,
                    generation: entry.generation,
                };
                entry.value.as_mut().map(|value| (key, value))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_removed_record_finds_nothing() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        let second = slots.insert('b');
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.remove(first), None);
        let third = slots.insert('c');
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!(slots.get_mut(third), Some(&mut 'c'));
        assert_eq!(
            slots
                .iter_mut()
                .map(|(_, value)| *value)
                .collect::<String>(),
            "cb"
        );
    }

    #[test]
    fn every_record_is_found_past_one_chunk() {
        let mut slots = Slots::new();
        let keys: Vec<Key> = (0..3 * CHUNK + 5)
            .map(|value| slots.insert(value))
            .collect();
        for (value, key) in keys.iter().enumerate() {
            assert_eq!(slots.get_mut(*key), Some(&mut { value }));
        }
        assert!(
            slots
                .iter_mut()
                .map(|(key, value)| (key, *value))
                .eq(keys.iter().copied().zip(0..))
        );
        assert_eq!(slots.remove(keys[2 * CHUNK]), Some(2 * CHUNK));
        let again = slots.insert(7);
        assert_eq!(again.index, keys[2 * CHUNK].index);
    }

    #[test]
    fn a_record_stays_small() {
        // A thousand idle watches are a thousand of these: every byte counts.
        assert!(size_of::<Entry<crate::worker::conn::Conn>>() <= 104);
    }

    #[test]
    fn keys_survive_the_token() {
        for (index, generation, role) in [
            (0, 0, 0),
            (7, 3, 2),
            (u32::MAX, (1 << GENERATION_BITS) - 1, 7),
        ] {
            let key = Key { index, generation };
            assert_eq!(Key::from_word(key.to_word(role)), (key, role));
        }
    }
}
