//! Packet rules that remember, or refuse, who comes by a converted master's old address and is not of the cluster. One table of nftables, of
//! which nothing else knows; a unit loads it at boot. Start at [`look`].

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use quorate_plan::{
    Missing, Seen,
    observation::{OldAddress, OldAddressRule},
};
use serde_json::Value;

use crate::{
    command::{Command, Tools},
    durable,
    ensure::TOOL_WITHIN,
    error::ActionError,
    facts::installed,
    packets,
    paths::Paths,
    shown,
};

const TABLE: &str = "quorate-old-address";
const UNIT: &str = "quorate-old-address.service";
const RULES: &str = "old-address.nft";
const NOTE: &str = "old-address.json";

/// Addresses that are remembered at once, at most. Beyond them nobody is added, and none of them is forgotten for it.
const CALLERS_MAX: u32 = 4096;
/// How long the kernel tells since when it has been looking, in seconds: longer than anybody may ask for.
const LOOKS_S: u64 = 400 * 86_400;

/// The rule on this host. `None`: there is none.
pub(crate) async fn look(paths: &Paths, tools: &Tools) -> Seen<Option<OldAddress>> {
    const WHAT: &str = "the old address's packet rule";
    let unknown = |error: &(dyn std::error::Error + 'static)| {
        Seen::Unknown(Missing::no_answer(WHAT, shown::line(&shown::chain(error))))
    };
    let rule = match durable::read_json::<OldAddressRule>(&paths.state(NOTE)) {
        Ok(Some(rule)) => rule,
        Ok(None) => return Seen::now(None),
        Err(error) => return unknown(&error),
    };
    match loaded(tools).await {
        Ok(Some(kernel)) => Seen::now(Some(OldAddress {
            loaded: kernel.refuses == rule.refuse,
            rule,
            callers: kernel.callers,
            over: kernel.over,
        })),
        Ok(None) => Seen::now(Some(OldAddress {
            rule,
            loaded: false,
            callers: BTreeSet::new(),
            over: Duration::ZERO,
        })),
        Err(error) => unknown(&error),
    }
}

/// What the kernel has.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    refuses: bool,
    callers: BTreeSet<IpAddr>,
    /// Since the table was loaded, by whomever: it began with nobody remembered.
    over: Duration,
}

/// `None`: the kernel has no such table.
async fn loaded(tools: &Tools) -> Result<Option<Kernel>, ActionError> {
    if !packets::has_table(tools, "ip", TABLE).await? {
        return Ok(None);
    }
    let list = Command::new("nft", TOOL_WITHIN).args(["-j", "list", "table", "ip", TABLE]);
    let text = tools.run(list).await?.text();
    kernel(&text).map(Some).ok_or_else(|| {
        ActionError::unexpected(
            format!("nft to list the table {TABLE} as it was loaded"),
            "something else",
            format!("look at `nft list table ip {TABLE}`"),
        )
    })
}

fn objects(json: &str) -> Option<Vec<Value>> {
    let value: Value = serde_json::from_str(json).ok()?;
    value["nftables"].as_array().cloned()
}

fn kernel(json: &str) -> Option<Kernel> {
    let objects = objects(json)?;
    let set = |name: &str| {
        let mut sets = objects.iter().filter_map(|one| one.get("set"));
        let found = sets.find(|set| set["name"] == name)?;
        Some(found["elem"].as_array().cloned().unwrap_or_default())
    };
    let address = |one: &Value| {
        let bare = one.get("elem").map_or(one, |elem| &elem["val"]);
        bare.as_str()?.parse().ok()
    };
    // It tells whole seconds, rounded down: what is left of the last one does not count. Nothing left: it is over.
    let left = match set("looks")?.first() {
        Some(mark) => mark["elem"]["expires"].as_u64()? + 1,
        None => 0,
    };
    Some(Kernel {
        refuses: objects.iter().any(|one| {
            let parts = one["rule"]["expr"].as_array();
            parts.is_some_and(|parts| parts.iter().any(|part| part.get("reject").is_some()))
        }),
        callers: set("callers")?.iter().map(address).collect::<Option<_>>()?,
        over: Duration::from_secs(LOOKS_S.saturating_sub(left)),
    })
}

