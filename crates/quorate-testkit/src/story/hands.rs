//! What people and chance do to the world in a story. Start at [`lend`].

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use quorate_plan::observation::{HostMark, Node, Stored};

use crate::{
    World,
    fixture::node,
    world::{
        ClusterId,
        machine::EtcdDisk,
        volume::{Holds, Volume},
    },
};

/// Does what a command says, when it is one of these.
///
/// # Panics
/// When it is, and lacks a word or has a wrong one.
pub(super) fn lend(world: &mut World, words: &[&str]) -> bool {
    let host = || node(words.get(1).expect("a host"));
    match words {
        ["power-off", ..] => world.power_off(&host()),
        ["power-on", ..] => world.power_on(&host()),
        ["freeze", ..] => world.freeze(&host()),
        ["thaw", ..] => world.thaw(&host()),
        ["cut", ..] => world.cut(&host()),
        ["mend", ..] => world.mend(&host()),
        ["unreach", ..] => world.machine_mut(&host()).unreachable = true,
        ["reinstall", ..] => world.lose_disk(&host()),
        ["lose-etcd-data", ..] => world.lose_etcd_data(&host()),
        ["volume", _, "holds", what] => {
            let volume = world.machine_mut(&host()).volume.as_mut();
            *volume.expect("a host with such a disk") = Volume {
                holds: match *what {
                    "nothing" => Holds::Nothing,
                    other => Holds::Other(other.to_owned()),
                },
                ..Volume::default()
            };
        }
        ["old-data", ..] => {
            world.machine_mut(&host()).disk.etcd = Some(EtcdDisk {
                cluster: ClusterId(0xbad),
                member: "bad".parse().expect("an ID"),
                index: 1,
            });
        }
        ["set", _, settings @ ..] => {
            for setting in settings {
                set(world, words[1], setting);
            }
        }
        ["unresolve"] => world.resolves.clear(),
        ["record", address] => {
            let address = address.parse().expect("an address");
            world.resolves.insert(address);
        }
        ["record-gone", address] => {
            let address = address.parse().expect("an address");
            assert!(world.resolves.remove(&address), "there is such a record");
        }
        ["balancer-silent"] => world.users_balancer = false,
        ["balancer-leads"] => world.users_balancer = true,
        ["nlb", how @ ..] => {
            let nlb = world.nlb.as_mut().expect("a world with such a balancer");
            match how {
                ["slow", seconds] => {
                    nlb.slow_ms = 1000 * seconds.parse::<u64>().expect("a number of seconds");
                }
                ["blind"] => nlb.blind = true,
                ["sees"] => nlb.blind = false,
                ["silent"] => nlb.silent = true,
                ["answers"] => nlb.silent = false,
                ["forget", name] => {
                    nlb.registered.remove(&node(name));
                }
                other => panic!("no balancer is {other:?}"),
            }
        }
        ["alarm", _, kind] => world.raise_alarm(&host(), kind),
        ["edit", _, file, flag] => world.edit_manifest(&host(), file, flag),
        ["add-learner", url] => {
            let ready = world.ready();
            let first = ready.first().expect("a master that serves");
            world.add_learner(first, url).expect("etcd takes it");
        }
        ["somebody-elses"] => world.somebody_elses(),
        ["straggler", _, program] => {
            let foreign = &mut world.machine_mut(&host()).disk.foreign;
            foreign.stragglers.insert((*program).to_owned());
        }
        ["quiet", _, seconds] => {
            let old = &mut world.machine_mut(&host()).disk.foreign.old_address;
            let old = old.as_mut().expect("a rule for the old address");
            old.over = Duration::from_secs(seconds.parse().expect("a number of seconds"));
            old.callers.clear();
        }
        ["comes-by-old-address", _, from] => {
            let old = &mut world.machine_mut(&host()).disk.foreign.old_address;
            let old = old.as_mut().expect("a rule for the old address");
            old.callers.insert(from.parse().expect("an address"));
        }
        ["flush-rules", ..] => {
            let old = &mut world.machine_mut(&host()).disk.foreign.old_address;
            old.as_mut().expect("a rule for the old address").loaded = false;
        }
        ["straggler-gone", _] => world.machine_mut(&host()).disk.foreign.stragglers.clear(),
        ["stores", kind, object] => {
            let ready = world.ready();
            let first = ready.first().expect("a master that serves").clone();
            let address = format!("{}:6443", world.machine(&first).address);
            let stored = Stored {
                kind: (*kind).to_owned(),
                object: (*object).to_owned(),
                key: "key config".into(),
                address,
            };
            let kube = world.kube_mut(&first).expect("it serves");
            kube.foreign.stored.insert(stored);
        }
        ["pod-network", object] => {
            let ready = world.ready();
            let first = ready.first().expect("a master that serves").clone();
            let kube = world.kube_mut(&first).expect("it serves");
            kube.foreign.networks = [(*object).to_owned()].into();
        }
        ["stores-nothing"] => {
            let ready = world.ready();
            let first = ready.first().expect("a master that serves").clone();
            let kube = world.kube_mut(&first).expect("it serves");
            kube.foreign.stored.clear();
        }
        ["old-peer-url"] => announce(world, "https://127.0.0.1:2380".into()),
        ["new-peer-url"] => {
            let ready = world.ready();
            let address = world.machine(ready.first().expect("a master")).address;
            announce(world, format!("https://{address}:2380"));
        }
        ["leave-behind", rest @ ..] => leave_behind(world, rest),
        _ => return false,
    }
    true
}

