//! What one host gives another: sealed to an age recipient that the receiver made for this session, or for a request that somebody else
//! carries (see `ticket`), and whose identity never leaves its memory. The types that hold plaintext have neither `Debug` nor `Serialize`, and wipe themselves. Start at [`Identity`].

use age::x25519;
use quorate_plan::{Sealed, admit::Recipient};
use zeroize::Zeroizing;

/// The CA set, by path below the `pki` folder: everything a control plane host cannot make for itself.
pub(crate) const CA_FILES: [&str; 8] = [
    "ca.key",
    "ca.crt",
    "front-proxy-ca.key",
    "front-proxy-ca.crt",
    "etcd/ca.key",
    "etcd/ca.crt",
    "sa.key",
    "sa.pub",
];

/// Longest part of a sealed message, in bytes: keys and certificates are below 10 KiB.
const PART_BYTES_MAX: usize = 64 << 10;

/// Why something was not sealed or opened. Contents are never part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Not an age recipient.
    #[error("`{0}` is not an age recipient")]
    Recipient(String),
    /// It could not be encrypted.
    #[error("cannot seal")]
    Encrypt(#[source] age::EncryptError),
    /// It was sealed to somebody else, or damaged on the way.
    #[error(
        "what was sealed cannot be opened: it is for another session or damaged; ask for a new recipient and seal again"
    )]
    Decrypt(#[source] age::DecryptError),
    /// It was opened and is something else.
    #[error("what was sealed is not {expected}")]
    Other {
        /// What was expected.
        expected: &'static str,
    },
    /// The request brought nothing sealed.
    #[error("the request brings no {expected}, sealed to this session")]
    Nothing {
        /// What was expected.
        expected: &'static str,
    },
}

/// The identity of a session, or of a ticket.
pub(crate) struct Identity(x25519::Identity);

impl Identity {
    pub(crate) fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    pub(crate) fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public().to_string())
    }

    /// What it is kept as, for a ticket.
    pub(crate) fn reveal(&self) -> Zeroizing<String> {
        use age::secrecy::ExposeSecret as _;
        Zeroizing::new(self.0.to_string().expose_secret().to_owned())
    }

    /// One that was kept. `None`: that is none.
    pub(crate) fn revealed(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    fn open(&self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        age::decrypt(&self.0, sealed.0.as_bytes())
            .map(Zeroizing::new)
            .map_err(SealError::Decrypt)
    }
}

/// Plaintext that one host gives another.
pub(crate) trait Secret: Sized {
    /// What it is, for messages, and the first part of it on the way, so that one is never taken for another.
    const NAME: &'static str;

    /// Its parts, always in the same order and number.
    fn parts(&self) -> Vec<&[u8]>;

    /// From its parts. `None` when they are not what they should be.
    fn from_parts(parts: Vec<Zeroizing<Vec<u8>>>) -> Option<Self>;
}

/// The CA set with its private keys, in the order of [`CA_FILES`].
pub(crate) struct CaSet {
    pub(crate) files: Vec<(&'static str, Zeroizing<Vec<u8>>)>,
}

impl Secret for CaSet {
    const NAME: &'static str = "CA set";

    fn parts(&self) -> Vec<&[u8]> {
        self.files
            .iter()
            .map(|(_, bytes)| bytes.as_slice())
            .collect()
    }

    fn from_parts(parts: Vec<Zeroizing<Vec<u8>>>) -> Option<Self> {
        (parts.len() == CA_FILES.len()).then(|| Self {
            files: CA_FILES.into_iter().zip(parts).collect(),
        })
    }
}

/// The cluster CA's certificate.
pub(crate) struct ClusterCa {
    pub(crate) pem: Zeroizing<Vec<u8>>,
}

impl Secret for ClusterCa {
    const NAME: &'static str = "cluster CA";

    fn parts(&self) -> Vec<&[u8]> {
        vec![&self.pem]
    }

    fn from_parts(parts: Vec<Zeroizing<Vec<u8>>>) -> Option<Self> {
        let [pem] = <[_; 1]>::try_from(parts).ok()?;
        Some(Self { pem })
    }
}

/// A bootstrap token, and how to know the cluster that takes it.
pub(crate) struct JoinToken {
    pub(crate) token: Zeroizing<String>,
    pub(crate) ca_hash: String,
}

impl Secret for JoinToken {
    const NAME: &'static str = "join token";

    fn parts(&self) -> Vec<&[u8]> {
        vec![self.token.as_bytes(), self.ca_hash.as_bytes()]
    }