/// Makes the rule stand, now and after every boot.
///
/// # Errors
/// When `nft` is not installed or refuses.
pub(crate) async fn set(
    paths: &Paths,
    tools: &Tools,
    rule: &OldAddressRule,
) -> Result<(), ActionError> {
    if !installed(paths, "nft") {
        return Err(ActionError::unexpected(
            "nft on this host",
            "it is not installed",
            "install the package nftables there",
        ));
    }
    let text = rules(rule).ok_or_else(|| {
        ActionError::unexpected(
            "IPv4 addresses and networks of the cluster",
            "something else among them",
            "look at podSubnet in kubeadm-config; IPv6 is not supported",
        )
    })?;
    durable::write_if_different(&paths.state(RULES), text.as_bytes(), 0o600)?;
    durable::write_if_different(&paths.unit(UNIT), unit().as_bytes(), 0o644)?;
    for args in [
        ["daemon-reload"].as_slice(),
        &["enable", UNIT],
        // Replaced in one transaction: there is no moment without it.
        &["reload-or-restart", UNIT],
    ] {
        let command = Command::new("systemctl", TOOL_WITHIN).args(args);
        tools.run(command).await?;
    }
    // Last: whoever is killed before it has another rule in the kernel than is noted, and sets it again.
    Ok(durable::write_json(&paths.state(NOTE), rule)?)
}

/// Takes the rule away.
///
/// # Errors
/// When a program refuses.
pub(crate) async fn lift(paths: &Paths, tools: &Tools) -> Result<(), ActionError> {
    if paths.unit(UNIT).exists() {
        let stop = Command::new("systemctl", TOOL_WITHIN).args(["disable", "--now", UNIT]);
        tools.run(stop).await?;
        durable::remove(&paths.unit(UNIT))?;
        let reload = Command::new("systemctl", TOOL_WITHIN).arg("daemon-reload");
        tools.run(reload).await?;
    }
    durable::remove(&paths.state(RULES))?;
    // Last: it is what is seen of the rule.
    Ok(durable::remove(&paths.state(NOTE))?)
}

/// What `nft` is given: the table takes its place at once, with nobody remembered. `None`: an address is none of IPv4.
fn rules(rule: &OldAddressRule) -> Option<String> {
    for one in &rule.inside {
        let (address, prefix) = one.split_once('/').unwrap_or((one, "32"));
        address.parse::<std::net::Ipv4Addr>().ok()?;
        prefix.parse::<u8>().ok().filter(|bits| *bits <= 32)?;
    }
    let inside: Vec<&str> = rule.inside.iter().map(String::as_str).collect();
    let refuse = if rule.refuse {
        "\t\tmeta l4proto tcp reject with tcp reset\n"
    } else {
        ""
    };
    Some(format!(
        "# Written by Quorate; changes are overwritten. Others than the cluster who come by {address}, its address before it had an endpoint.\n\
         table ip {TABLE}\n\
         delete table ip {TABLE}\n\
         table ip {TABLE} {{\n\
         \tset inside {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {{ {} }}\n\t}}\n\
         \tset callers {{\n\t\ttype ipv4_addr\n\t\tsize {CALLERS_MAX}\n\t\tflags dynamic,timeout\n\t\ttimeout {}s\n\t}}\n\
         \tset looks {{\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t\telements = {{ 0.0.0.0 timeout {LOOKS_S}s }}\n\t}}\n\
         \tchain input {{\n\
         \t\ttype filter hook input priority filter; policy accept;\n\
         \t\tiif \"lo\" accept\n\
         \t\ttcp dport 6443 ct original ip daddr {address} ct original proto-dst 6443 ip saddr != @inside jump others\n\
         \t}}\n\
         \tchain others {{\n\
         \t\tupdate @callers {{ ip saddr }}\n{refuse}\
         \t}}\n\
         }}\n",
        inside.join(", "),
        rule.remember_s,
        address = rule.address,
    ))
}

