//! Why a bundle could not be fetched.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use crate::digest::Sha256;
use crate::folder::FolderError;
use crate::version::UnknownMinor;

/// Why a bundle could not be fetched. Whatever a server wrote is shown with control characters escaped.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The minor is not known.
    #[error(transparent)]
    Minor(#[from] UnknownMinor),
    /// An address is not one.
    #[error("expected an address like https://mirror.example/path, got {0:?}")]
    Url(String),
    /// The file of certificate authorities cannot be used.
    #[error("cannot use {path} as a list of certificate authorities: {why}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no list of certificate authorities.
    #[error(
        "no list of certificate authorities found on this machine\nhint: name one with --ca FILE, or install the package ca-certificates"
    )]
    NoCa,
    /// The connection failed.
    #[error("cannot connect to {url}")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The exchange failed.
    #[error("the exchange with {url} failed")]
    Exchange {
        /// The address.
        url: String,
        /// Why.
        #[source]
        err: hyper::Error,
    },
    /// Nothing came for too long.
    #[error(
        "{url} sent nothing for {after:?}\nhint: run the same command again; it goes on from what is there"
    )]
    Stalled {
        /// The address.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server answered with an error.
    #[error("{url} answered {status}{hint}", hint = status_hint(.status))]
    Status {
        /// The address.
        url: String,
        /// The answer's status.
        status: StatusCode,
    },
    /// One redirection after another, or one to somewhere it must not lead.
    #[error("{url} redirects {why}")]
    Redirect {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The body ended early.
    #[error(
        "{url} ended after {found} of {expected} bytes\nhint: run the same command again; it goes on from what is there"
    )]
    Truncated {
        /// The address.
        url: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The body is longer than such a thing can be.
    #[error("{url} sent more than {limit} bytes")]
    TooLong {
        /// The address.
        url: String,
        /// Bytes expected at most.
        limit: u64,
    },
    /// The content is not what its digest says.
    #[error(
        "{url} has sha256 {found}, expected {expected}: the content was changed or damaged; it was thrown away"
    )]
    Digest {
        /// The address.
        url: String,
        /// The digest announced.
        expected: Sha256,
        /// The digest of what came.
        found: Sha256,
    },
    /// The file beside a program holds no digest.
    #[error("expected a SHA-256 digest in {url}, found {found:?}")]
    ChecksumFile {
        /// The address.
        url: String,
        /// The start of what came.
        found: String,
    },
    /// A registry's answer is not an image this program can use.
    #[error("{url} is not a usable image: {why}")]
    Image {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A registry asks for a login.
    #[error("{url} asks for a login, and no anonymous one was granted")]
    Login {
        /// The address.
        url: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl FetchError {
    /// Whether the server says that it has no such thing.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Status { status, .. } if matches!(*status, StatusCode::NOT_FOUND | StatusCode::GONE))
    }
}

fn status_hint(status: &StatusCode) -> &'static str {
    match *status {
        StatusCode::NOT_FOUND => {
            "\nhint: check that the mirror has this version and follows the layout in docs/reference/bundle.md"
        }
        _ => "",
    }
}
