//! As whom calls are made. Start at [`Chain::find`]: the places where AWS's own tools look, in their order.
//!
//! A place that somebody set up and that does not work ends the search with an error: to go on to the next one would be to act as somebody
//! else, perhaps in another account. What is not supported is refused by its name for the same reason.

mod remote;
mod sso;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::environment::Environment;
use crate::error::shown;
use crate::http::{Http, HttpError};
use crate::profile::{Files, Profile, ProfileError};
use crate::secret::Secret;

pub(crate) use remote::region_of_machine;

/// Credentials that end this soon are renewed before they are used.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);

/// Where renewing fails, the old ones still do for this long before their end.
const USABLE_BEFORE: Duration = Duration::from_secs(30);

/// Where credentials came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// `AWS_ACCESS_KEY_ID` and what belongs to it.
    Environment,
    /// Keys in a profile.
    Profile {
        /// The profile.
        name: String,
        /// The file they stand in.
        path: PathBuf,
    },
    /// A session of `aws sso login`.
    Sso {
        /// The profile.
        name: String,
    },
    /// The endpoint of a container's or pod's role.
    Container {
        /// Its address.
        url: String,
    },
    /// The role of the instance this runs on.
    Instance {
        /// The role.
        role: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Environment => f.write_str("the environment's AWS_ACCESS_KEY_ID"),
            Source::Profile { name, path } => {
                write!(f, "profile `{}` in {}", shown(name, 100), path.display())
            }
            Source::Sso { name } => write!(f, "the SSO session of profile `{}`", shown(name, 100)),
            Source::Container { url } => write!(f, "the container's role from {url}"),
            Source::Instance { role } => write!(f, "this instance's role `{role}`"),
        }
    }
}

/// A key pair, with a token where it is a session's.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: Secret,
    pub(crate) token: Option<Secret>,
    /// `None` for those that do not end, or whose end only AWS knows.
    pub(crate) expires: Option<SystemTime>,
    pub(crate) source: Source,
}

impl Credentials {
    /// Who that is, for messages: never a whole key.
    pub(crate) fn identity(&self) -> String {
        let count = self.key_id.chars().count();
        let end: String = self.key_id.chars().skip(count.saturating_sub(4)).collect();
        format!("{} (key …{})", self.source, shown(&end, 4))
    }

    fn token(&self) -> Option<&str> {
        self.token.as_ref().map(Secret::expose)
    }

    /// Whether they still hold so much later.
    fn hold(&self, now: SystemTime, later: Duration) -> bool {
        self.expires.is_none_or(|expires| expires > now + later)
    }
}

/// A place where credentials were looked for, and what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Where.
    pub place: String,
    /// What was there instead of credentials.
    pub found: String,
}

/// Why there are no credentials. Nothing secret is part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Nowhere are any.
    #[error("no AWS credentials found; looked at{}\nhint: `aws sts get-caller-identity` must work where Quorate runs; `aws configure` or `aws sso login` set it up", list(.looked))]
    None {
        /// Every place, in order.
        looked: Vec<Looked>,
    },
    /// The environment has a part of them.
    #[error(
        "{present} is set and {absent} is not\nhint: set both, or neither to use a profile: `unset {present}`"
    )]
    Partial {
        /// What is set.
        present: &'static str,
        /// What is not.
        absent: &'static str,
    },
    /// A profile or a file of profiles cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A profile has a part of what it needs.
    #[error("profile `{profile}` in {path} has `{present}` and no `{absent}`")]
    Incomplete {
        /// The profile.
        profile: String,
        /// Where it is.
        path: PathBuf,
        /// What it has.
        present: &'static str,
        /// What it has not.
        absent: &'static str,
    },
    /// A way to get credentials that is not gone here.
    #[error(
        "{place} gets its credentials by `{key}`, which Quorate does not do\nhint: let AWS's command line do it, then start again: `{command}`"
    )]
    Unsupported {
        /// What says so.
        place: String,
        /// The key or variable.
        key: &'static str,
        /// What does it instead.
        command: String,
    },
    /// No usable session of `aws sso login`.
    #[error("profile `{profile}` uses SSO, and {why}\nhint: `aws sso login --profile {profile}`")]
    Sso {
        /// The profile.
        profile: String,
        /// What is wrong.
        why: String,
    },
    /// Something that hands out credentials did not answer.
    #[error("credentials from {place}")]
    Http {
        /// What and where.
        place: String,
        /// Why not.
        #[source]
        source: HttpError,
    },
    /// Something that hands out credentials handed out none.
    #[error("{place} gave no credentials: {why}")]
    Remote {
        /// What and where.
        place: String,
        /// What it said instead.
        why: String,
    },
    /// They have ended, and there are no others.
    #[error(
        "the credentials from {origin} have ended\nhint: get new ones, for example with `aws sso login`, and start again"
    )]
    Expired {
        /// Where they came from.
        origin: Source,
    },
}

