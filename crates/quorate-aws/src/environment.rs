//! What the process was started with, as a value: the chain of credentials, the region and the endpoints are all read from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// Environment variables whose names begin with `AWS_`, and the home directory. Shows names only: some values are secrets.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Zeroizing<String>>,
    home: Option<PathBuf>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .finish()
    }
}

impl Environment {
    /// This process's. Values that are not text are as good as absent.
    pub fn of_process() -> Environment {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with("AWS_")
                .then_some((name, value.into_string().ok()?))
        });
        Environment::of(variables, std::env::var_os("HOME").map(PathBuf::from))
    }

    /// One made of its parts.
    pub fn of(
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
        home: Option<PathBuf>,
    ) -> Environment {
        Environment {
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.into(), Zeroizing::new(value.into())))
                .collect(),
            home,
        }
    }

    /// A variable that is set to something; an empty one is as good as absent, as for AWS's own tools.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A path, with `~/` for the home directory.
    pub(crate) fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        }
    }

    pub(crate) fn home(&self) -> Option<&PathBuf> {
        self.home.as_ref()
    }
}
