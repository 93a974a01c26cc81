//! Which Debian mirror and which proxy this machine uses already: read from apt's own configuration, so that a base
//! image comes from where the machine's packages come from. Begin at [`Source::of_this_machine`].

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::{program, store};

/// Debian's own archive keyring, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from and how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The mirror's address; `None` leaves the choice to debootstrap.
    pub(crate) mirror: Option<String>,
    /// The keyring the archive's signature is checked against; `None` when the machine trusts the archive unsigned.
    pub(crate) keyring: Option<PathBuf>,
    /// Proxies by scheme (`http`, `https`). They may hold a password.
    pub(crate) proxies: Vec<(&'static str, String)>,
}

/// One archive of apt's sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
    trusted: bool,
}

impl Source {
    /// The mirror named by the caller, and the machine's proxies.
    pub(crate) fn given(uri: &str) -> Result<Source> {
        let rule = match usable(uri) {
            true => {
                return Ok(Source {
                    mirror: Some(uri.to_owned()),
                    keyring: Some(KEYRING.into()),
                    proxies: proxies(Some(uri))?,
                });
            }
            false => {
                "expected http://, https:// or file:// without user name, password and white space"
            }
        };
        Err(Error::Mirror { rule })
    }

    /// The machine's mirror of Debian if it has one, and its proxies.
    pub(crate) fn of_this_machine(suite: &str) -> Result<Source> {
        let mut archives = Vec::new();
        let etc = Path::new("/etc/apt");
        if let Some(text) = store::read_optional(&etc.join("sources.list"))? {
            archives.extend(one_line(&text));
        }
        let parts = etc.join("sources.list.d");
        for name in store::entries(&parts)? {
            let Some(text) = store::read_optional(&parts.join(&name))? else {
                continue;
            };
            if name.ends_with(".sources") {
                archives.extend(deb822(&text));
            } else if name.ends_with(".list") {
                archives.extend(one_line(&text));
            }
        }
        let chosen = choose(&archives, suite);
        let mirror = chosen.map(|archive| archive.uri.clone());
        let keyring = match chosen {
            Some(archive) if archive.trusted => None,
            Some(Archive {
                signed_by: Some(path),
                ..
            }) if path.starts_with('/') => Some(PathBuf::from(path)),
            _ => Some(PathBuf::from(KEYRING)),
        };
        let proxies = proxies(mirror.as_deref())?;
        Ok(Source {
            mirror,
            keyring,
            proxies,
        })
    }
}

/// Whether debootstrap can take the address, and its argument list may show it.
fn usable(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let plain = !uri.chars().any(|c| c.is_whitespace() || c.is_control());
    ["http", "https", "file"].contains(&scheme) && plain && !authority.contains('@')
}

/// The archive to take the base from: one that is Debian's own, best with the suite, else with any (a mirror of
/// Debian 13 holds Debian 12 too).
fn choose<'a>(archives: &'a [Archive], suite: &str) -> Option<&'a Archive> {
    // Others' archives also have a suite called bookworm, a component called main and a path ending in debian; they
    // differ in whose key they are signed by.
    let debian = |a: &&Archive| {
        let path_fits = a.uri.trim_end_matches('/').ends_with("/debian");
        let key_fits = a
            .signed_by
            .as_deref()
            .is_none_or(|key| key.contains("debian-archive"));
        let main = a.components.iter().any(|c| c == "main");
        usable(&a.uri) && main && path_fits && key_fits
    };
    let debian: Vec<_> = archives.iter().filter(debian).collect();
    let with_suite = debian.iter().find(|a| a.suites.iter().any(|s| s == suite));
    with_suite.or(debian.first()).copied()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn yes(value: &str) -> bool {
    ["yes", "true", "1", "on"].contains(&value.trim().to_ascii_lowercase().as_str())
}

/// `deb [signed-by=… trusted=yes] URI SUITE COMPONENT…`
fn one_line(text: &str) -> Vec<Archive> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t', '[']))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = words(rest).into_iter();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        let mut archive = Archive {
            uri,
            suites: vec![suite],
            components: words.collect(),
            ..Archive::default()
        };
        for option in options.split_whitespace() {
            match option.split_once('=') {
                Some(("signed-by", value)) => archive.signed_by = Some(value.to_owned()),
                Some(("trusted", value)) => archive.trusted = yes(value),
                _ => {}
            }
        }
        found.push(archive);
    }
    found
}

/// Paragraphs of `Key: value` with continuation lines; one archive for each address.
fn deb822(text: &str) -> Vec<Archive> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut found = Vec::new();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in paragraph {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let binary = field("types").is_some_and(|types| words(types).iter().any(|t| t == "deb"));
        if !binary || field("enabled").is_some_and(|enabled| !yes(enabled)) {
            continue;
        }
        for uri in words(field("uris").unwrap_or_default()) {
            found.push(Archive {
                uri,
                suites: words(field("suites").unwrap_or_default()),
                components: words(field("components").unwrap_or_default()),
                signed_by: field("signed-by").map(str::to_owned),
                trusted: field("trusted").is_some_and(yes),
            });
        }
    }
    found
}

