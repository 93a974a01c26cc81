//! Text that is not to be seen.

use serde::Deserialize;
use zeroize::Zeroizing;

/// A secret key or a token: wiped when it is dropped, shown by nothing: it has neither `Debug` nor `Display`.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }
}

impl Secret {
    /// The text itself, for a signature or a header.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}
