//! Refusals as sentences: what would be, in numbers.

use std::{collections::BTreeSet, fmt};

use super::Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { missing } => write!(f, "{missing}"),
            Self::WouldLoseQuorum {
                change,
                voters,
                healthy,
                needed,
            } => {
                write!(
                    f,
                    "{change} leaves {healthy} healthy of {voters} voters, {needed} needed"
                )
            }
            Self::LearnerPresent { member, peer_urls } => {
                write!(
                    f,
                    "member {member} ({}) is still a learner: promote or remove it first",
                    list(peer_urls)
                )
            }
            Self::MemberUnstarted { member, peer_urls } => write!(
                f,
                "member {member} ({}) was added and never started",
                list(peer_urls)
            ),
            Self::AlarmRaised { alarm, member } => {
                write!(f, "etcd raises {alarm} on member {member}")
            }
            Self::NotBlank { node, found } => {
                write!(f, "{node} shall found a cluster, but carries {found}")
            }
            Self::FoundingFailed { nodes, lost } => write!(
                f,
                "the founding of {} was begun again once and failed again: {} of {} founders have nothing of it ({})",
                list(nodes),
                lost.len(),
                nodes.len(),
                list(lost)
            ),
            Self::ForeignHost {
                node,
                mark,
                expected,
            } => write!(f, "{node} belongs to {mark}, expected {expected}"),
            Self::ForeignAuthority { node, other } => {
                write!(f, "{node} holds another certificate authority than {other}")
            }
            Self::UnfitHost {
                node,
                expected,
                seen,
            } => write!(f, "{node}: expected {expected}, seen {seen}"),
            Self::ClockDiffers {
                node,
                by_ms,
                allowed_ms,
            } => {
                write!(
                    f,
                    "the clock of {node} is {by_ms} ms from the others', {allowed_ms} ms are allowed"
                )
            }
            Self::EtcdVolume { node, device, seen } => write!(
                f,
                "{device} of {node}: expected an empty disk or this host's own for etcd, seen {seen}"
            ),
            Self::PortInUse {
                node,
                port,
                process,
            } => write!(f, "port {port} of {node} is taken by {process}"),
            Self::EndpointUnresolved { node, name } => {
                write!(f, "`{name}` does not resolve on {node}")
            }
            Self::EndpointSilent {
                nodes,
                endpoint,
                resolves,
                backends,
            } => write!(
                f,
                "nobody answers at {endpoint} ({}) from {}, though there are apiservers that are ready: the balancer there has to lead to {}",
                list(resolves),
                list(nodes),
                backends
                    .iter()
                    .map(|(node, address)| format!("{node} ({address})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::EndpointRecords {
                name,
                nodes,
                records,
                why,
            } => write!(
                f,
                "`{name}` leads to {}, seen from {}: {why}",
                list(records),
                list(nodes)
            ),
            Self::DataLost { node, member } => {
                write!(
                    f,
                    "{node} was member {member} and its etcd data is gone: it must not start an empty etcd"
                )
            }
            Self::MachineHeld { node, state } => write!(
                f,
                "{node} is {state}: `quorate local thaw {node}` lets it go on"
            ),
            Self::BundleVersion { bundle, wanted } => write!(
                f,
                "the bundle holds Kubernetes {bundle}, the cluster file wants {wanted}"
            ),
            Self::Unchangeable { what, is, wanted } => write!(
                f,
                "{what} of the running cluster is {is}, the cluster file wants {wanted}"
            ),
            Self::Unnamed { names } => write!(
                f,
                "none of the cluster file's masters is in the cluster, whose members are {}",
                list(names)
            ),
            Self::Fenced {
                token,
                highest,
                holder,
            } => write!(
                f,
                "token {token} is outranked by {highest}, held by {holder}"
            ),
            Self::OperationInForce {
                holder,
                goal,
                hosts,
            } => {
                write!(f, "`{goal}` of {holder} is in force on {}", list(hosts))
            }
            Self::PlanDeparted { departure } => {
                write!(f, "the plan was not approved like this: {departure}")
            }
            Self::NotProvenDead {
                node,
                member,
                accounts,
            } => write!(
                f,
                "nobody can say that {node} (member {member}) is dead: {accounts}"
            ),
            Self::MayStillRun {
                member,
                seen,
                voters,
                healthy,
                needed,
            } => write!(
                f,
                "member {member} may still run ({seen}), and without it {healthy} of {voters} voters are healthy, {needed} needed"
            ),
            Self::RaftLags {
                node,
                behind,
                allowed,
            } => write!(
                f,
                "etcd on {node}, which stays, is {behind} entries behind, {allowed} are allowed"
            ),
            Self::NearQuota {
                node,
                bytes,
                quota,
                percent_max,
            } => write!(
                f,
                "the database on {node}, which stays, has {} of {} MiB, {percent_max} % are allowed",
                bytes >> 20,
                quota >> 20
            ),
            Self::DiskFull { node, free, needed } => write!(
                f,
                "{node}, which stays, has {} MiB of disk left, {} MiB are needed",
                free >> 20,
                needed >> 20
            ),
            Self::DiskSlow {
                node,
                p99_ms,
                allowed_ms,
            } => write!(
                f,
                "the disk of {node}, which stays, is too slow: 99 of 100 syncs of etcd's log end within {p99_ms} ms, {allowed_ms} ms are allowed"
            ),
            Self::KnownBadVersion {
                node,
                component,
                version,
                why,
            } => write!(f, "{component} {version} on {node}: {why}"),
            Self::EvenVoters { voters, instead } => write!(
                f,
                "it would end with {voters} voters, which survive as many losses as {} and have one more to lose: {instead}",
                voters.saturating_sub(1)
            ),
            Self::NoSuccessor { change, lacks } => {
                write!(
                    f,
                    "{change} leaves two voters, which survive no loss, and what follows is not ready: {lacks}"
                )
            }
            Self::StillWanted { node, edit } => {
                write!(f, "the cluster file still wants {node}: {edit}")
            }
            Self::NotWanted { node, edit } => {
                write!(f, "the cluster file does not name {node}: {edit}")
            }
            Self::JoinerDiffers { node, differences } => {
                write!(f, "{node} would run with other settings than the masters:")?;
                differences
                    .iter()
                    .try_for_each(|difference| write!(f, "\n{difference}"))
            }
            Self::StillMember { node, member } => write!(
                f,
                "{node} shall be reset and is still member {member} of etcd"
            ),
            Self::NotConvertible {
                what, seen, way, ..
            } => write!(f, "{what}: {seen}; {way}"),
            Self::OldAddressInUse {
                node,
                callers,
                name,
            } => {
                let (count, who) = (callers.len(), list(callers));
                match name {
                    None => write!(
                        f,
                        "seen on {node}: {count} still connected to the old address: {who}"
                    ),
                    Some(name) => write!(
                        f,
                        "seen on {node}: {count} connected to the old address, to which `{name}` leads too, so that nobody can tell who has the name: {who}"
                    ),
                }
            }
            Self::OldAddressStored { stored, .. } => {
                f.write_str("objects of the cluster still hold the old address:")?;
                stored.iter().try_for_each(|one| write!(f, "\n{one}"))
            }
            Self::Unproven { unknowns, .. } => {
                f.write_str(
                    "no conversion was proven with this, so nobody can say that it goes on:",
                )?;
                unknowns.iter().try_for_each(|one| write!(f, "\n{one}"))
            }
            Self::WorkerAway { node, seen } => write!(
                f,
                "{node} cannot be led to the endpoint: {seen}; accepted, it is left over, and a later `quorate convert` leads it"
            ),
            Self::PastReturn { voters } => write!(
                f,
                "{voters} masters vote: a conversion is only taken back while one does"
            ),
            Self::TargetUnhealthy {
                node,
                instance,
                seen,
                waited_s,
            } => write!(
                f,
                "the balancer does not take {node} ({instance}) for healthy: {seen} after {waited_s} s, and its own /readyz was ok when it was registered"
            ),
            Self::LastTarget { node, others } => write!(
                f,
                "without {node} the balancer has no healthy target: {} others ({})",
                others.len(),
                list(others)
            ),
            Self::Unpermitted { action } => write!(f, "`{action}` needs a permitted change"),
        }
    }
}

fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(", ")
    }
}
