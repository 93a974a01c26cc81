//! The files in which AWS's tools keep profiles: `~/.aws/config` and `~/.aws/credentials`. Start at [`Files::read`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::error::shown;

/// Largest file that is read, in bytes; hundreds of profiles are below it.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why profiles cannot be read. What is in a file is never part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A file that cannot be read, or that was named and is not there.
    #[error("cannot read {path}{}", if named.is_empty() { String::new() } else { format!(" (named by {named})") })]
    Read {
        /// Which.
        path: PathBuf,
        /// The variable that names it, if one does.
        named: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is longer than such a file is.
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A line that is neither a section, nor a key with its value, nor a comment. The line is named, not shown: it may hold a key.
    #[error("{path}:{line}: {why}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The profile that was asked for is in neither file.
    #[error(
        "profile `{name}` (named by {named}) is neither in {config} nor in {credentials}; there {known}\nhint: `aws configure list-profiles` shows them"
    )]
    Unknown {
        /// The profile.
        name: String,
        /// Who named it.
        named: &'static str,
        /// The configuration file.
        config: PathBuf,
        /// The credentials file.
        credentials: PathBuf,
        /// What is there instead.
        known: String,
    },
}

type Section = BTreeMap<String, Zeroizing<String>>;

/// Sections by name; a profile's is `profile NAME` in both files.
type Sections = BTreeMap<String, Section>;

/// Both files. One that is not there is empty, unless a variable names it.
pub(crate) struct Files {
    pub(crate) config_path: PathBuf,
    pub(crate) credentials_path: PathBuf,
    config: Sections,
    credentials: Sections,
}

/// One profile, with what both files say of it.
pub(crate) struct Profile<'a> {
    pub(crate) name: String,
    pub(crate) files: &'a Files,
    config: Option<&'a Section>,
    credentials: Option<&'a Section>,
}

impl fmt::Display for Profile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile `{}`", shown(&self.name, 100))
    }
}

impl Files {
    /// Reads both files where the environment says they are.
    pub(crate) fn read(environment: &Environment) -> Result<Files, ProfileError> {
        let place = |variable: &'static str, default: &str| match environment.get(variable) {
            Some(path) => (environment.path(path), variable),
            None => (environment.path(default), ""),
        };
        let (config_path, config_named) = place("AWS_CONFIG_FILE", "~/.aws/config");
        let (credentials_path, credentials_named) =
            place("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials");
        Ok(Files {
            config: sections(&config_path, config_named, false)?,
            credentials: sections(&credentials_path, credentials_named, true)?,
            config_path,
            credentials_path,
        })
    }

    /// The profile that is asked for: by `asked`, by `AWS_PROFILE`, or `default`. `None` when nobody names one and there is no default.
    pub(crate) fn profile(
        &self,
        asked: Option<&str>,
        environment: &Environment,
    ) -> Result<Option<Profile<'_>>, ProfileError> {
        let (name, named) = match (asked, environment.get("AWS_PROFILE")) {
            (Some(name), _) => (name, "the caller"),
            (None, Some(name)) => (name, "AWS_PROFILE"),
            (None, None) => ("default", ""),
        };
        let section = format!("profile {name}");
        let (config, credentials) = (self.config.get(&section), self.credentials.get(&section));
        if config.is_some() || credentials.is_some() {
            return Ok(Some(Profile {
                name: name.to_owned(),
                files: self,
                config,
                credentials,
            }));
        }
        if named.is_empty() {
            return Ok(None);
        }
        let mut known: Vec<&str> = self
            .config
            .keys()
            .chain(self.credentials.keys())
            .filter_map(|section| section.strip_prefix("profile "))
            .collect();
        known.sort_unstable();
        known.dedup();
        Err(ProfileError::Unknown {
            name: shown(name, 100),
            named,
            config: self.config_path.clone(),
            credentials: self.credentials_path.clone(),
            known: match known.is_empty() {
                true => "are no profiles".to_owned(),
                false => format!("are {}", shown(&known.join(", "), 300)),
            },
        })
    }

    /// A value of another section of the configuration, such as `sso-session NAME`.
    pub(crate) fn other(&self, section: &str, key: &str) -> Option<&str> {
        value(self.config.get(section), key)
    }
}