fn list(looked: &[Looked]) -> String {
    looked
        .iter()
        .map(|each| format!("\n  {}: {}", each.place, each.found))
        .collect()
}

/// Looks for credentials.
pub(crate) struct Chain {
    pub(crate) environment: Environment,
    /// The profile that the caller asks for; it goes before everything.
    pub(crate) profile: Option<String>,
    pub(crate) http: Http,
    pub(crate) clock: Clock,
}

impl Chain {
    /// Looks at each place, in order, until `deadline`.
    pub(crate) async fn find(&self, deadline: Instant) -> Result<Credentials, CredentialsError> {
        let mut looked = Vec::new();
        let mut saw = |place: String, found: String| looked.push(Looked { place, found });
        if self.profile.is_none() {
            if let Some(found) = self.of_environment()? {
                return Ok(found);
            }
            saw(
                "environment".to_owned(),
                "AWS_ACCESS_KEY_ID is not set".to_owned(),
            );
        }
        let files = Files::read(&self.environment)?;
        let paths = format!(
            "{} and {}",
            files.config_path.display(),
            files.credentials_path.display()
        );
        match files.profile(self.profile.as_deref(), &self.environment)? {
            Some(profile) => {
                if let Some(found) = self.of_profile(&profile, deadline).await? {
                    return Ok(found);
                }
                saw(format!("{profile} in {paths}"), "no keys in it".to_owned());
            }
            None => saw(paths, "no profile `default`".to_owned()),
        }
        if let Some(found) = remote::of_container(self, deadline).await? {
            return Ok(found);
        }
        saw(
            "container".to_owned(),
            "neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor …_FULL_URI is set".to_owned(),
        );
        match remote::of_instance(self, deadline).await {
            Ok(found) => return Ok(found),
            Err((place, found)) => saw(place, found),
        }
        Err(CredentialsError::None { looked })
    }

    fn of_environment(&self) -> Result<Option<Credentials>, CredentialsError> {
        const ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        let get = |name| self.environment.get(name);
        match (get(ID), get(SECRET)) {
            (Some(id), Some(secret)) => Ok(Some(Credentials {
                key_id: id.to_owned(),
                secret: Secret::from(secret.to_owned()),
                token: get("AWS_SESSION_TOKEN").map(|token| Secret::from(token.to_owned())),
                expires: None,
                source: Source::Environment,
            })),
            (Some(_), None) => Err(CredentialsError::Partial {
                present: ID,
                absent: SECRET,
            }),
            (None, Some(_)) => Err(CredentialsError::Partial {
                present: SECRET,
                absent: ID,
            }),
            (None, None) => match get("AWS_WEB_IDENTITY_TOKEN_FILE") {
                Some(_) => Err(CredentialsError::Unsupported {
                    place: "the environment".to_owned(),
                    key: "AWS_WEB_IDENTITY_TOKEN_FILE",
                    command: "eval \"$(aws configure export-credentials --format env)\"".to_owned(),
                }),
                None => Ok(None),
            },
        }
    }

