//! Packet rules of Kubernetes, taken out of the kernel: kube-proxy's, the pod network's and the kubelet's. They are known by their names;
//! everybody else's stay. Start at [`clear`].

use serde_json::Value;

use crate::{
    command::{Command, CommandError, Tools},
    ensure::TOOL_WITHIN,
    error::ActionError,
    facts::installed,
    kubeadm::Private,
    paths::Paths,
};

/// Tables of nftables that kube-proxy and Flannel have to themselves, in the families `ip` and `ip6`.
const TABLES: [&str; 3] = ["kube-proxy", "flannel-ipv4", "flannel-ipv6"];

/// How the names of chains of iptables begin that Kubernetes and pod networks make.
const CHAINS: [&str; 3] = ["KUBE-", "FLANNEL-", "CNI-"];

/// Takes them away. Programs that are not installed have made no rules.
///
/// # Errors
/// When a program refuses.
pub(crate) async fn clear(paths: &Paths, tools: &Tools) -> Result<(), ActionError> {
    if installed(paths, "nft") {
        let list = Command::new("nft", TOOL_WITHIN).args(["list", "tables"]);
        for table in own_tables(&tools.run(list).await?.text()) {
            let delete = Command::new("nft", TOOL_WITHIN).args(["delete", "table"]);
            tools.run(delete.args(table)).await?;
        }
    }
    for program in ["iptables", "ip6tables"] {
        if installed(paths, program) {
            clear_chains(paths, tools, program).await?;
        }
    }
    Ok(())
}

/// Whether the kernel has a table of that family and name.
///
/// # Errors
/// When `nft` refuses.
pub(crate) async fn has_table(
    tools: &Tools,
    family: &str,
    name: &str,
) -> Result<bool, CommandError> {
    let list = Command::new("nft", TOOL_WITHIN).args(["-j", "list", "tables"]);
    Ok(lists_table(&tools.run(list).await?.text(), family, name))
}

/// Whether `nft -j list tables` names it.
pub(crate) fn lists_table(json: &str, family: &str, name: &str) -> bool {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let tables = value["nftables"].as_array();
    tables.is_some_and(|all| {
        all.iter()
            .any(|one| one["table"]["name"] == name && one["table"]["family"] == family)
    })
}

async fn clear_chains(paths: &Paths, tools: &Tools, program: &str) -> Result<(), ActionError> {
    let save = async || -> Result<String, CommandError> {
        let save = Command::new(format!("{program}-save"), TOOL_WITHIN);
        Ok(tools.run(save).await?.text())
    };
    let without = taken_out(&save().await?);
    if without.is_empty() {
        return Ok(());
    }
    let file = Private::file(paths, program, without.as_bytes())?;
    let restore = Command::new(format!("{program}-restore"), TOOL_WITHIN)
        .arg("--noflush")
        .arg(file.path());
    tools.run(restore).await?;
    Ok(())
}

/// Family and name of our tables in `nft list tables`.
fn own_tables(list: &str) -> Vec<[String; 2]> {
    list.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (Some("table"), Some(family), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                return None;
            };
            let own = matches!(family, "ip" | "ip6") && TABLES.contains(&name);
            own.then(|| [family.to_owned(), name.to_owned()])
        })
        .collect()
}

fn is_own(chain: &str) -> bool {
    CHAINS.iter().any(|prefix| chain.starts_with(prefix))
}

/// What undoes our part of `iptables-save`: rules of others that lead to our chains are deleted, then our chains emptied, then removed.
fn taken_out(save: &str) -> String {
    let mut out = String::new();
    let mut table = String::new();
    let (mut rules, mut chains) = (Vec::new(), Vec::new());
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
            rules.clear();
            chains.clear();
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next().unwrap_or_default();
            if is_own(name) {
                chains.push(name.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let mut words = rule.split_whitespace();
            let of = words.next().unwrap_or_default();
            let words: Vec<&str> = words.collect();
            let leads = words
                .windows(2)
                .any(|pair| matches!(pair[0], "-j" | "-g") && is_own(pair[1]));
            if leads && !is_own(of) {
                rules.push(format!("-D {rule}"));
            }
        } else if line == "COMMIT" && !(rules.is_empty() && chains.is_empty()) {
            out.push_str(&format!("*{table}\n"));
            for rule in &rules {
                out.push_str(&format!("{rule}\n"));
            }
            for verb in ["-F", "-X"] {
                for chain in &chains {
                    out.push_str(&format!("{verb} {chain}\n"));
                }
            }
            out.push_str("COMMIT\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_by_their_whole_names() {
        let list = "table ip kube-proxy\ntable ip6 kube-proxy\ntable inet kube-proxy\ntable ip flannel-ipv4\ntable ip mine-kube-proxy\ntable ip nat\n";
        let own: Vec<String> = own_tables(list).iter().map(|t| t.join(" ")).collect();
        assert_eq!(own, ["ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4"]);
    }

    #[test]
    fn others_rules_stay() {
        let save = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:MINE - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n\
                    -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                    -A PREROUTING -j MINE\n-A KUBE-SERVICES -j RETURN\n-A POSTROUTING -g FLANNEL-POSTRTG\nCOMMIT\n\
                    *filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n\
                    *mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        let expected = "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                        -D POSTROUTING -g FLANNEL-POSTRTG\n-F KUBE-SERVICES\n-F FLANNEL-POSTRTG\n-X KUBE-SERVICES\n-X FLANNEL-POSTRTG\nCOMMIT\n\
                        *mangle\n-F KUBE-KUBELET-CANARY\n-X KUBE-KUBELET-CANARY\nCOMMIT\n";
        assert_eq!(taken_out(save), expected);
        assert_eq!(taken_out("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), "");
    }
}