/// apt's proxies for this mirror. Without apt on the machine there are none.
fn proxies(mirror: Option<&str>) -> Result<Vec<(&'static str, String)>> {
    let host = mirror
        .and_then(|uri| uri.split_once("://"))
        .map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    let mut found = Vec::new();
    for scheme in ["http", "https"] {
        let general = format!("Acquire::{scheme}::Proxy");
        let own = format!("{general}::{}", host.unwrap_or_default());
        let mut asked = vec!["shell", "GENERAL", general.as_str()];
        if host.is_some_and(|host| !host.is_empty()) {
            asked.extend(["OWN", own.as_str()]);
        }
        let answer = match program::run("apt-config", asked) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(found);
            }
            other => other?,
        };
        if let Some(proxy) = proxy_in(&answer) {
            found.push((scheme, proxy));
        }
    }
    Ok(found)
}

/// The answer of `apt-config shell`: lines of `NAME='value'`. The mirror's own setting wins; `DIRECT` is none.
fn proxy_in(answer: &str) -> Option<String> {
    let value = |name: &str| {
        let quoted = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(quoted.trim_matches('\'').to_owned())
    };
    value("OWN")
        .or_else(|| value("GENERAL"))
        .filter(|proxy| !proxy.is_empty() && proxy != "DIRECT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_apts_sources_are_understood() {
        let one = one_line(
            "# deb http://off.example/debian bookworm main\n\
             deb-src http://src.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k/other.gpg] https://other.example/linux/debian bookworm stable\n\
             deb http://m.example/debian/ bookworm main contrib # ours\n",
        );
        let uris: Vec<_> = one.iter().map(|a| a.uri.as_str()).collect();
        assert_eq!(
            uris,
            [
                "https://other.example/linux/debian",
                "http://m.example/debian/"
            ]
        );
        assert_eq!(one[0].signed_by.as_deref(), Some("/k/other.gpg"));
        assert_eq!(one[1].components, ["main", "contrib"]);

        let two = deb822(
            "Types: deb deb-src\n# a comment\nURIs: http://a.example/debian\n http://b.example/debian\n\
             Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k/debian-archive-keyring.gpg\n\n\
             Types: deb\nEnabled: no\nURIs: http://c.example/debian\nSuites: x\nComponents: main\n",
        );
        let uris: Vec<_> = two.iter().map(|a| a.uri.as_str()).collect();
        assert_eq!(uris, ["http://a.example/debian", "http://b.example/debian"]);
        assert_eq!(two[1].suites, ["bookworm", "bookworm-updates"]);
    }

    #[track_caller]
    fn check(lines: &str, expect: Option<&str>) {
        let archives = one_line(lines);
        assert_eq!(
            choose(&archives, "bookworm").map(|a| a.uri.as_str()),
            expect,
            "{lines}"
        );
    }

    #[test]
    fn only_debians_own_archive_is_chosen() {
        check(
            "deb http://m.example/debian bookworm main",
            Some("http://m.example/debian"),
        );
        check(
            "deb http://m.example/debian trixie main",
            Some("http://m.example/debian"),
        );
        check("deb http://m.example/ubuntu noble main", None);
        check(
            "deb [signed-by=/k/mariadb.gpg] http://m.example/repo/debian bookworm main",
            None,
        );
        check("deb http://m.example/linux/debian bookworm stable", None);
        check(
            "deb mirror+file:/etc/apt/mirrors/debian bookworm main",
            None,
        );
        check(
            "deb http://user:secret@m.example/debian bookworm main",
            None,
        );
        check(
            "deb http://new.example/debian trixie main\ndeb http://old.example/debian bookworm main",
            Some("http://old.example/debian"),
        );
    }

    #[test]
    fn a_mirror_with_a_password_is_refused_without_repeating_it() {
        let err =
            Source::given("http://me:secret@m.example/debian").expect_err("it would show in argv");
        assert!(!err.to_string().contains("secret"), "{err}");
    }

    #[test]
    fn the_mirrors_own_proxy_wins_and_direct_is_none() {
        assert_eq!(proxy_in(""), None);
        assert_eq!(
            proxy_in("GENERAL='http://p:1'\n").as_deref(),
            Some("http://p:1")
        );
        assert_eq!(
            proxy_in("GENERAL='http://p:1'\nOWN='http://q:2'\n").as_deref(),
            Some("http://q:2")
        );
        assert_eq!(proxy_in("GENERAL='http://p:1'\nOWN='DIRECT'\n"), None);
    }
}
