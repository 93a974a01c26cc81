//! The few settings of the machine that hosts need changed: planned, shown, recorded, made, and put back. Begin at
//! [`Change`]; [`plan`] decides and is pure, [`Seen`] is what it decides on.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::error::{During, Error, Result};
use crate::program;
use crate::spec::Uplink;
use crate::store;

/// inotify instances for all processes of one user on the machine, hosts included. At the default of 128 about eight
/// hosts with a kubelet use them up, and a program then silently stops seeing its files change.
const INOTIFY_INSTANCES: u64 = 8192;

/// inotify watches, likewise.
const INOTIFY_WATCHES: u64 = 1_048_576;

/// A setting of the machine, outside of everything that is a cluster's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "name")]
pub enum Setting {
    /// A kernel setting below `/proc/sys`, by its dotted name.
    Sysctl(String),
    /// With cgroup v2: the controllers passed on from the root. The value is a list of names.
    CgroupControllers,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Sysctl(name) => f.pad(name),
            Setting::CgroupControllers => f.pad("cgroup.subtree_control"),
        }
    }
}

/// One change of the machine: planned, or in force and to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is changed.
    pub what: Setting,
    /// Its value before.
    pub from: String,
    /// Its value while there are clusters.
    pub to: String,
    /// What happens without it.
    pub why: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} -> {} ({})",
            self.what, self.from, self.to, self.why
        )
    }
}

/// What became of the machine's settings when a cluster was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Put back to what they were before the first cluster. Empty while other clusters remain.
    pub restored: Vec<Change>,
    /// Left alone, because somebody has changed them since: their value is no longer ours.
    pub left: Vec<Change>,
}

/// What is in force on the machine, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    inotify_instances: Option<u64>,
    inotify_watches: Option<u64>,
    ip_forward: Option<u64>,
    /// Whether bridged IPv4 frames pass the machine's own packet filter; `None` when the kernel cannot do that.
    bridge_filter: Option<u64>,
    /// What filters forwarded packets on the machine, looked for when `bridge_filter` is 1.
    forward_filter: Option<String>,
    /// With cgroup v2, controllers that hosts need and the root does not pass on.
    controllers: Vec<String>,
}

const FORWARD: &str = "net.ipv4.ip_forward";
const BRIDGE_FILTER: &str = "net.bridge.bridge-nf-call-iptables";
const INSTANCES: &str = "fs.inotify.max_user_instances";
const WATCHES: &str = "fs.inotify.max_user_watches";

impl Seen {
    fn on_this_machine() -> Result<Seen> {
        let number =
            |name| Ok::<_, Error>(sysctl(name)?.and_then(|value| value.parse::<u64>().ok()));
        let bridge_filter = number(BRIDGE_FILTER)?;
        let forward_filter = match bridge_filter {
            Some(1) => forward_filter()?,
            _ => None,
        };
        let controllers = Cgroups::of_this_machine()?.not_passed_on()?;
        Ok(Seen {
            inotify_instances: number(INSTANCES)?,
            inotify_watches: number(WATCHES)?,
            ip_forward: number(FORWARD)?,
            bridge_filter,
            forward_filter,
            controllers: controllers.map(|(_, missing)| missing).unwrap_or_default(),
        })
    }
}

/// The changes a cluster with this uplink needs on a machine like that; none for what is in force already.
fn plan(seen: &Seen, uplink: Uplink) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut change = |what, from: String, to: String, why: &str| {
        changes.push(Change {
            what,
            from,
            to,
            why: why.to_owned(),
        })
    };
    let sysctl = |name: &str| Setting::Sysctl(name.to_owned());
    for (name, value, least) in [
        (INSTANCES, seen.inotify_instances, INOTIFY_INSTANCES),
        (WATCHES, seen.inotify_watches, INOTIFY_WATCHES),
    ] {
        if let Some(value) = value.filter(|&value| value < least) {
            let why = "all hosts share it, and a service that gets none silently stops seeing its files change";
            change(sysctl(name), value.to_string(), least.to_string(), why);
        }
    }
    if uplink == Uplink::Nat
        && let Some(value) = seen.ip_forward.filter(|&value| value == 0)
    {
        change(
            sysctl(FORWARD),
            value.to_string(),
            "1".to_owned(),
            "hosts are to reach beyond the machine",
        );
    }
    if let (Some(1), Some(filter)) = (seen.bridge_filter, &seen.forward_filter) {
        let why = format!("frames between hosts would pass the machine's own filter ({filter})");
        change(sysctl(BRIDGE_FILTER), "1".to_owned(), "0".to_owned(), &why);
    }
    if !seen.controllers.is_empty() {
        let list = seen.controllers.join(" ");
        change(
            Setting::CgroupControllers,
            "-".to_owned(),
            list,
            "services in hosts limit and count with these controllers",
        );
    }
    changes
}

/// The changes a cluster with this uplink would need now.
pub(crate) fn planned(uplink: Uplink) -> Result<Vec<Change>> {
    Ok(plan(&Seen::on_this_machine()?, uplink))
}

/// Makes one change, and reads it back.
pub(crate) fn make(change: &Change) -> Result<()> {
    match &change.what {
        Setting::Sysctl(name) => set_sysctl(name, &change.to),
        Setting::CgroupControllers => set_controllers(&change.to, '+'),
    }
}

