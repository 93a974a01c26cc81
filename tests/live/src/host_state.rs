//! What two clusters' hosts have in common: an inventory of files, flags, units and images in which nothing stands that is bound to differ.
//! Whoever made the cluster, it is the same but for exceptions that are listed with their reasons. Start at [`taken`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, pem::Pem, prelude::FromDer as _};

use crate::{bare::Bare, stage::Stage};

/// What may differ.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// On these hosts; on all where there are none.
    pub on: &'static [&'static str],
    /// The beginning of a line of [`taken`] after the host's name.
    pub begin: &'static str,
    pub why: &'static str,
}

/// What may differ between two clusters that Quorate made.
pub const OF_ITS_TIME: &[Exception] = &[
    Exception {
        on: &[],
        begin: "file /var/lib/quorate/fence.json",
        why: "counts the operations there were, and a play that was broken off is one more",
    },
    Exception {
        on: &[],
        begin: "file /var/lib/quorate/etcd-member.json",
        why: "the identity of a member of etcd, which is of the time when it joined",
    },
];

/// Texts that are compared line by line: what differs is then said in their own words.
const LINE_BY_LINE: &[&str] = &[
    "/etc/default/",
    "/etc/hosts",
    "/etc/kubernetes/manifests/",
    "/etc/sysctl.d/",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
];

/// What is no state that anybody asked for: programs' records of their own running, what a host made for itself at its first boot, and the way in that it was given.
const PASSED_OVER: &[&str] = &[
    "/etc/.updated",
    "/etc/machine-id",
    "/etc/ssh/ssh_host_",
    "/etc/resolv.conf",
    "/root/.kube/cache/",
    "/root/.ssh/authorized_keys",
    "/run/",
    "/tmp/",
    "/dev/",
    "/var/cache/",
    "/var/log/",
    "/var/tmp/",
    "/var/lib/cni/",
    "/var/lib/containerd/",
    "/var/lib/etcd/member/",
    "/var/lib/kubelet/pods/",
    "/var/lib/kubelet/plugins",
    "/var/lib/kubelet/device-plugins/",
    "/var/lib/kubelet/pod-resources/",
    "/var/lib/kubelet/actuated_pods_state",
    "/var/lib/kubelet/allocated_pods_state",
    "/var/lib/kubelet/cpu_manager_state",
    "/var/lib/kubelet/memory_manager_state",
    "/var/lib/kubelet/dra_manager_state",
    "/var/lib/kubelet/checkpoints/",
    "/var/lib/dbus/",
    "/var/lib/private/",
    "/var/lib/sudo/",
    "/var/lib/systemd/",
];

/// Differences that are shown; the others are many of one kind.
const LINES_SHOWN: usize = 300;

/// Programs whose flags are compared.
const PROGRAMS: &str = "containerd kubelet etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy flanneld coredns";

/// One line for each thing: `HOST KIND NAME STATE`.
///
/// # Errors
/// When a host cannot be read.
pub fn taken(hosts: &Bare, on: &[&str]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for host in on {
        let upper = hosts.disk(host)?;
        for (name, state) in files(&upper)? {
            all.insert(format!("{host} file {name} {state}"));
            if line_by_line(&name) {
                let text = fs::read_to_string(upper.join(name.trim_start_matches('/')))?;
                all.extend(numbered(&text).map(|line| format!("{host} line {name} {line}")));
            }
        }
        for line in hosts.run(host, &script())?.lines() {
            let Some(flags) = line.strip_prefix("flags ") else {
                all.insert(format!("{host} {line}"));
                continue;
            };
            let (program, flags) = flags.split_once(' ').unwrap_or((flags, ""));
            all.insert(format!("{host} runs {program}"));
            all.extend(
                flags
                    .split(' ')
                    .map(|flag| format!("{host} flag {program} {flag}")),
            );
        }
    }
    Ok(all)
}

/// Checks that two inventories are the same but for the exceptions, and shows what differs besides.
pub fn same(
    stage: &mut Stage,
    what: &str,
    one: &BTreeSet<String>,
    other: &BTreeSet<String>,
    exceptions: &[Exception],
) {
    let mut excepted = vec![0; exceptions.len()];
    let mut differing = Vec::new();
    let only = |sign, a: &BTreeSet<String>, b: &BTreeSet<String>| {
        a.difference(b)
            .map(|line| (sign, line.clone()))
            .collect::<Vec<_>>()
    };
    for (sign, line) in [only('-', one, other), only('+', other, one)].concat() {
        match exceptions.iter().position(|one| one.is_of(&line)) {
            Some(number) => excepted[number] += 1,
            None => differing.push(format!("{sign} {line}")),
        }
    }
    stage.check(
        &format!("{what}: {} things", one.len()),
        differing.is_empty() && one.len() > 200,
    );
    for line in differing.iter().take(LINES_SHOWN) {
        stage.say(&format!("        {line}"));
    }
    for (exception, times) in exceptions.iter().zip(excepted) {
        stage.say(&format!(
            "        {times:>3} lines may differ: {}…: {}",
            exception.begin, exception.why
        ));
    }
}

