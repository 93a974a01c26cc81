//! The servers that kubeconfigs name, and leading a kubeconfig elsewhere: only that line is touched, whatever else is in the file.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
};

use zeroize::Zeroizing;

use crate::durable::{self, FileError};

/// The text with every `server:` for which `to` has another value led there.
pub(crate) fn led(text: &str, to: impl Fn(&str) -> Option<String>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() + 64));
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        let indented = body.trim_start();
        let indent = &body[..body.len() - indented.len()];
        let old = indented.strip_prefix("server:").map(unquoted);
        match old.and_then(&to) {
            Some(new) => {
                out.push_str(indent);
                out.push_str("server: ");
                out.push_str(&new);
                out.push_str(&line[body.len()..]);
            }
            None => out.push_str(line),
        }
    }
    out
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let quoted = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark);
    quoted('"').or_else(|| quoted('\'')).unwrap_or(value)
}

/// Leads a kubeconfig elsewhere: `to` has the new server for each that it names, or none where it stays. Mode, owner and all else are kept.
/// Says whether anything had to be changed; a file that is not there is left so.
///
/// # Errors
/// When it cannot be read or replaced.
pub fn lead(path: &Path, to: impl Fn(&str) -> Option<String>) -> Result<bool, FileError> {
    let Some(text) = durable::read_text(path)? else {
        return Ok(false);
    };
    let text = Zeroizing::new(text);
    let new = led(&text, to);
    if *new == *text {
        return Ok(false);
    }
    replace(path, new.as_bytes())?;
    Ok(true)
}

/// Replaces a file by these bytes, its mode and owner kept.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let meta = fs::metadata(path).map_err(FileError::new("look at", path))?;
    // A link is followed: what is replaced is the file, not the way to it.
    let place = fs::canonicalize(path).map_err(FileError::new("follow", path))?;
    let new = place.with_extension("quorate-led");
    durable::write(&new, bytes, meta.mode() & 0o7777)?;
    match chown(&new, Some(meta.uid()), Some(meta.gid())) {
        // Who is not root owns it already.
        Err(err) if err.kind() == ErrorKind::PermissionDenied => {}
        result => result.map_err(FileError::new("give away", &new))?,
    }
    durable::rename(&new, &place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing;

    const TEXT: &str = "clusters:\n- cluster:\n    server: https://10.0.0.1:6443\n  name: a\n- cluster:\n    server: \"https://elsewhere:6443\"\n  name: b\nusers: []";

    fn old(server: &str) -> Option<String> {
        (server == "https://10.0.0.1:6443").then(|| "https://api:6443".to_owned())
    }

    #[test]
    fn only_the_old_server_is_replaced() {
        let new = led(TEXT, old);
        assert_eq!(
            *new,
            TEXT.replace("https://10.0.0.1:6443", "https://api:6443")
        );
        assert_eq!(*led(&new, old), *new, "twice is once");
        let quoted = TEXT.replace(
            "server: https://10.0.0.1:6443",
            "server: 'https://10.0.0.1:6443'",
        );
        assert_eq!(*led(&quoted, old), *new);
    }

    #[test]
    fn mode_and_the_rest_of_the_file_are_kept() {
        let machine = testing::machine();
        machine.write("/etc/kubernetes/admin.conf", TEXT);
        let path = machine.paths.kubernetes("admin.conf");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(lead(&path, old).unwrap());
        assert!(!lead(&path, old).unwrap(), "twice is once");
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(machine.read("/etc/kubernetes/admin.conf"), *led(TEXT, old));
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
        assert!(!lead(&machine.paths.kubernetes("none.conf"), old).unwrap());
    }

    #[test]
    fn a_link_stays_a_link() {
        let machine = testing::machine();
        machine.write("/etc/kubernetes/admin.conf", TEXT);
        std::fs::create_dir_all(machine.paths.at("/root/.kube")).unwrap();
        let link = machine.paths.at("/root/.kube/config");
        std::os::unix::fs::symlink(machine.paths.kubernetes("admin.conf"), &link).unwrap();
        assert!(lead(&link, old).unwrap());
        assert!(link.is_symlink());
        assert_eq!(machine.read("/etc/kubernetes/admin.conf"), *led(TEXT, old));
    }
}
