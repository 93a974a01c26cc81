//! From the tree to the shape: types, missing and unknown keys. What is wrong is reported and left out, so that the rest is read too.

use std::ops::Range;

use super::{
    BringUp,
    elsewhere::ELSEWHERE,
    findings::{Findings, nearest},
    raw::{
        ApiVersion, At, Balancer, BalancerKind, BalancerOn, CniKey, Components, ControlPlane,
        Endpoint, File, Host, HostsFile, Key, Network, Provider, ProviderKind, Source, Workers,
    },
    yaml::{Entry, Node, Value},
};
use crate::diagnostic::Code;

/// Keys by group: what is possible where. A test holds it to the schema.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    (
        "the cluster file",
        &[
            "apiVersion",
            "name",
            "kubernetes",
            "endpoint",
            "controlPlane",
            "workers",
            "network",
            "provider",
            "components",
        ],
    ),
    ("endpoint", &["host", "port", "hostsFile", "balancer"]),
    (
        "endpoint.balancer",
        &["kind", "on", "count", "hosts", "address"],
    ),
    ("controlPlane", &["count", "hosts", "bringUp"]),
    ("workers", &["count", "hosts"]),
    (
        "a host",
        &[
            "name",
            "address",
            "zone",
            "etcdDevice",
            "user",
            "port",
            "identity",
            "sudo",
        ],
    ),
    ("network", &["cni", "pods", "services"]),
    (
        "provider",
        &[
            "kind",
            "subnet",
            "directory",
            "user",
            "port",
            "identity",
            "sudo",
        ],
    ),
    (
        "components",
        &["source", "path", "repository", "key", "version"],
    ),
];

/// The shape of a file whose tree could be built.
/// `None`: it is a file of something else, and only that is reported.
pub(super) fn file(findings: &mut Findings<'_>, root: &Node) -> Option<File> {
    if let Value::Map(entries) = &root.value
        && let Some(version) = entries.iter().find(|entry| entry.key == "apiVersion")
        && matches!(&version.node.value, Value::Scalar { text, .. } if !text.is_empty() && !text.starts_with("quorate"))
    {
        api_version(findings, &version.node);
        return None;
    }
    let mut group = Group::open(findings, root, "the cluster file");
    // Whose masters Terraform names need not say so.
    let elsewhere = entry(group.entries, "provider")
        .and_then(|provider| match &provider.node.value {
            Value::Map(entries) => entry(entries, "kind"),
            Value::Scalar { .. } | Value::List(_) => None,
        })
        .is_some_and(
            |kind| matches!(&kind.node.value, Value::Scalar { text, .. } if text == "terraform"),
        );
    Some(File {
        api_version: group.required("apiVersion", api_version),
        name: group.required("name", text),
        kubernetes: group.optional("kubernetes", text),
        endpoint: group.optional("endpoint", endpoint),
        control_plane: match elsewhere {
            true => group.optional("controlPlane", control_plane),
            false => group.required("controlPlane", control_plane),
        },
        workers: group.optional("workers", workers),
        network: group.optional("network", network),
        provider: group.required("provider", provider),
        components: group.optional("components", components),
        span: group.span.clone(),
    })
}

fn entry<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Entry> {
    entries.iter().find(|entry| entry.key == key)
}

fn endpoint(findings: &mut Findings<'_>, node: &Node) -> Option<Endpoint> {
    let mut group = Group::of(findings, node, "endpoint")?;
    Some(Endpoint {
        host_written: group.entries.iter().any(|entry| entry.key == "host"),
        host: group.optional("host", text),
        port: group.optional("port", port),
        hosts_file: group.optional("hostsFile", |findings, node| {
            word(
                findings,
                node,
                &[
                    ("managed", HostsFile::Managed),
                    ("unmanaged", HostsFile::Unmanaged),
                ],
            )
        }),
        balancer: group.optional("balancer", balancer),
        span: group.span.clone(),
    })
}

fn balancer(findings: &mut Findings<'_>, node: &Node) -> Option<Balancer> {
    let mut group = Group::of(findings, node, "endpoint.balancer")?;
    let (count, hosts, span) = group.members();
    Some(Balancer {
        kind: group.optional("kind", |findings, node| {
            word(
                findings,
                node,
                &[
                    ("quorate", BalancerKind::Quorate),
                    ("external", BalancerKind::External),
                    ("nlb", BalancerKind::Nlb),
                    ("dns", BalancerKind::Dns),
                ],
            )
        }),
        on: group.optional("on", |findings, node| {
            word(findings, node, BalancerOn::WORDS)
        }),
        count,
        hosts,
        address: group.optional("address", text),
        target_group: None,
        span,
    })
}

