//! The `quorate` binary for the hosts: which machine it is for, by what hash it is called there.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::command::SetupError;

/// The binary that hosts run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBinary {
    path: PathBuf,
    hash: String,
    bytes: u64,
    machine: &'static str,
}

impl NodeBinary {
    /// Reads a binary: its hash, and what machine it is for.
    ///
    /// # Errors
    /// When it cannot be read or is no 64-bit ELF program.
    pub fn open(path: &Path) -> Result<Self, SetupError> {
        let io_error = |source| SetupError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(io_error)?;
        let mut head = Vec::new();
        (&mut file)
            .take(20)
            .read_to_end(&mut head)
            .map_err(io_error)?;
        let machine = machine(&head).map_err(|seen| SetupError::NoBinary {
            path: path.to_owned(),
            seen,
        })?;
        file.rewind().map_err(io_error)?;
        let mut hash = Sha256::new();
        let bytes = io::copy(&mut file, &mut hash).map_err(io_error)?;
        Ok(Self {
            path: path.to_owned(),
            hash: hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            bytes,
            machine,
        })
    }

    /// Where it lies here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its SHA-256, hex: its name on the hosts.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The machine it is for, as `uname -sm` says it: `Linux x86_64`.
    pub fn machine(&self) -> String {
        format!("Linux {}", self.machine)
    }
}

/// The machine of an ELF program, as `uname -m` calls it, from its first 20 bytes; what it is instead.
fn machine(head: &[u8]) -> Result<&'static str, String> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = head else {
        return Err("a file that does not begin like one".into());
    };
    if (*class, *order) != (2, 1) || head.len() < 20 {
        return Err("an ELF file of another word size or byte order".into());
    }
    // e_machine, as the generic ABI numbers them.
    match u16::from_le_bytes([head[18], head[19]]) {
        62 => Ok("x86_64"),
        183 => Ok("aarch64"),
        243 => Ok("riscv64"),
        other => Err(format!("an ELF file for machine number {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_say_what_they_are_for() {
        let own = NodeBinary::open(Path::new("/proc/self/exe")).unwrap();
        let uname = nix::sys::utsname::uname().unwrap();
        assert_eq!(
            own.machine(),
            format!("Linux {}", uname.machine().to_string_lossy())
        );
        assert_eq!(own.hash().len(), 64);
        assert!(own.bytes() > 1000);

        let mut arm = vec![0x7f, b'E', b'L', b'F', 2, 1];
        arm.resize(20, 0);
        arm[18] = 183;
        assert_eq!(machine(&arm), Ok("aarch64"));
        arm[4] = 1;
        assert!(machine(&arm).is_err(), "32 bits");
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let error = NodeBinary::open(&script).unwrap_err().to_string();
        assert!(error.contains("expected a 64-bit ELF program"), "{error}");
    }
}