    fn from_parts(parts: Vec<Zeroizing<Vec<u8>>>) -> Option<Self> {
        let [token, hash] = <[_; 2]>::try_from(parts).ok()?;
        Some(Self {
            token: Zeroizing::new(std::str::from_utf8(&token).ok()?.to_owned()),
            ca_hash: std::str::from_utf8(&hash).ok()?.to_owned(),
        })
    }
}

/// Seals a secret to a recipient.
pub(crate) fn seal<S: Secret>(secret: &S, to: &Recipient) -> Result<Sealed, SealError> {
    let recipient: x25519::Recipient =
        to.0.parse()
            .map_err(|_| SealError::Recipient(crate::shown::line(&to.0)))?;
    let parts: Vec<&[u8]> = std::iter::once(S::NAME.as_bytes())
        .chain(secret.parts())
        .collect();
    // Made in one piece: a buffer that grew would leave copies behind.
    let length = parts.iter().map(|part| 4 + part.len()).sum();
    let mut plain = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        let length = u32::try_from(part.len()).expect("keys and certificates are small");
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(part);
    }
    age::encrypt_and_armor(&recipient, &plain)
        .map(Sealed)
        .map_err(SealError::Encrypt)
}

/// The secret of that type among what was sealed to this session.
pub(crate) fn open<S: Secret>(identity: &Identity, sealed: &[Sealed]) -> Result<S, SealError> {
    let mut result = Err(SealError::Nothing { expected: S::NAME });
    for sealed in sealed {
        result = identity
            .open(sealed)
            .and_then(|plain| read(&plain).ok_or(SealError::Other { expected: S::NAME }));
        if result.is_ok() {
            break;
        }
    }
    result
}

fn read<S: Secret>(mut plain: &[u8]) -> Option<S> {
    let mut parts = Vec::new();
    while !plain.is_empty() {
        let (length, rest) = plain.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if length > PART_BYTES_MAX {
            return None;
        }
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(Zeroizing::new(part.to_vec()));
        plain = rest;
    }
    if parts.is_empty() || parts.remove(0).as_slice() != S::NAME.as_bytes() {
        return None;
    }
    S::from_parts(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            token: Zeroizing::new("abcdef.0123456789abcdef".into()),
            ca_hash: "sha256:00".into(),
        }
    }

    #[test]
    fn there_and_back() {
        let identity = Identity::generate();
        let sealed = seal(&token(), &identity.recipient()).unwrap();
        assert!(sealed.0.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        let back: JoinToken = open(&identity, &[sealed]).ok().unwrap();
        assert_eq!(back.token, token().token);
        assert_eq!(back.ca_hash, "sha256:00");
    }

    #[test]
    fn only_the_session_it_was_sealed_to_opens_it() {
        let sealed = seal(&token(), &Identity::generate().recipient()).unwrap();
        let result: Result<JoinToken, _> = open(&Identity::generate(), &[sealed]);
        assert!(matches!(result, Err(SealError::Decrypt(_))));
        let result: Result<JoinToken, _> = open(&Identity::generate(), &[]);
        assert!(matches!(result, Err(SealError::Nothing { .. })));
    }

    #[test]
    fn one_secret_is_not_taken_for_another() {
        let identity = Identity::generate();
        let sealed = seal(&token(), &identity.recipient()).unwrap();
        let result: Result<CaSet, _> = open(&identity, std::slice::from_ref(&sealed));
        assert!(matches!(result, Err(SealError::Other { .. })));
        let ca = ClusterCa {
            pem: Zeroizing::new(b"pem".to_vec()),
        };
        let both = [sealed, seal(&ca, &identity.recipient()).unwrap()];
        let found: Result<ClusterCa, _> = open(&identity, &both);
        assert_eq!(found.ok().unwrap().pem.as_slice(), b"pem");
    }

    #[test]
    fn damaged_plaintext_is_nothing() {
        for bytes in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\x09join",
            b"\xff\xff\xff\xffx",
            b"\0\0\0\x0ajoin token",
            b"\0\0\0\x0ajoin token\0\0\0\x01\xff\0\0\0\x01x",
        ] {
            assert!(read::<JoinToken>(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_recipient_is_refused() {
        let refused = seal(&token(), &Recipient("age1\u{1b}[2J".into()));
        let text = match refused {
            Err(err) => err.to_string(),
            Ok(_) => panic!("sealed to nobody"),
        };
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