/// Puts one change back. `false`: its value is no longer the one we made, so it was left alone.
pub(crate) fn put_back(change: &Change) -> Result<bool> {
    match &change.what {
        Setting::Sysctl(name) => match sysctl(name)? {
            Some(value) if value == change.to => set_sysctl(name, &change.from).map(|()| true),
            Some(value) => Ok(value == change.from),
            None => Ok(true),
        },
        // Somebody else's cgroup may use a controller by now: then the kernel keeps it on, and so do we.
        Setting::CgroupControllers => match set_controllers(&change.to, '-') {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                Ok(false)
            }
            other => other.map(|()| true),
        },
    }
}

fn sysctl_file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// The value of a kernel setting; `None` when this kernel has none of that name.
fn sysctl(name: &str) -> Result<Option<String>> {
    Ok(store::read_optional(&sysctl_file(name))?.map(|value| value.trim().to_owned()))
}

fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let file = sysctl_file(name);
    std::fs::write(&file, value).during("write", &file)?;
    let seen = sysctl(name)?.unwrap_or_default();
    match seen == value {
        true => Ok(()),
        false => Err(Error::Setting {
            what: name.to_owned(),
            wanted: value.to_owned(),
            seen,
        }),
    }
}

fn set_controllers(list: &str, sign: char) -> Result<()> {
    let Some((control, _)) = Cgroups::of_this_machine()?.not_passed_on()? else {
        return Ok(());
    };
    let text: Vec<_> = list
        .split(' ')
        .map(|controller| format!("{sign}{controller}"))
        .collect();
    std::fs::write(&control, text.join(" ")).during("write", &control)
}

/// What on the machine filters forwarded IPv4 packets: the first chain that could, of others than us.
fn forward_filter() -> Result<Option<String>> {
    let legacy = store::read_optional(Path::new("/proc/net/ip_tables_names"))?.unwrap_or_default();
    if legacy.lines().any(|table| table == "filter") {
        return Ok(Some("iptables, table filter".to_owned()));
    }
    Ok(forward_chain(&program::run(
        "nft",
        ["--stateless", "list", "ruleset"],
    )?))
}

fn forward_chain(ruleset: &str) -> Option<String> {
    let (mut table, mut chain) = ("", "");
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if line.contains("hook forward ") {
            let ours = table.starts_with("ip quorate_");
            if !ours && (table.starts_with("ip ") || table.starts_with("inet ")) {
                return Some(format!("nftables, table {table}, chain {chain}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Seen {
        Seen {
            inotify_instances: Some(128),
            inotify_watches: Some(192_536),
            ip_forward: Some(0),
            bridge_filter: Some(1),
            forward_filter: None,
            controllers: Vec::new(),
        }
    }

    #[track_caller]
    fn check(seen: &Seen, uplink: Uplink, expect: &[&str]) {
        let got: Vec<_> = plan(seen, uplink)
            .iter()
            .map(|c| format!("{}: {} -> {}", c.what, c.from, c.to))
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn only_what_is_needed_is_changed() {
        let inotify = [
            "fs.inotify.max_user_instances: 128 -> 8192",
            "fs.inotify.max_user_watches: 192536 -> 1048576",
        ];
        check(&fresh(), Uplink::None, &inotify);
        check(
            &fresh(),
            Uplink::Nat,
            &[inotify[0], inotify[1], "net.ipv4.ip_forward: 0 -> 1"],
        );
    }

    #[test]
    fn what_is_in_force_is_not_a_change() {
        let seen = Seen {
            inotify_instances: Some(8192),
            inotify_watches: Some(2_000_000),
            ip_forward: Some(1),
            ..fresh()
        };
        check(&seen, Uplink::Nat, &[]);
    }

    #[test]
    fn bridged_frames_keep_their_filter_unless_it_would_filter_them() {
        let calm = Seen {
            inotify_instances: None,
            inotify_watches: None,
            ..fresh()
        };
        check(&calm, Uplink::None, &[]);
        let docker = Seen {
            forward_filter: Some("nftables, table ip filter, chain FORWARD".to_owned()),
            ..calm
        };
        check(
            &docker,
            Uplink::None,
            &["net.bridge.bridge-nf-call-iptables: 1 -> 0"],
        );
        let without = Seen {
            bridge_filter: None,
            ..docker
        };
        check(&without, Uplink::None, &[]);
    }

    #[test]
    fn missing_controllers_are_listed() {
        let v2 = Seen {
            controllers: vec!["cpuset".to_owned(), "io".to_owned()],
            ..Seen::default()
        };
        check(
            &v2,
            Uplink::None,
            &["cgroup.subtree_control: - -> cpuset io"],
        );
    }

    #[test]
    fn a_chain_that_filters_forwarded_packets_is_found_and_ours_is_not() {
        let ours = "table ip quorate_qr0 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";
        let bridge = "table bridge quorate_qr0 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n";
        assert_eq!(forward_chain(ours), None);
        assert_eq!(forward_chain(bridge), None);
        let other = "table inet firewalld {\n\tchain filter_FORWARD {\n\t\ttype filter hook forward priority filter + 10; policy accept;\n";
        let found = forward_chain(&format!("{ours}{other}"));
        assert_eq!(
            found.as_deref(),
            Some("nftables, table inet firewalld, chain filter_FORWARD")
        );
    }
}
