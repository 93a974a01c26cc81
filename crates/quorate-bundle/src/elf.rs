//! The libraries an ELF program names: what `ldd` prints, without running anything of a foreign root.
//! Start at [`Needs::of`].

use std::io;

/// What a dynamically linked program or library asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The dynamic loader; libraries have none.
    pub(crate) loader: Option<String>,
    /// File names of libraries.
    pub(crate) libraries: Vec<String>,
    /// Further folders to look in (RPATH or RUNPATH, split at `:`).
    pub(crate) folders: Vec<String>,
}

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_LOADER: u32 = 3;
const TAG_END: u64 = 0;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;
const TAG_RPATH: u64 = 15;
const TAG_RUNPATH: u64 = 29;

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Needs {
    /// Reads a whole file's bytes. A statically linked program needs nothing.
    ///
    /// # Errors
    /// When the bytes are not a 64-bit little-endian ELF file, or point outside themselves.
    pub(crate) fn of(file: &[u8]) -> io::Result<Self> {
        if file.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err(bad("not a 64-bit little-endian ELF file"));
        }
        let segments = segments(file)?;
        let mut needs = Self::default();
        if let Some(loader) = segments.iter().find(|s| s.kind == SEGMENT_LOADER) {
            needs.loader = Some(text(file, loader.offset)?);
        }
        let Some(dynamic) = segments.iter().find(|s| s.kind == SEGMENT_DYNAMIC) else {
            return Ok(needs);
        };
        let mut tags = Vec::new();
        for at in (0..dynamic.size / 16).map(|i| dynamic.offset.saturating_add(i * 16)) {
            let (tag, value) = (u64_at(file, at)?, u64_at(file, at.saturating_add(8))?);
            if tag == TAG_END {
                break;
            }
            tags.push((tag, value));
        }
        let Some(&(_, strings)) = tags.iter().find(|(tag, _)| *tag == TAG_STRINGS) else {
            return Ok(needs);
        };
        // The table is given by its address in memory; a LOAD segment says where in the file that is.
        let strings = segments
            .iter()
            .find(|s| {
                s.kind == SEGMENT_LOAD && s.address <= strings && strings - s.address < s.size
            })
            .map(|s| s.offset.saturating_add(strings - s.address))
            .ok_or_else(|| bad("the string table lies in no segment"))?;
        for (tag, value) in tags {
            match tag {
                TAG_NEEDED => needs
                    .libraries
                    .push(text(file, strings.saturating_add(value))?),
                TAG_RPATH | TAG_RUNPATH => {
                    let folders = text(file, strings.saturating_add(value))?;
                    needs.folders.extend(folders.split(':').map(str::to_owned));
                }
                _ => {}
            }
        }
        Ok(needs)
    }
}

fn segments(file: &[u8]) -> io::Result<Vec<Segment>> {
    let start = u64_at(file, 32)?;
    let each = u64::from(u16_at(file, 54)?);
    let count = u64::from(u16_at(file, 56)?);
    (0..count)
        .map(|i| {
            let at = start.saturating_add(i * each);
            Ok(Segment {
                kind: u32_at(file, at)?,
                offset: u64_at(file, at.saturating_add(8))?,
                address: u64_at(file, at.saturating_add(16))?,
                size: u64_at(file, at.saturating_add(32))?,
            })
        })
        .collect()
}

fn bytes_at<const N: usize>(file: &[u8], at: u64) -> io::Result<[u8; N]> {
    usize::try_from(at)
        .ok()
        .and_then(|at| file.get(at..at.checked_add(N)?))
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad("it ends before a field it announces"))
}

fn u16_at(file: &[u8], at: u64) -> io::Result<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: u64) -> io::Result<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: u64) -> io::Result<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

fn text(file: &[u8], at: u64) -> io::Result<String> {
    let rest = usize::try_from(at)
        .ok()
        .and_then(|at| file.get(at..))
        .ok_or_else(|| bad("a name lies outside the file"))?;
    let end = rest
        .iter()
        .take(4096)
        .position(|&b| b == 0)
        .ok_or_else(|| bad("a name does not end"))?;
    String::from_utf8(rest[..end].to_vec()).map_err(|_| bad("a name is not UTF-8"))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_needs_the_c_library() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = Needs::of(&me).unwrap();
        if cfg!(target_env = "gnu") && !cfg!(target_feature = "crt-static") {
            assert!(
                needs.libraries.iter().any(|lib| lib.starts_with("libc.so")),
                "{needs:?}"
            );
            assert!(
                needs
                    .loader
                    .as_deref()
                    .is_some_and(|loader| loader.contains("ld-linux")),
                "{needs:?}"
            );
        } else {
            assert!(needs.libraries.is_empty(), "{needs:?}");
        }
    }

    #[test]
    fn damaged_files_are_errors_not_panics() {
        assert!(Needs::of(b"#!/bin/sh\n").is_err());
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for keep in [6, 40, 64, 100, 200] {
            assert!(Needs::of(&me[..keep]).is_err(), "{keep}");
        }
        let mut wild = me[..4096].to_vec();
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Needs::of(&wild).is_err());
    }
}