fn control_plane(findings: &mut Findings<'_>, node: &Node) -> Option<ControlPlane> {
    let mut group = Group::of(findings, node, "controlPlane")?;
    let (count, hosts, span) = group.members();
    Some(ControlPlane {
        count,
        hosts,
        bring_up: group.optional("bringUp", |findings, node| {
            word(
                findings,
                node,
                &[
                    ("together", BringUp::Together),
                    ("oneByOne", BringUp::OneByOne),
                ],
            )
        }),
        span,
    })
}

fn workers(findings: &mut Findings<'_>, node: &Node) -> Option<Workers> {
    let mut group = Group::of(findings, node, "workers")?;
    let (count, hosts, span) = group.members();
    Some(Workers { count, hosts, span })
}

fn hosts(findings: &mut Findings<'_>, node: &Node) -> Key<Vec<Host>> {
    let Value::List(items) = &node.value else {
        findings
            .wrong_type(node.span.clone(), "a list of hosts", node.kind())
            .help
            .push("write each host as `- { name: cp-1, address: 10.0.1.11 }`".into());
        return None;
    };
    let hosts = items
        .iter()
        .filter_map(|item| {
            let mut group = Group::of(findings, item, "a host")?;
            Some(Host {
                name: group.required("name", text),
                address: group.optional("address", text),
                zone: group.optional("zone", text),
                etcd_device: group.optional("etcdDevice", text),
                etcd_volume: None,
                user: group.optional("user", text),
                port: group.optional("port", port),
                identity: group.optional("identity", text),
                sudo: group.optional("sudo", boolean),
                span: group.span.clone(),
            })
        })
        .collect();
    Some(At {
        value: hosts,
        span: node.span.clone(),
    })
}

fn network(findings: &mut Findings<'_>, node: &Node) -> Option<Network> {
    let mut group = Group::of(findings, node, "network")?;
    Some(Network {
        cni: group.optional("cni", cni),
        pods: group.optional("pods", text),
        services: group.optional("services", text),
        span: group.span.clone(),
    })
}

fn cni(findings: &mut Findings<'_>, node: &Node) -> Key<CniKey> {
    match &node.value {
        Value::Map(entries) => {
            if let Some(unknown) = entries.iter().find(|entry| entry.key != "manifest") {
                unknown_key(findings, unknown, "network.cni", &["manifest"]);
            }
            let Some(entry) = entries.iter().find(|entry| entry.key == "manifest") else {
                if entries.is_empty() {
                    missing_key(findings, &node.span, "manifest", "network.cni");
                }
                return None;
            };
            let file = present(findings, entry).then(|| text(findings, &entry.node))??;
            Some(At {
                value: CniKey::Manifest(file.value),
                span: file.span,
            })
        }
        _ => {
            let words = [("flannel", CniKey::Flannel), ("none", CniKey::None)];
            let read = word(findings, node, &words);
            if read.is_none() {
                findings.help("a manifest of your own is given as `cni: { manifest: FILE }`");
            }
            read
        }
    }
}

fn provider(findings: &mut Findings<'_>, node: &Node) -> Option<Provider> {
    let mut group = Group::of(findings, node, "provider")?;
    Some(Provider {
        kind: group.required("kind", |findings, node| {
            word(
                findings,
                node,
                &[
                    ("local", ProviderKind::Local),
                    ("ssh", ProviderKind::Ssh),
                    ("terraform", ProviderKind::Terraform),
                ],
            )
        }),
        subnet: group.optional("subnet", text),
        directory: group.optional("directory", text),
        user: group.optional("user", text),
        port: group.optional("port", port),
        identity: group.optional("identity", text),
        sudo: group.optional("sudo", boolean),
        span: group.span.clone(),
    })
}

fn components(findings: &mut Findings<'_>, node: &Node) -> Option<Components> {
    let mut group = Group::of(findings, node, "components")?;
    Some(Components {
        source: group.optional("source", |findings, node| {
            word(
                findings,
                node,
                &[("bundle", Source::Bundle), ("packages", Source::Packages)],
            )
        }),
        path: group.optional("path", text),
        repository: group.optional("repository", text),
        key: group.optional("key", text),
        version: group.optional("version", text),
        written: group
            .entries
            .iter()
            .map(|entry| entry.key.clone())
            .collect(),
        span: group.span.clone(),
    })
}

/// A group of keys that is being read.
struct Group<'f, 'a, 'n> {
    findings: &'f mut Findings<'a>,
    entries: &'n [Entry],
    name: &'static str,
    span: Range<usize>,
}