impl Profile<'_> {
    /// A value of the profile. Where both files have one the credentials file's counts.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        value(self.credentials, key).or_else(|| value(self.config, key))
    }

    /// Which file has that value.
    pub(crate) fn place_of(&self, key: &str) -> &Path {
        match value(self.credentials, key) {
            Some(_) => &self.files.credentials_path,
            None => &self.files.config_path,
        }
    }

    /// A value of the `services` section that the profile names, such as `ec2.endpoint_url`.
    pub(crate) fn services(&self, key: &str) -> Option<&str> {
        let section = format!("services {}", self.get("services")?);
        self.files.other(&section, key)
    }
}

fn value<'a>(section: Option<&'a Section>, key: &str) -> Option<&'a str> {
    section?
        .get(key)
        .map(|value| value.as_str())
        .filter(|value| !value.is_empty())
}

/// Reads a file whole, if it is not longer than such files are.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes))
}

fn sections(
    path: &Path,
    named: &'static str,
    of_credentials: bool,
) -> Result<Sections, ProfileError> {
    // Without a home directory there are no files in it, whatever the working directory has.
    if path.starts_with("~") {
        return Ok(Sections::new());
    }
    let bytes = match read_bounded(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(ProfileError::TooLarge {
                path: path.to_owned(),
            });
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound && named.is_empty() => {
            return Ok(Sections::new());
        }
        Err(source) => {
            return Err(ProfileError::Read {
                path: path.to_owned(),
                named,
                source,
            });
        }
    };
    let syntax = |(line, why)| ProfileError::Syntax {
        path: path.to_owned(),
        line,
        why,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| syntax((1, "the file is not UTF-8")))?;
    parse(text, of_credentials).map_err(syntax)
}

/// Reads sections and keys. An indented line belongs to the key above it: `ec2 =` with `endpoint_url = …` below it is `ec2.endpoint_url`.
fn parse(text: &str, of_credentials: bool) -> Result<Sections, (usize, &'static str)> {
    let mut sections = Sections::new();
    let mut section: Option<String> = None;
    let mut above: Option<String> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') || trimmed.starts_with(';') {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let (name, _) = rest
                .split_once(']')
                .ok_or((number, "a section has no `]`"))?;
            let name = section_name(name, of_credentials);
            sections.entry(name.clone()).or_default();
            section = Some(name);
            above = None;
            continue;
        }
        let section = section
            .as_ref()
            .and_then(|name| sections.get_mut(name))
            .ok_or((number, "a value outside of any section"))?;
        let indented = line.starts_with([' ', '\t']);
        let (key, value) = match (trimmed.split_once('='), indented, &above) {
            (Some((key, value)), true, Some(above)) => (
                format!("{above}.{}", key.trim().to_ascii_lowercase()),
                value,
            ),
            (Some((key, value)), _, _) => (key.trim().to_ascii_lowercase(), value),
            // A value that goes on; none that is read here does.
            (None, true, Some(_)) => continue,
            (None, _, _) => return Err((number, "a line that is no `key = value`")),
        };
        if key.is_empty() {
            return Err((number, "a value without a key"));
        }
        if !indented || above.is_none() {
            above = Some(key.clone());
        }
        section.insert(key, Zeroizing::new(without_comment(value).to_owned()));
    }
    Ok(sections)
}

/// `profile NAME` for profiles of both files, whatever blanks and quotes are around the name.
fn section_name(text: &str, of_credentials: bool) -> String {
    let text = text.trim();
    let unquoted = |name: &str| name.trim().trim_matches(['"', '\'']).to_owned();
    let (kind, name) = match text.split_once([' ', '\t']) {
        Some((kind, name)) if !of_credentials => (kind, unquoted(name)),
        _ if of_credentials || text == "default" => ("profile", unquoted(text)),
        _ => return text.to_owned(),
    };
    format!("{kind} {name}")
}

