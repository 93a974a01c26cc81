//! Unpredictable bytes, from the kernel.

use std::{fs::File, io, io::Read};

/// Letters of a bootstrap token.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Bytes nobody can guess.
///
/// # Errors
/// When the kernel gives none.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Text of that length of a-z and 0-9, every letter equally likely.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn letters(length: usize) -> io::Result<String> {
    let mut out = String::with_capacity(length);
    // The largest multiple of 36 that a byte holds: what is above it would favour some letters.
    let fair = |byte: &u8| *byte < 252;
    while out.len() < length {
        let missing = length - out.len();
        let fresh: [u8; 32] = bytes()?;
        let fresh = fresh.iter().filter(|byte| fair(byte)).take(missing);
        out.extend(fresh.map(|byte| char::from(LETTERS[usize::from(byte % 36)])));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_of_the_right_kind_and_never_the_same() {
        let one = letters(100).unwrap();
        assert_eq!(one.len(), 100);
        assert!(one.bytes().all(|b| LETTERS.contains(&b)));
        assert_ne!(one, letters(100).unwrap());
    }
}