impl Exception {
    fn is_of(&self, line: &str) -> bool {
        let (host, thing) = line.split_once(' ').unwrap_or((line, ""));
        (self.on.is_empty() || self.on.contains(&host)) && thing.starts_with(self.begin)
    }
}

fn line_by_line(name: &str) -> bool {
    LINE_BY_LINE.iter().any(|begin| name.starts_with(begin))
}

/// Lines, each with how often it was there before: two that are the same are two.
fn numbered(text: &str) -> impl Iterator<Item = String> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    text.lines().map(move |line| {
        let seen = times.entry(line).or_default();
        *seen += 1;
        format!("{seen} {line}")
    })
}

fn script() -> String {
    format!(
        "for name in {PROGRAMS}; do for pid in $(pgrep -x \"$(echo $name | cut -c1-15)\"); do \
           test -e /proc/$pid/cmdline && echo flags $(tr '\\0' ' ' </proc/$pid/cmdline); done; done; \
         systemctl list-unit-files --no-legend --state=enabled,enabled-runtime,masked | awk '{{ print \"unit \" $1 \" \" $2 }}'; \
         for unit in containerd kubelet quorate-lb keepalived; do echo runs $unit $(systemctl is-active $unit); done; \
         sed -n 's/^\\([a-z][^ =]*\\) *=.*/\\1/p' /etc/sysctl.d/*.conf | sort -u | while read name; do \
           echo setting $name $(sysctl -n $name 2>&1); done; \
         ! command -v ctr >/dev/null || ctr -n k8s.io images ls -q | grep -v '^sha256:' | sed 's/^/image /'"
    )
}

/// What a host has written, by name: kind, mode, owner, and what is in it.
fn files(upper: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![upper.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("failed to list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = format!("/{}", path.strip_prefix(upper)?.display());
            if PASSED_OVER.iter().any(|begin| name.starts_with(begin)) {
                continue;
            }
            // What is gone when it is read was on its way, and nothing that lasts.
            let Ok(about) = path.symlink_metadata() else {
                continue;
            };
            let kind = about.file_type();
            let holds = if kind.is_dir() {
                folders.push(path);
                // A folder is told by what is in it; one whose mode was changed by a neighbour is not of interest.
                continue;
            } else if kind.is_symlink() {
                undated(&fs::read_link(&path)?.display().to_string())
            } else if kind.is_file() {
                let Ok(bytes) = fs::read(&path) else {
                    continue;
                };
                held(&name, &bytes)
            } else {
                // A whiteout of the overlay: the file was deleted.
                "special".to_owned()
            };
            found.insert(
                undated(&name),
                format!("{:o} {}:{} {holds}", about.mode(), about.uid(), about.gid()),
            );
        }
    }
    Ok(found)
}

/// A name without the time in it: `kubelet-client-2026-11-26-12-47-32.pem` and `cp-1@1795697253` are named for when they were made.
fn undated(name: &str) -> String {
    let mut told = String::new();
    let mut rest = name;
    while let Some(at) = rest
        .find("kubelet-client-2")
        .map(|at| at + 15)
        .or_else(|| rest.find("@1").map(|at| at + 1))
    {
        let (before, after) = rest.split_at(at);
        told.push_str(before);
        told.push_str("TIME");
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    }
    told + rest
}

/// What is in a file: its hash, with everything that is drawn by chance or of a day left out of a text.
fn held(name: &str, bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return hash(bytes);
    };
    if line_by_line(name) {
        return "told below".to_owned();
    }
    if text.contains("-----BEGIN") {
        return pems(text);
    }
    if name == "/var/lib/quorate/components.json" {
        return hash(without_times(text).as_bytes());
    }
    if name.ends_with(".conf") && text.contains("client-key")
        || text.contains("certificate-authority-data")
    {
        return hash(without_keys(text).as_bytes());
    }
    hash(bytes)
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Certificates told by what they say, keys by being there.
fn pems(text: &str) -> String {
    let told = Pem::iter_from_buffer(text.as_bytes()).map(|pem| match pem {
        Ok(pem) if pem.label == "CERTIFICATE" => {
            certificate(&pem.contents).unwrap_or_else(|| "unreadable certificate".into())
        }
        Ok(pem) => pem.label,
        Err(_) => "unreadable".into(),
    });
    told.collect::<Vec<_>>().join(" and ")
}