fn unit() -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         [Unit]\n\
         Description=Who comes by the old address of this cluster's API\n\
         DefaultDependencies=no\n\
         After=local-fs.target nftables.service\n\
         Before=network-pre.target shutdown.target\n\
         Wants=network-pre.target\n\
         Conflicts=shutdown.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/usr/bin/env nft -f /var/lib/quorate/{RULES}\n\
         ExecReload=/usr/bin/env nft -f /var/lib/quorate/{RULES}\n\
         ExecStop=-/usr/bin/env nft delete table ip {TABLE}\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(refuse: bool) -> OldAddressRule {
        OldAddressRule {
            address: [10, 0, 0, 11].into(),
            inside: ["10.0.0.11", "10.0.0.5", "10.244.0.0/16"]
                .map(str::to_owned)
                .into(),
            remember_s: 86_400,
            refuse,
        }
    }

    fn is_loaded(json: &str) -> bool {
        packets::lists_table(json, "ip", TABLE)
    }

    /// By the kernel itself, in a network of its own.
    #[test]
    fn nft_takes_the_rules_and_tells_who_is_remembered_and_since_when() {
        let folder = tempfile::tempdir().unwrap();
        for refuse in [false, true] {
            let file = folder.path().join("rules");
            std::fs::write(&file, rules(&rule(refuse)).unwrap()).unwrap();
            let script = format!(
                "nft -f {0} && nft add element ip {TABLE} callers '{{ 10.9.9.8 }}' && nft -f {0} && \
                 nft add element ip {TABLE} callers '{{ 10.9.9.9, 10.9.9.10 }}' && \
                 nft -j list tables && nft -j list table ip {TABLE} && nft delete table ip {TABLE} && nft -j list tables",
                file.display()
            );
            let out = std::process::Command::new("unshare")
                .args(["--net", "--map-root-user", "sh", "-c", &script])
                .output()
                .unwrap();
            let said = String::from_utf8(out.stdout).unwrap();
            assert!(
                out.status.success(),
                "{said}{}",
                String::from_utf8_lossy(&out.stderr)
            );
            let mut lines = said.lines();
            assert!(is_loaded(lines.next().unwrap()), "{said}");
            let kernel = kernel(lines.next().unwrap()).unwrap();
            // Whoever came before the table was loaded anew is forgotten, and the time began with that.
            let expected: BTreeSet<IpAddr> = ["10.9.9.9", "10.9.9.10"]
                .map(|one| one.parse().unwrap())
                .into();
            assert_eq!((kernel.callers, kernel.refuses), (expected, refuse));
            assert!(kernel.over < Duration::from_mins(1), "{said}");
            assert!(!is_loaded(lines.next().unwrap()), "{said}");
        }
    }

    #[test]
    fn what_is_no_address_gets_into_no_rule() {
        for wrong in ["fd00::/64", "10.0.0.1 }", "10.0.0.0/33", "", "a\nb"] {
            let rule = OldAddressRule {
                inside: [wrong.to_owned()].into(),
                ..rule(true)
            };
            assert!(rules(&rule).is_none(), "{wrong}");
        }
    }

    #[test]
    fn nothing_remembered_is_nobody_and_nonsense_is_not_known() {
        let table = |elements: &str, mark: &str| {
            format!(
                r#"{{"nftables":[{{"metainfo":{{}}}},{{"set":{{"name":"callers"{elements}}}}},{{"set":{{"name":"looks"{mark}}}}}]}}"#
            )
        };
        let left = |s: u64| {
            format!(r#","elem":[{{"elem":{{"val":"0.0.0.0","timeout":1,"expires":{s}}}}}]"#)
        };
        let nobody = kernel(&table("", &left(LOOKS_S - 61))).unwrap();
        assert_eq!(nobody.callers, BTreeSet::new());
        assert!(!nobody.refuses);
        assert_eq!(nobody.over, Duration::from_mins(1));
        let long = kernel(&table("", "")).unwrap();
        assert_eq!(long.over, Duration::from_secs(LOOKS_S));
        let range = r#","elem":[{"elem":{"val":{"range":[1]}}}]"#;
        assert_eq!(kernel(&table(range, "")), None);
        assert_eq!(kernel(&table("", r#","elem":["0.0.0.0"]"#)), None);
        assert_eq!(kernel("{"), None);
        let other = r#"{"nftables":[{"table":{"name":"other","family":"ip"}}]}"#;
        assert_eq!(kernel(other), None);
        assert!(!is_loaded(other));
    }
}