impl<'f, 'a, 'n> Group<'f, 'a, 'n> {
    /// The group at `node`; `None` when it is something else.
    fn of(findings: &'f mut Findings<'a>, node: &'n Node, name: &'static str) -> Option<Self> {
        if let Value::Map(_) = node.value {
            return Some(Self::open(findings, node, name));
        }
        let keys = known(name).join(", ");
        findings
            .wrong_type(node.span.clone(), "a group of keys", node.kind())
            .notes
            .push(format!("keys of {name}: {keys}"));
        None
    }

    fn open(findings: &'f mut Findings<'a>, node: &'n Node, name: &'static str) -> Self {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            _ => &[],
        };
        let keys = known(name);
        for (i, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..i].iter().find(|other| other.key == entry.key) {
                let span = first.span.clone();
                let found = findings.report(
                    Code::DuplicateKey,
                    entry.span.clone(),
                    format!("`{}` is written twice in {name}", shown(&entry.key)),
                );
                found.label = "again here".into();
                found.also.push(crate::diagnostic::Also {
                    span,
                    label: "first here".into(),
                });
            } else if !keys.contains(&entry.key.as_str()) {
                unknown_key(findings, entry, name, keys);
            }
        }
        Self {
            findings,
            entries,
            name,
            span: node.span.clone(),
        }
    }

    fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Findings<'a>, &Node) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        present(self.findings, entry).then(|| read(self.findings, &entry.node))?
    }

    /// `count` and `hosts`. The place is empty when one of them was there and was wrong: that it is missing is no mistake of its own.
    fn members(&mut self) -> (Key<u64>, Key<Vec<Host>>, Range<usize>) {
        let count = self.optional("count", number);
        let hosts = self.optional("hosts", hosts);
        let written = self
            .entries
            .iter()
            .any(|entry| matches!(entry.key.as_str(), "count" | "hosts"));
        let span = if written && count.is_none() && hosts.is_none() {
            0..0
        } else {
            self.span.clone()
        };
        (count, hosts, span)
    }

    fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Findings<'a>, &Node) -> Option<T>,
    ) -> Option<T> {
        let keys = known(self.name);
        // A slip of the pen is reported as that, and not once more as something missing.
        let meant = |entry: &Entry| {
            entry.key == key
                || (!keys.contains(&entry.key.as_str()) && nearest(&entry.key, keys) == Some(key))
        };
        if !self.entries.iter().any(meant) {
            missing_key(self.findings, &self.span, key, self.name);
        }
        self.optional(key, read)
    }
}

fn known(group: &str) -> &'static [&'static str] {
    KEYS.iter()
        .find(|(name, _)| *name == group)
        .map(|(_, keys)| *keys)
        .expect("every group that is read has its keys in the table")
}

/// A key or word of the input, short enough for a sentence.
fn shown(raw: &str) -> String {
    raw.chars().take(60).collect()
}

/// Whether something was written after the colon; reported if not.
fn present(findings: &mut Findings<'_>, entry: &Entry) -> bool {
    if entry.node.is_null() {
        let found = findings.report(
            Code::Empty,
            entry.span.clone(),
            format!("`{}` has no value", shown(&entry.key)),
        );
        found.label = "nothing is written here".into();
        found
            .help
            .push("leave the key out to get its default, or write a value".into());
    }
    !entry.node.is_null()
}

fn missing_key(findings: &mut Findings<'_>, span: &Range<usize>, key: &str, group: &str) {
    findings
        .report(
            Code::MissingKey,
            span.clone(),
            format!("{group} has no `{key}`"),
        )
        .label = format!("`{key}` belongs here");
}

fn unknown_key(findings: &mut Findings<'_>, entry: &Entry, group: &str, keys: &[&str]) {
    let found = findings.report(
        Code::UnknownKey,
        entry.span.clone(),
        format!("{group} has no key `{}`", shown(&entry.key)),
    );
    let elsewhere = || {
        ELSEWHERE
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&entry.key))
            .map(|(_, key)| *key)
            .filter(|key| keys.contains(key) || key.contains('.'))
    };
    let other_group = || {
        KEYS.iter()
            .find(|(name, keys)| *name != group && keys.contains(&entry.key.as_str()))
            .map(|(name, _)| *name)
    };
    if let Some(key) = nearest(&entry.key, keys).or_else(elsewhere) {
        found.label = format!("did you mean `{key}`?");
    } else if let Some(other) = other_group() {
        found.label = "unknown here".into();
        found
            .help
            .push(format!("`{}` is a key of {other}", entry.key));
    } else {
        found.label = "unknown".into();
    }
    found
        .notes
        .push(format!("keys of {group}: {}", keys.join(", ")));
}

