//! Who has which name, bridge and subnet on this machine, and which of its settings were changed for them: one file
//! in `/run`, so that users with different state directories see each other, under one lock. Begin at [`Registry`].
//!
//! It is true for one boot of the machine. After a reboot bridges are gone and settings are back, so what it says of
//! an earlier boot is forgotten, and a cluster claims its place again when its first host is powered on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::network::{self, Owner};
use super::settings::{self, Change, Restored};
use crate::error::{During, Error, Result};
use crate::names::{BridgeName, ClusterKey, ClusterName};
use crate::spec::Uplink;
use crate::store::{self, Lock};
use crate::subnet::Subnet;

/// Where the registry is. The same for all state directories: that is its point.
const DIR: &str = "/run/quorate-local";

/// A place on the machine, held by one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) key: ClusterKey,
    pub(crate) bridge: BridgeName,
    pub(crate) subnet: Subnet,
    /// The state directory of the cluster.
    pub(crate) root: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Content {
    /// The kernel's identity of the boot this is true for.
    boot: String,
    claims: BTreeMap<ClusterName, Claim>,
    changes: Vec<Change>,
}

/// The registry, locked for as long as this lives.
pub(crate) struct Registry {
    file: PathBuf,
    content: Content,
    _lock: Lock,
}

impl Registry {
    /// Waits for the lock and reads.
    pub(crate) fn open() -> Result<Registry> {
        let id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(id)
            .during("read", id)?
            .trim()
            .to_owned();
        Registry::open_in(Path::new(DIR), boot)
    }

    fn open_in(dir: &Path, boot: String) -> Result<Registry> {
        let lock = Lock::exclusive(&dir.join("lock"))?;
        let file = dir.join("registry.json");
        let content = store::read_json::<Content>(&file)?.filter(|content| content.boot == boot);
        let content = content.unwrap_or(Content {
            boot,
            ..Content::default()
        });
        Ok(Registry {
            file,
            content,
            _lock: lock,
        })
    }

    fn save(&self) -> Result<()> {
        store::write_json(&self.file, &self.content)
    }

    /// The claim of a cluster.
    pub(crate) fn claim_of(&self, name: &ClusterName) -> Option<&Claim> {
        self.content.claims.get(name)
    }

    /// The clusters whose state is in `root`.
    pub(crate) fn clusters_of(&self, root: &Path) -> Vec<ClusterName> {
        let mine = self
            .content
            .claims
            .iter()
            .filter(|(_, claim)| claim.root == root);
        mine.map(|(name, _)| name.clone()).collect()
    }

    /// The changes in force, to be put back by the last cluster.
    pub(crate) fn changes(&self) -> &[Change] {
        &self.content.changes
    }

    /// Takes a place for a cluster, choosing what is left open. A place the cluster has already is kept.
    pub(crate) fn claim(&mut self, wish: &Wish<'_>) -> Result<Claim> {
        let claim = choose(
            &self.content.claims,
            wish,
            &network::taken()?,
            &network::owner,
        )?;
        if self.content.claims.get(wish.name) != Some(&claim) {
            self.hold(wish.name, claim.clone())?;
        }
        Ok(claim)
    }

    /// Takes the place a cluster had before, as after a reboot of the machine.
    pub(crate) fn claim_again(&mut self, name: &ClusterName, claim: &Claim) -> Result<()> {
        let Claim {
            key,
            bridge,
            subnet,
            root,
        } = claim;
        self.claim(&Wish {
            name,
            key,
            root,
            bridge: Some(bridge),
            subnet: Some(*subnet),
        })
        .map(drop)
    }

    fn hold(&mut self, name: &ClusterName, claim: Claim) -> Result<()> {
        self.content.claims.insert(name.clone(), claim);
        self.save()
    }

    /// Makes the changes a cluster with this uplink needs: each is recorded before it is made.
    pub(crate) fn make_changes(&mut self, uplink: Uplink) -> Result<()> {
        for planned in settings::planned(uplink)? {
            match self
                .content
                .changes
                .iter_mut()
                .find(|known| known.what == planned.what)
            {
                // Changed by somebody since we did: the value from before the first cluster is still the one to keep.
                Some(known) => known.to = planned.to.clone(),
                None => self.content.changes.push(planned.clone()),
            }
            self.save()?;
            settings::make(&planned)?;
        }
        Ok(())
    }