/// A comment after a value begins with a blank.
fn without_comment(value: &str) -> &str {
    let end = [" #", " ;", "\t#", "\t;"]
        .iter()
        .filter_map(|mark| value.find(mark))
        .min()
        .unwrap_or(value.len());
    value[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
# what people have
[default]
region = eu-central-1
[profile prod]
region=eu-west-1   # Ireland
sso_session = corp
services = local
s3 =
  max_concurrent_requests = 20
  continued
output = json
[ profile \"two words\" ]
region = us-east-1
[services local]
ec2 =
  # more than one of them
  retries = 1
  endpoint_url = http://127.0.0.1:5566
elastic_load_balancing_v2 =
\tendpoint_url = http://127.0.0.1:5567
[sso-session corp]
sso_region = eu-west-1
";

    fn files(config: &str, credentials: &str) -> Files {
        Files {
            config_path: "/c/config".into(),
            credentials_path: "/c/credentials".into(),
            config: parse(config, false).unwrap(),
            credentials: parse(credentials, true).unwrap(),
        }
    }

    fn environment(profile: Option<&str>) -> Environment {
        Environment::of(profile.map(|name| ("AWS_PROFILE", name)), None)
    }

    #[test]
    fn both_files_make_one_profile() {
        let files = files(
            CONFIG,
            "[prod]\naws_access_key_id = AKID\nAWS_SECRET_ACCESS_KEY = a=b#c/d+e\nregion = eu-north-1\n",
        );
        let profile = files.profile(None, &environment(Some("prod"))).unwrap();
        let profile = profile.unwrap();
        assert_eq!(profile.get("aws_secret_access_key"), Some("a=b#c/d+e"));
        assert_eq!(profile.get("region"), Some("eu-north-1"));
        assert_eq!(profile.place_of("region"), Path::new("/c/credentials"));
        assert_eq!(profile.place_of("sso_session"), Path::new("/c/config"));
        assert_eq!(profile.get("output"), Some("json"));
        assert_eq!(profile.get("s3"), None, "it has only values below it");
        assert_eq!(
            profile.services("ec2.endpoint_url"),
            Some("http://127.0.0.1:5566")
        );
        assert_eq!(
            profile.services("elastic_load_balancing_v2.endpoint_url"),
            Some("http://127.0.0.1:5567")
        );
        assert_eq!(
            files.other("sso-session corp", "sso_region"),
            Some("eu-west-1")
        );
        let of_caller = files
            .profile(Some("two words"), &environment(Some("prod")))
            .unwrap()
            .unwrap();
        assert_eq!(of_caller.get("region"), Some("us-east-1"));
        let default = files.profile(None, &environment(None)).unwrap().unwrap();
        assert_eq!(default.get("region"), Some("eu-central-1"));
    }

    #[test]
    fn a_profile_that_is_not_there_is_said_with_those_that_are() {
        let files = files(CONFIG, "[other]\n");
        let Err(err) = files.profile(None, &environment(Some("prd"))) else {
            panic!("there is none")
        };
        assert_eq!(
            err.to_string(),
            "profile `prd` (named by AWS_PROFILE) is neither in /c/config nor in /c/credentials; there are default, other, prod, two words\n\
             hint: `aws configure list-profiles` shows them"
        );
        let none = super::tests::files("", "");
        assert!(none.profile(None, &environment(None)).unwrap().is_none());
    }

    #[test]
    fn a_line_that_is_none_is_named_and_not_shown() {
        for (text, line) in [
            ("region = x\n", 1),
            ("[default\n", 1),
            ("[default]\n\naws_secret_access_key wJalrX\n", 3),
            ("[default]\n= x\n", 2),
        ] {
            assert_eq!(parse(text, false).unwrap_err().0, line, "{text}");
        }
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("credentials"), "[default]\nwJalrXUtnFEMI\n").unwrap();
        let environment = Environment::of([("A", "b")], Some(home.path().to_owned()));
        let Err(err) = Files::read(&environment) else {
            panic!("it is no file of profiles")
        };
        let text = err.to_string();
        assert!(
            text.ends_with("credentials:2: a line that is no `key = value`"),
            "{text}"
        );
        assert!(!text.contains("wJalr"), "{text}");
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let home = tempfile::tempdir().unwrap();
        let absent = home.path().join("absent").display().to_string();
        let home = Some(home.path().to_owned());
        assert!(Files::read(&Environment::of([("A", "b")], home.clone())).is_ok());
        let named = Environment::of([("AWS_CONFIG_FILE", absent.as_str())], home);
        let Err(err) = Files::read(&named) else {
            panic!("it is not there")
        };
        assert_eq!(
            err.to_string(),
            format!("cannot read {absent} (named by AWS_CONFIG_FILE)")
        );
    }
}