fn certificate(der: &[u8]) -> Option<String> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let names = cert.subject_alternative_name().ok()?.map(|names| {
        let mut names: Vec<String> = names.value.general_names.iter().map(san).collect();
        names.sort();
        names.join(",")
    });
    let usage = cert.key_usage().ok()?.map(|usage| usage.value.to_string());
    let extended = cert.extended_key_usage().ok()?.map(|usage| {
        let usage = usage.value;
        format!("server={} client={}", usage.server_auth, usage.client_auth)
    });
    let days = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
    Some(format!(
        "certificate of {} by {} for {:?} usage {:?} {:?} ca={} days={}",
        undated(&cert.subject().to_string()),
        undated(&cert.issuer().to_string()),
        names,
        usage,
        extended,
        cert.is_ca(),
        days / 86_400
    ))
}

fn san(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::IPAddress(bytes) => format!("IP:{bytes:?}"),
        other => other.to_string(),
    }
}

/// What was installed, without the time at which that was. By these times a later look tells whether a file was touched.
fn without_times(text: &str) -> String {
    let Ok(mut installed) = serde_json::from_str::<serde_json::Value>(text) else {
        return text.to_owned();
    };
    let files = installed["files"].as_object_mut();
    for file in files.into_iter().flat_map(|files| files.values_mut()) {
        if let Some(file) = file.as_object_mut() {
            file.retain(|key, _| !key.starts_with("modified"));
        }
    }
    installed.to_string()
}

/// A kubeconfig without the keys and certificates in it.
fn without_keys(text: &str) -> String {
    let told = text.lines().map(|line| match line.split_once(": ") {
        Some((key, _)) if key.trim().ends_with("-data") => format!("{key}: …"),
        _ => line.to_owned(),
    });
    told.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_is_of_its_hosts_and_of_what_it_names() {
        let exception = |on| Exception {
            on,
            begin: "flag etcd --initial-cluster",
            why: "",
        };
        let line = "cp-2 flag etcd --initial-cluster=cp-1=https://10.0.0.1:2380";
        assert!(exception(&[]).is_of(line));
        assert!(exception(&["cp-1", "cp-2"]).is_of(line));
        assert!(!exception(&["cp-1"]).is_of(line));
        assert!(!exception(&[]).is_of("cp-2 flag etcd --data-dir=/var/lib/etcd"));
    }

    #[test]
    fn a_line_that_is_there_twice_is_two() {
        let told: Vec<String> = numbered("a\nb\na\n").collect();
        assert_eq!(told, ["1 a", "1 b", "2 a"]);
    }

    #[test]
    fn names_without_their_times() {
        for (name, told) in [
            (
                "/x/kubelet-client-2026-11-26-12-47-32.pem",
                "/x/kubelet-client-TIME.pem",
            ),
            (
                "/x/kubelet-client-current.pem",
                "/x/kubelet-client-current.pem",
            ),
            ("CN=cp-1-ca@1795697253", "CN=cp-1-ca@TIME"),
            ("CN=a@1795697253, CN=b@1795697254", "CN=a@TIME, CN=b@TIME"),
            ("/etc/hosts", "/etc/hosts"),
        ] {
            assert_eq!(undated(name), told);
        }
    }

    #[test]
    fn keys_in_a_kubeconfig_do_not_count_and_its_server_does() {
        let config = |server: &str, key: &str| {
            let text = format!(
                "server: {server}\n    certificate-authority-data: {key}\n    client-key-data: {key}\n"
            );
            held("/etc/kubernetes/admin.conf", text.as_bytes())
        };
        assert_eq!(config("https://a:6443", "x"), config("https://a:6443", "y"));
        assert_ne!(config("https://a:6443", "x"), config("https://b:6443", "x"));
    }

    #[test]
    fn what_is_installed_counts_and_when_does_not() {
        let installed = |size: u32, second: u32| {
            let text = format!(
                r#"{{"bundle":"b","files":{{"/x":{{"size":{size},"modifiedS":{second},"modifiedNs":{second},"link":null}}}}}}"#
            );
            held("/var/lib/quorate/components.json", text.as_bytes())
        };
        assert_eq!(installed(1, 1), installed(1, 2));
        assert_ne!(installed(1, 1), installed(2, 1));
    }

    #[test]
    fn keys_are_told_by_being_there_and_other_files_by_what_is_in_them() {
        let key = |body: &str| {
            format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n")
        };
        assert_eq!(
            held("/k", key("AAAA").as_bytes()),
            held("/k", key("BBBB").as_bytes())
        );
        assert_ne!(held("/k", key("AAAA").as_bytes()), held("/k", b""));
        assert_ne!(held("/f", b"1"), held("/f", b"2"));
    }
}