    async fn of_profile(
        &self,
        profile: &Profile<'_>,
        deadline: Instant,
    ) -> Result<Option<Credentials>, CredentialsError> {
        const ID: &str = "aws_access_key_id";
        const SECRET: &str = "aws_secret_access_key";
        let unsupported = |key| CredentialsError::Unsupported {
            place: profile.to_string(),
            key,
            command: format!(
                "eval \"$(aws configure export-credentials --profile {} --format env)\"",
                shown(&profile.name, 100)
            ),
        };
        for key in ["role_arn", "web_identity_token_file"] {
            if profile.get(key).is_some() {
                return Err(unsupported(key));
            }
        }
        if profile.get("sso_session").is_some() || profile.get("sso_start_url").is_some() {
            return sso::of_session(self, profile, deadline).await.map(Some);
        }
        let incomplete = |present, absent| CredentialsError::Incomplete {
            profile: shown(&profile.name, 100),
            path: profile.place_of(present).to_owned(),
            present,
            absent,
        };
        match (profile.get(ID), profile.get(SECRET)) {
            (Some(id), Some(secret)) => Ok(Some(Credentials {
                key_id: id.to_owned(),
                secret: Secret::from(secret.to_owned()),
                token: profile
                    .get("aws_session_token")
                    .map(|token| Secret::from(token.to_owned())),
                expires: None,
                source: Source::Profile {
                    name: profile.name.clone(),
                    path: profile.place_of(ID).to_owned(),
                },
            })),
            (Some(_), None) => Err(incomplete(ID, SECRET)),
            (None, Some(_)) => Err(incomplete(SECRET, ID)),
            (None, None) => match profile.get("credential_process") {
                Some(_) => Err(unsupported("credential_process")),
                None => Ok(None),
            },
        }
    }
}

/// Credentials that are kept while they hold and looked for again when they do not.
pub(crate) struct Keeper {
    chain: Chain,
    kept: Mutex<Option<Credentials>>,
}

impl Keeper {
    pub(crate) fn new(chain: Chain) -> Keeper {
        Keeper {
            chain,
            kept: Mutex::default(),
        }
    }

    /// Credentials that hold now.
    pub(crate) async fn get(&self, deadline: Instant) -> Result<Credentials, CredentialsError> {
        let mut kept = self.kept.lock().await;
        let now = self.chain.clock.now();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.hold(now, RENEW_BEFORE)) {
            return Ok(kept.clone());
        }
        let found = match (self.chain.find(deadline).await, kept.as_ref()) {
            (Ok(found), _) => found,
            // What hands them out is away for a moment, and the old ones are still good for a while.
            (Err(_), Some(old)) if old.hold(now, USABLE_BEFORE) => return Ok(old.clone()),
            (Err(err), _) => return Err(err),
        };
        if !found.hold(now, Duration::ZERO) {
            return Err(CredentialsError::Expired {
                origin: found.source,
            });
        }
        *kept = Some(found.clone());
        Ok(found)
    }

    /// Looks again, because AWS says that `refused` have ended. `None` when there are no others.
    pub(crate) async fn renew(
        &self,
        refused: &Credentials,
        deadline: Instant,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let mut kept = self.kept.lock().await;
        let differ = |other: &Credentials| {
            other.key_id != refused.key_id || other.token() != refused.token()
        };
        // Another call has renewed them meanwhile.
        if let Some(kept) = kept.as_ref().filter(|kept| differ(kept)) {
            return Ok(Some(kept.clone()));
        }
        *kept = None;
        let found = self.chain.find(deadline).await?;
        if !differ(&found) {
            return Ok(None);
        }
        *kept = Some(found.clone());
        Ok(Some(found))
    }
}