/// The only member tells that its peers reach it there.
fn announce(world: &mut World, url: String) {
    let mut members = world
        .clusters
        .values_mut()
        .flat_map(|cluster| cluster.members.values_mut());
    members.next().expect("a member").peer_url = url;
}

fn set(world: &mut World, host: &str, setting: &str) {
    let (key, value) = setting.split_once('=').expect("key=value");
    let number = || value.parse::<u64>().expect("a number");
    let hardware = &mut world.machine_mut(&node(host)).hardware;
    match key {
        "disk-ms" => hardware.fsync_p99_ms = number(),
        "disk-mib" => hardware.disk_free_bytes = number() << 20,
        "database-mib" => hardware.db_bytes = number() << 20,
        "lag" => {
            hardware.raft_lag = number();
            // So many entries there have to be, to be behind by.
            for cluster in world.clusters.values_mut() {
                cluster.index += number();
            }
        }
        "etcd" => hardware.etcd_version = value.into(),
        "cpus" => hardware.cpus = u32::try_from(number()).expect("a few"),
        "clock-ms" => hardware.clock_off_ms = value.parse().expect("milliseconds"),
        "port" => {
            let port = value.parse().expect("a port");
            hardware.listening.insert(port, "nginx".into());
        }
        "mark" => {
            let mark = HostMark {
                cluster: value.parse().expect("a name"),
                node: node(host),
                disposable: false,
            };
            world.machine_mut(&node(host)).disk.mark = Some(mark);
        }
        "authority" => {
            world.machine_mut(&node(host)).disk.pki.authority = Some(value.into());
        }
        _ => panic!("`{setting}` is nothing that a host is like"),
    }
}

fn leave_behind(world: &mut World, words: &[&str]) {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let since = world.now_ms;
    let first = world.ready().first().expect("a master that serves").clone();
    if let ["backend", name, at] = words {
        for machine in world.machines.keys().cloned().collect::<Vec<_>>() {
            if let Some(balancer) = &mut world.machine_mut(&machine).disk.balancer {
                let backend = (address(at), 6443).into();
                balancer.backends.insert(node(name), backend);
            }
        }
        return;
    }
    let kube = world.kube_mut(&first).expect("it is ready");
    match words {
        ["node", name, at] => {
            let object = Node {
                ready: false,
                reason: "Kubelet stopped posting node status.".into(),
                pressures: BTreeSet::new(),
                control_plane: true,
                tainted: true,
                kubelet: "1.35.4".into(),
                addresses: [address(at)].into(),
                heartbeat: None,
            };
            kube.nodes.insert(node(name), object);
            kube.silent_since.insert(node(name), since);
        }
        ["endpoint", at] => {
            kube.stale_endpoints.insert(address(at));
        }
        ["secrets"] => {
            kube.tokens.insert("left00".into());
            kube.uploaded_certs = true;
        }
        other => panic!("nobody leaves {other:?} behind"),
    }
}
