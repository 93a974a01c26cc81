//! Tickets: for a request that comes by another way than the session that asked for it, some time later. Start at [`issue`].
//!
//! A ticket is an age recipient, so that others can seal to it. Its identity and its time lie in memory, readable by root alone, until it is
//! used, once, or too old. The time is what makes testimony honest that was on its way: it was told after the ticket was issued, so it is at
//! most that old.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_plan::admit::Recipient;
use zeroize::Zeroizing;

use crate::{
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
    seal::Identity,
    session::since_boot_ms,
    shown,
};

/// Where they lie, below what lasts until the next boot.
const FOLDER: &str = "tickets";

/// How long one is good for: as long as a join token that may be sealed to it.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// A ticket that was shown, and is used up by that.
pub(crate) struct Ticket {
    /// Opens what was sealed to it.
    pub(crate) identity: Identity,
    /// Since it was issued.
    pub(crate) age: Duration,
}

/// A new ticket. Those that are too old go.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn issue(paths: &Paths) -> Result<Recipient, ActionError> {
    issue_at(paths, since_boot_ms())
}

fn issue_at(paths: &Paths, now_ms: u64) -> Result<Recipient, ActionError> {
    for folder in ["", FOLDER] {
        durable::private_folder(&paths.run(folder))?;
    }
    forget_old(paths, now_ms)?;
    let identity = Identity::generate();
    let recipient = identity.recipient();
    let path = place(paths, &recipient).expect("our own recipients have the form of one");
    let mut text = Zeroizing::new(format!("{now_ms} "));
    text.push_str(&identity.reveal());
    durable::write(&path, text.as_bytes(), 0o600)?;
    Ok(recipient)
}

/// The ticket with that recipient. Nobody can use it again.
///
/// # Errors
/// When there is none, or it is too old.
pub(crate) fn take(paths: &Paths, recipient: &Recipient) -> Result<Ticket, ActionError> {
    take_at(paths, recipient, since_boot_ms())
}

fn take_at(paths: &Paths, recipient: &Recipient, now_ms: u64) -> Result<Ticket, ActionError> {
    let unknown = |seen: String| {
        ActionError::unexpected(
            "a ticket of this host that was not used yet",
            seen,
            "ask for what is to be done again: `quorate requests` does, and so does the play when it is run again",
        )
    };
    let none = || unknown(format!("none is `{}`", shown::line(&recipient.0)));
    let path = place(paths, recipient).ok_or_else(none)?;
    let ticket = read(&path, now_ms)?.ok_or_else(none)?;
    durable::remove(&path)?;
    if ticket.age > LIFETIME {
        return Err(unknown(format!(
            "one that was issued {} s ago",
            ticket.age.as_secs()
        )));
    }
    Ok(ticket)
}

/// Forgets all of them.
///
/// # Errors
/// When they cannot be removed.
pub(crate) fn forget(paths: &Paths) -> Result<(), FileError> {
    durable::remove_folder(&paths.run(FOLDER))
}

/// `None`: there is none, or what is there is none.
fn read(path: &Path, now_ms: u64) -> Result<Option<Ticket>, FileError> {
    let Some(bytes) = durable::read(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let parse = || {
        let (issued_ms, identity) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
        let age_ms = now_ms.checked_sub(issued_ms.parse().ok()?)?;
        Some(Ticket {
            identity: Identity::revealed(identity)?,
            age: Duration::from_millis(age_ms),
        })
    };
    Ok(parse())
}

fn forget_old(paths: &Paths, now_ms: u64) -> Result<(), ActionError> {
    let folder = paths.run(FOLDER);
    let entries = fs::read_dir(&folder).map_err(FileError::new("read", &folder))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let good = read(&path, now_ms)?.is_some_and(|ticket| ticket.age <= LIFETIME);
        if !good {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// Its file. `None` for what has not the form of a recipient: it comes from outside, and names a file.
fn place(paths: &Paths, recipient: &Recipient) -> Option<PathBuf> {
    let name = &recipient.0;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (name.len() <= 100 && name.starts_with("age1") && name.bytes().all(plain))
        .then(|| paths.run(FOLDER).join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        seal::{ClusterCa, open, seal},
        testing,
    };

    #[test]
    fn one_is_good_once_and_opens_what_was_sealed_to_it() {
        let machine = testing::machine();
        let recipient = issue_at(&machine.paths, 1_000).unwrap();
        let file = place(&machine.paths, &recipient).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let folder = fs::metadata(file.parent().unwrap()).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        let ca = ClusterCa {
            pem: Zeroizing::new(b"pem".to_vec()),
        };
        let sealed = seal(&ca, &recipient).unwrap();
        let ticket = take_at(&machine.paths, &recipient, 4_500).unwrap();
        assert_eq!(ticket.age, Duration::from_millis(3_500));
        let opened: ClusterCa = open(&ticket.identity, &[sealed]).ok().unwrap();
        assert_eq!(opened.pem.as_slice(), b"pem");
        assert!(take_at(&machine.paths, &recipient, 4_600).is_err());
        assert!(!file.exists());
    }

    #[test]
    fn an_old_one_is_none_and_goes() {
        let machine = testing::machine();
        let late = 1_000 + u64::try_from(LIFETIME.as_millis()).unwrap() + 1;
        let recipient = issue_at(&machine.paths, 1_000).unwrap();
        let err = take_at(&machine.paths, &recipient, late).err().unwrap();
        assert!(err.to_string().contains("issued 900 s ago"), "{err}");
        let forgotten = issue_at(&machine.paths, 1_000).unwrap();
        let kept = issue_at(&machine.paths, late).unwrap();
        assert!(!place(&machine.paths, &forgotten).unwrap().exists());
        take_at(&machine.paths, &kept, late).unwrap();
        let unused = issue_at(&machine.paths, late).unwrap();
        forget(&machine.paths).unwrap();
        assert!(take_at(&machine.paths, &unused, late).is_err());
    }

    #[test]
    fn what_is_no_ticket_names_no_file() {
        let machine = testing::machine();
        machine.write("/run/quorate/secret", "1 AGE-SECRET-KEY-1");
        issue_at(&machine.paths, 1_000).unwrap();
        for name in [
            "",
            "age1",
            "age1x",
            "../secret",
            "age1/../../secret",
            "age1\u{1b}[2J",
        ] {
            let err = take_at(&machine.paths, &Recipient(name.into()), 2_000)
                .err()
                .unwrap();
            assert!(!err.to_string().contains('\u{1b}'), "{err}");
        }
        assert!(machine.paths.run("secret").exists());
    }

    /// A clock since boot does not run backwards; a file that says so is of another boot or of somebody else.
    #[test]
    fn one_from_the_future_is_none() {
        let machine = testing::machine();
        let recipient = issue_at(&machine.paths, 9_000).unwrap();
        assert!(take_at(&machine.paths, &recipient, 8_000).is_err());
    }
}
