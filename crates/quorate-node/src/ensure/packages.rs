//! Components from packages: kubelet, kubeadm and kubectl of one exact version, out of a signed repository, and held at it; containerd of the
//! distribution's. Start at [`install`].
//!
//! Nothing is installed that the repository's key did not sign, nothing is downgraded, and a package that somebody holds at another version
//! stays: apt refuses all of that, and what it says is passed on.

use std::{collections::BTreeMap, path::Path, time::Duration};

use quorate_plan::spec::Packages;

use super::{TOOL_WITHIN, Work};
use crate::{
    command::{Command, CommandError},
    durable,
    error::ActionError,
    facts::{installed, packages as installed_packages},
    paths::Paths,
};

/// Where apt reads that there is the repository.
pub(super) const SOURCE: &str = "/etc/apt/sources.list.d/quorate-kubernetes.list";

/// The key that signs it, and nothing else.
pub(super) const KEY: &str = "/etc/apt/keyrings/quorate-kubernetes.asc";

/// How long a list of packages may take to come.
const LISTS_WITHIN: Duration = Duration::from_secs(120);

/// How long packages may take: a hundred megabytes over a slow line.
const INSTALL_WITHIN: Duration = Duration::from_secs(400);

/// Where programs lie that nobody's packages put there, and that are found first.
const LOCAL: [&str; 2] = ["/usr/local/sbin", "/usr/local/bin"];

/// What apt says of a signature that is not as it has to be.
const UNSIGNED: [&str; 7] = [
    "NO_PUBKEY",
    "BADSIG",
    "EXPKEYSIG",
    "REVKEYSIG",
    "NODATA",
    "is not signed",
    "not valid",
];

/// Another apt, or the system's own upgrade, may be at work: it is waited for.
const APT: [&str; 4] = [
    "-o",
    "DPkg::Lock::Timeout=60",
    "-o",
    "Acquire::http::Timeout=30",
];

/// Nobody is there to be asked, and a configuration file that was changed stays as it is.
const KEEP: [&str; 2] = ["--force-confdef", "--force-confold"];

/// The repository's list alone: whatever is wrong then is wrong with it.
const THIS_SOURCE: [&str; 6] = [
    "-o",
    "Dir::Etc::sourcelist=/etc/apt/sources.list.d/quorate-kubernetes.list",
    "-o",
    "Dir::Etc::sourceparts=-",
    "-o",
    "APT::Get::List-Cleanup=0",
];

/// The packages are installed at their version, and held.
pub(super) async fn install(work: &Work<'_>, packages: &Packages) -> Result<(), ActionError> {
    fits(work.paths)?;
    finish_what_was_begun(work).await?;
    for (place, text) in [(KEY, &packages.key), (SOURCE, &source(packages))] {
        durable::write_if_different(&work.paths.at(place), text.as_bytes(), 0o644)?;
    }
    let mut wanted = missing(work.paths, packages)?;
    if !wanted.is_empty() {
        update(work, packages).await?;
        offered(work, packages).await?;
    }
    if !installed(work.paths, "containerd") {
        known_to_apt(work, "containerd").await?;
        wanted.push("containerd".to_owned());
    }
    if !wanted.is_empty() {
        install_now(work, wanted).await?;
    }
    hold(work, packages).await?;
    as_they_say(work, packages).await
}

/// A package of the distribution's, whatever its version: it is installed.
pub(super) async fn of_the_distribution(work: &Work<'_>, name: &str) -> Result<(), ActionError> {
    finish_what_was_begun(work).await?;
    known_to_apt(work, name).await?;
    install_now(work, vec![name.to_owned()]).await
}

async fn install_now(work: &Work<'_>, wanted: Vec<String>) -> Result<(), ActionError> {
    work.progress.say(format!("installs {}", wanted.join(" ")));
    let keep = KEEP.map(|option| format!("Dpkg::Options::={option}"));
    let install = apt("apt-get", INSTALL_WITHIN)
        .args(keep.iter().flat_map(|option| ["-o", option.as_str()]))
        .args(["--yes", "--quiet", "install"])
        .args(wanted);
    unattended(work, install).await
}