fn text(findings: &mut Findings<'_>, node: &Node) -> Key<String> {
    match &node.value {
        Value::Scalar { text, .. } if text.trim().is_empty() => {
            findings.report(
                Code::Empty,
                node.span.clone(),
                "expected a text, seen an empty one",
            );
            None
        }
        Value::Scalar { text, .. } => Some(At {
            value: text.clone(),
            span: node.span.clone(),
        }),
        Value::List(_) | Value::Map(_) => {
            findings.wrong_type(node.span.clone(), "a text", node.kind());
            None
        }
    }
}

fn number(findings: &mut Findings<'_>, node: &Node) -> Key<u64> {
    let read = match &node.value {
        Value::Scalar { text, plain: true } => text.parse().ok(),
        _ => None,
    };
    if let Some(value) = read {
        return Some(At {
            value,
            span: node.span.clone(),
        });
    }
    let quoted =
        matches!(&node.value, Value::Scalar { text, plain: false } if text.parse::<u64>().is_ok());
    let seen = match &node.value {
        Value::Scalar { text, plain: true } => format!("`{}`", shown(text)),
        _ => node.kind().to_owned(),
    };
    let found = findings.wrong_type(node.span.clone(), "a number", &seen);
    if quoted {
        found.help.push("write it without quotes".into());
    }
    None
}

fn port(findings: &mut Findings<'_>, node: &Node) -> Key<u16> {
    let read = number(findings, node)?;
    match u16::try_from(read.value) {
        Ok(value) if value > 0 => Some(At {
            value,
            span: read.span,
        }),
        _ => {
            findings
                .report(
                    Code::BadPort,
                    read.span,
                    format!("{} is not a TCP port", read.value),
                )
                .label = "expected a number from 1 to 65535".into();
            None
        }
    }
}

fn boolean(findings: &mut Findings<'_>, node: &Node) -> Key<bool> {
    let value = match &node.value {
        Value::Scalar { text, plain: true } => match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    };
    match value {
        Some(value) => Some(At {
            value,
            span: node.span.clone(),
        }),
        None => {
            let seen = match &node.value {
                Value::Scalar { text, plain: true } => format!("`{}`", shown(text)),
                _ => node.kind().to_owned(),
            };
            findings.wrong_type(node.span.clone(), "`true` or `false`", &seen);
            None
        }
    }
}

/// One of a few words.
fn word<T: Clone>(findings: &mut Findings<'_>, node: &Node, words: &[(&str, T)]) -> Key<T> {
    let given = text(findings, node)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == given.value) {
        return Some(At {
            value: value.clone(),
            span: given.span,
        });
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let list = match names.as_slice() {
        [only] => format!("`{only}`"),
        [most @ .., last] => format!("`{}` or `{last}`", most.join("`, `")),
        [] => String::new(),
    };
    let found = findings.report(
        Code::UnknownValue,
        given.span,
        format!("expected {list}, seen `{}`", shown(&given.value)),
    );
    found.label = match nearest(&given.value, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {list}"),
    };
    None
}

fn api_version(findings: &mut Findings<'_>, node: &Node) -> Key<ApiVersion> {
    let given = text(findings, node)?;
    if given.value == "quorate/v1" {
        return Some(At {
            value: ApiVersion::V1,
            span: given.span,
        });
    }
    findings
        .report(
            Code::WrongApiVersion,
            given.span,
            format!(
                "this version of quorate reads `quorate/v1`, the file says `{}`",
                shown(&given.value)
            ),
        )
        .label = "expected `quorate/v1`".into();
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that are read are the keys of the schema, group by group.
    #[test]
    fn the_schema_has_these_keys() {
        let schema = super::super::schema();
        for (group, keys) in KEYS {
            let object = match *group {
                "the cluster file" => &schema,
                "a host" => &schema["$defs"]["Host"],
                "endpoint.balancer" => &schema["$defs"]["Balancer"],
                // What must be there is written out in its place by the generator.
                name @ "provider" => &schema["properties"][name],
                name => {
                    let mut name = name.to_owned();
                    name[..1].make_ascii_uppercase();
                    &schema["$defs"][name]
                }
            };
            let properties: Vec<&String> = object["properties"]
                .as_object()
                .unwrap_or_else(|| panic!("{group} is in the schema"))
                .keys()
                .collect();
            assert_eq!(&properties, keys, "{group}");
            assert_eq!(object["additionalProperties"], false, "{group}");
        }
    }
}