    /// Gives a cluster's place back; with the last one, the machine's settings too.
    pub(crate) fn release(&mut self, name: &ClusterName) -> Result<Restored> {
        let others = self.content.claims.keys().any(|other| other != name);
        let mut restored = Restored::default();
        if !others {
            while let Some(change) = self.content.changes.pop() {
                match settings::put_back(&change)? {
                    true => restored.restored.push(change),
                    false => restored.left.push(change),
                }
                self.save()?;
            }
        }
        self.content.claims.remove(name);
        match self.content.claims.is_empty() {
            true => store::remove_file(&self.file)?,
            false => self.save()?,
        }
        Ok(restored)
    }
}

/// What a cluster wants of the machine.
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a ClusterName,
    pub(crate) key: &'a ClusterKey,
    pub(crate) root: &'a Path,
    /// `None` is any.
    pub(crate) bridge: Option<&'a BridgeName>,
    /// `None` is any.
    pub(crate) subnet: Option<Subnet>,
}

/// Chooses, and refuses what collides with another cluster or with what the machine has.
fn choose(
    claims: &BTreeMap<ClusterName, Claim>,
    wish: &Wish<'_>,
    taken: &[network::Taken],
    owner: &dyn Fn(&BridgeName) -> Result<Owner>,
) -> Result<Claim> {
    let held = claims.get(wish.name);
    if let Some(other) = held.filter(|claim| claim.key != *wish.key || claim.root != wish.root) {
        return Err(Error::NameTaken {
            name: wish.name.clone(),
            root: other.root.clone(),
        });
    }
    let others = || claims.iter().filter(|(name, _)| *name != wish.name);
    let bridge_by = |bridge: &BridgeName| -> Result<Option<String>> {
        if let Some((name, _)) = others().find(|(_, claim)| claim.bridge == *bridge) {
            return Ok(Some(format!("cluster `{name}`")));
        }
        Ok(match owner(bridge)? {
            Owner::Nobody => None,
            Owner::Cluster(key) if key == *wish.key => None,
            // Made after its claim was recorded and not yet marked: a create that was broken off.
            Owner::Unmarked if held.is_some_and(|claim| claim.bridge == *bridge) => None,
            Owner::Cluster(key) => Some(format!(
                "a bridge left behind by cluster `{key}`; remove it with `ip link delete {bridge}`"
            )),
            Owner::Unmarked => Some("an interface of this machine".to_owned()),
        })
    };
    let bridge = match wish.bridge.or(held.map(|claim| &claim.bridge)) {
        Some(bridge) => match bridge_by(bridge)? {
            None => bridge.clone(),
            Some(by) => {
                return Err(Error::BridgeTaken {
                    bridge: bridge.clone(),
                    by,
                });
            }
        },
        None => {
            let mut free = None;
            for bridge in (0..1000).map(BridgeName::numbered) {
                if bridge_by(&bridge)?.is_none() {
                    free = Some(bridge);
                    break;
                }
            }
            free.ok_or(Error::NoneFree {
                what: "bridge name",
            })?
        }
    };
    let subnet_by = |subnet: Subnet| {
        let cluster = others()
            .find(|(_, claim)| claim.subnet == subnet)
            .map(|(name, _)| format!("cluster `{name}`"));
        let mut machine = taken
            .iter()
            .filter(|taken| taken.interface.as_deref() != Some(bridge.as_str()));
        cluster.or_else(|| {
            machine
                .find(|t| subnet.overlaps(t.network, t.prefix))
                .map(|t| t.text.clone())
        })
    };
    let subnet = match wish.subnet.or(held.map(|claim| claim.subnet)) {
        Some(subnet) => match subnet_by(subnet) {
            None => subnet,
            Some(by) => return Err(Error::SubnetTaken { subnet, by }),
        },
        None => Subnet::candidates()
            .find(|&subnet| subnet_by(subnet).is_none())
            .ok_or(Error::NoneFree { what: "subnet" })?,
    };
    Ok(Claim {
        key: wish.key.clone(),
        bridge,
        subnet,
        root: wish.root.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn name(name: &str) -> ClusterName {
        name.parse().expect("a name")
    }

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    fn key(key: &str) -> ClusterKey {
        key.parse().expect("a key")
    }

    fn claims() -> BTreeMap<ClusterName, Claim> {
        let claim = Claim {
            key: key("one-00000001"),
            bridge: BridgeName::numbered(0),
            subnet: subnet("172.30.0.0/24"),
            root: "/a".into(),
        };
        BTreeMap::from([(name("one"), claim)])
    }

    fn taken() -> Vec<network::Taken> {
        let taken = |a: [u8; 4], prefix, text: &str, interface: Option<&str>| network::Taken {
            network: Ipv4Addr::from(a),
            prefix,
            interface: interface.map(str::to_owned),
            text: text.to_owned(),
        };
        vec![
            taken(
                [10, 8, 0, 0],
                16,
                "the route 10.8.0.0/16 dev tun0",
                Some("tun0"),
            ),
            taken(
                [172, 30, 0, 0],
                24,
                "the route 172.30.0.0/24 dev qr0",
                Some("qr0"),
            ),
        ]
    }

    fn owner(bridge: &BridgeName) -> Result<Owner> {
        Ok(match bridge.as_str() {
            "qr0" => Owner::Cluster(key("one-00000001")),
            "qr1" => Owner::Cluster(key("lost-00000001")),
            "docker0" => Owner::Unmarked,
            _ => Owner::Nobody,
        })
    }

    /// `NAME ROOT BRIDGE SUBNET`, the last two `-` when left open.
    #[track_caller]
    fn check(wish: &str, expect: &str) {
        let words: Vec<_> = wish.split(' ').collect();
        let (name, key) = (name(words[0]), key(&format!("{}-00000001", words[0])));
        let open = |word: &str| (word != "-").then(|| word.to_owned());
        let bridge: Option<BridgeName> =
            open(words[2]).map(|bridge| bridge.parse().expect("a name"));
        let subnet = open(words[3]).map(|text| subnet(&text));
        let wish = Wish {
            name: &name,
            key: &key,
            root: Path::new(words[1]),
            bridge: bridge.as_ref(),
            subnet,
        };
        let got = match choose(&claims(), &wish, &taken(), &owner) {
            Ok(claim) => format!("{} {}", claim.bridge, claim.subnet),
            Err(err) => err.to_string(),
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn what_is_left_open_is_chosen_free() {
        check("two /a - -", "qr2 172.30.1.0/24");
        check("two /b - -", "qr2 172.30.1.0/24");
        check("two /b brx 10.9.0.0/24", "brx 10.9.0.0/24");
        check("one /a - -", "qr0 172.30.0.0/24");
    }

    #[test]
    fn a_clash_is_refused_by_name() {
        check(
            "one /b - -",
            "the name `one` is taken: a cluster of that name has its state in /a",
        );
        check(
            "two /a - 172.30.0.0/24",
            "the subnet 172.30.0.0/24 is taken: it overlaps cluster `one`",
        );
        check(
            "two /a - 10.8.7.0/24",
            "the subnet 10.8.7.0/24 is taken: it overlaps the route 10.8.0.0/16 dev tun0",
        );
        check(
            "two /a qr0 -",
            "the bridge name `qr0` is taken by cluster `one`",
        );
        check(
            "two /a docker0 -",
            "the bridge name `docker0` is taken by an interface of this machine",
        );
        check(
            "two /a qr1 -",
            "the bridge name `qr1` is taken by a bridge left behind by cluster `lost-00000001`; remove it with `ip link delete qr1`",
        );
    }

    #[test]
    fn the_same_name_made_again_elsewhere_is_another_cluster() {
        let (name, other) = (name("one"), key("one-00000002"));
        let wish = Wish {
            name: &name,
            key: &other,
            root: Path::new("/a"),
            bridge: None,
            subnet: None,
        };
        let refused = choose(&claims(), &wish, &taken(), &owner);
        assert!(
            matches!(refused, Err(Error::NameTaken { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn what_is_recorded_is_read_again_and_forgotten_after_a_reboot() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let claim = claims().remove(&name("one")).expect("there");
        let mut registry = Registry::open_in(dir.path(), "boot-1".to_owned()).expect("opened");
        registry.hold(&name("one"), claim.clone()).expect("held");
        drop(registry);
        let registry = Registry::open_in(dir.path(), "boot-1".to_owned()).expect("opened");
        assert_eq!(registry.claim_of(&name("one")), Some(&claim));
        assert_eq!(registry.clusters_of(Path::new("/a")), [name("one")]);
        assert!(registry.clusters_of(Path::new("/b")).is_empty());
        drop(registry);
        let registry = Registry::open_in(dir.path(), "boot-2".to_owned()).expect("opened");
        assert_eq!(registry.claim_of(&name("one")), None);
    }

    #[test]
    fn the_last_release_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut registry = Registry::open_in(dir.path(), "boot-1".to_owned()).expect("opened");
        let claim = claims().remove(&name("one")).expect("there");
        registry.hold(&name("one"), claim.clone()).expect("held");
        registry
            .hold(
                &name("two"),
                Claim {
                    key: key("two-00000001"),
                    bridge: BridgeName::numbered(1),
                    ..claim
                },
            )
            .expect("held");
        registry.release(&name("one")).expect("released");
        assert!(dir.path().join("registry.json").exists());
        assert_eq!(
            registry.release(&name("two")).expect("released"),
            Restored::default()
        );
        assert!(!dir.path().join("registry.json").exists());
    }
}