/// Whether packages can be installed here, and are what runs then.
fn fits(paths: &Paths) -> Result<(), ActionError> {
    if !installed(paths, "apt-get") {
        return Err(ActionError::unexpected(
            "a Debian system or its kin, with `apt-get`",
            "there is none here",
            "let `components.source` be `bundle`, which needs no packages",
        ));
    }
    for folder in LOCAL {
        for name in Packages::NAMES {
            let program = Path::new(folder).join(name);
            if paths.at(&program).exists() {
                return Err(ActionError::unexpected(
                    format!("{name} of the package alone"),
                    format!(
                        "another one at {}, which would be run instead",
                        program.display()
                    ),
                    "move it away, if nothing needs it",
                ));
            }
        }
    }
    Ok(())
}

fn source(packages: &Packages) -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\ndeb [signed-by={KEY}] {} /\n",
        packages.repository
    )
}

/// What has to be installed, as apt is told: the ones that are not there at their version.
fn missing(paths: &Paths, packages: &Packages) -> Result<Vec<String>, ActionError> {
    let there = installed_packages(paths, &Packages::NAMES)?;
    let names = Packages::NAMES.into_iter().filter(|name| {
        there
            .get(*name)
            .is_none_or(|package| package.version != packages.version)
    });
    Ok(names
        .map(|name| format!("{name}={}", packages.version))
        .collect())
}

fn apt(program: &str, within: Duration) -> Command {
    Command::new(program, within).args(APT)
}

/// What an earlier attempt unpacked before its power went is configured first: apt does nothing before that.
async fn finish_what_was_begun(work: &Work<'_>) -> Result<(), ActionError> {
    let audit = Command::new("dpkg", TOOL_WITHIN).arg("--audit");
    if work.tools.run(audit).await?.text().trim().is_empty() {
        return Ok(());
    }
    let rest = Command::new("dpkg", INSTALL_WITHIN).args(KEEP);
    unattended(work, rest.args(["--configure", "-a"])).await
}

async fn unattended(work: &Work<'_>, command: Command) -> Result<(), ActionError> {
    let command = command.env("DEBIAN_FRONTEND", "noninteractive");
    work.tools.run(command).await?;
    Ok(())
}

/// What the repository has is known here, with a signature that is right.
async fn update(work: &Work<'_>, packages: &Packages) -> Result<(), ActionError> {
    let update = apt("apt-get", LISTS_WITHIN)
        .args(THIS_SOURCE)
        // Without it an older list would do where the new one cannot be had or is not signed.
        .args(["-o", "APT::Update::Error-Mode=any"])
        .args(["-o", "Acquire::Retries=1", "update"]);
    match lists(work, update).await? {
        Ok(()) => Ok(()),
        Err(CommandError::Ended { said, .. }) => Err(unusable(packages, &said)),
        Err(late @ CommandError::Late { .. }) => Err(unusable(packages, &late.to_string())),
        Err(other @ CommandError::Start { .. }) => Err(other.into()),
    }
}

/// Fetches lists, once nobody else does: apt itself waits for its other locks, and not for this one.
async fn lists(work: &Work<'_>, update: Command) -> Result<Result<(), CommandError>, ActionError> {
    let look = || async {
        match work.tools.run(update.clone()).await {
            Ok(_) => Ok(Ok(())),
            Err(CommandError::Ended { said, .. }) if said.contains("Could not get lock") => {
                Err(said)
            }
            Err(other) => Ok(Err(other)),
        }
    };
    work.wait_for("apt's lists to be nobody else's", LISTS_WITHIN, look)
        .await
}

fn unusable(packages: &Packages, said: &str) -> ActionError {
    let Packages {
        repository,
        key_file,
        ..
    } = packages;
    if UNSIGNED.iter().any(|word| said.contains(word)) {
        return ActionError::unexpected(
            format!("the package repository {repository}, signed by the key in {key_file}"),
            said,
            "compare that key with what the repository's owner publishes, and the address: without the right signature nothing is installed",
        );
    }
    ActionError::unexpected(
        format!("the package repository {repository}"),
        said,
        "look on this host whether it is reached (`curl -I` of its `InRelease`), and whether `components.repository` is right",
    )
}

/// The repository has that version of all of them.
async fn offered(work: &Work<'_>, packages: &Packages) -> Result<(), ActionError> {
    let list = Command::new("apt-cache", TOOL_WITHIN)
        .args(THIS_SOURCE)
        .arg("madison")
        .args(Packages::NAMES);
    let offered = versions(&work.tools.run(list).await?.text());
    for name in Packages::NAMES {
        let there = offered.get(name).map_or(&[][..], Vec::as_slice);
        if !there.contains(&packages.version) {
            let seen = match there {
                [] => "no version of it".to_owned(),
                some => some.join(", "),
            };
            return Err(ActionError::unexpected(
                format!("{name} {} in {}", packages.version, packages.repository),
                seen,
                "let `components.version` name one that is there, or `components.repository` the repository of that version",
            ));
        }
    }
    Ok(())
}

/// The lines of `apt-cache madison`: ` kubelet | 1.35.4-1.1 | https://… Packages`.
fn versions(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split('|').map(str::trim);
        if let (Some(name), Some(version)) = (parts.next(), parts.next()) {
            found
                .entry(name.to_owned())
                .or_default()
                .push(version.to_owned());
        }
    }
    found
}

/// A package of the distribution's: its lists are fetched where they lack it.
async fn known_to_apt(work: &Work<'_>, name: &str) -> Result<(), ActionError> {
    let list = || Command::new("apt-cache", TOOL_WITHIN).args(["madison", name]);
    if versions(&work.tools.run(list()).await?.text()).contains_key(name) {
        return Ok(());
    }
    lists(work, apt("apt-get", LISTS_WITHIN).arg("update")).await??;
    if versions(&work.tools.run(list()).await?.text()).contains_key(name) {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!("the package {name} in the distribution's repositories"),
        "no version of it",
        "look at /etc/apt/sources.list and /etc/apt/sources.list.d on this host, or install it",
    ))
}

async fn hold(work: &Work<'_>, packages: &Packages) -> Result<(), ActionError> {
    let there = installed_packages(work.paths, &Packages::NAMES)?;
    let loose: Vec<&str> = Packages::NAMES
        .into_iter()
        .filter(|name| there.get(*name).is_some_and(|package| !package.held))
        .collect();
    if !loose.is_empty() {
        let hold = Command::new("apt-mark", TOOL_WITHIN)
            .arg("hold")
            .args(&loose);
        work.tools.run(hold).await?;
    }
    match missing(work.paths, packages)?.as_slice() {
        [] => Ok(()),
        missing => Err(ActionError::unexpected(
            format!("{} after apt installed them", missing.join(" ")),
            "dpkg does not list them as installed",
            "`dpkg --audit` on this host says what is wrong",
        )),
    }
}

/// What runs is what the packages' version says.
async fn as_they_say(work: &Work<'_>, packages: &Packages) -> Result<(), ActionError> {
    let version = Command::new("kubeadm", TOOL_WITHIN).args(["version", "--output", "short"]);
    let text = work.tools.run(version).await?.text();
    let said = text.trim().trim_start_matches('v');
    let (kubernetes, _) = packages
        .version
        .split_once('-')
        .unwrap_or((&packages.version, ""));
    if said == kubernetes {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!(
            "kubeadm {kubernetes} in the package kubeadm {}",
            packages.version
        ),
        said,
        "ask whoever runs the repository: its package is not what its version says",
    ))
}

#[cfg(test)]
#[path = "packages_tests.rs"]
mod tests;
