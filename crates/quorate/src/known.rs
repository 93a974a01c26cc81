//! Masters that this operator has ever made part of a cluster, and the ways to them: what leaves the file is still to be reached, to be taken
//! out of the cluster and reset. Start at [`Known`].
//!
//! It is only knowledge of the way: whether a host is a member, or was reset, is seen on the hosts.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    path::Path,
};

use quorate_plan::{
    Goal, Intent, NodeName, Observation, Spec,
    observation::Power,
    spec::{Machine, Role},
};
use serde::{Deserialize, Serialize};

use crate::{exit::Exit, failure::Failure, show::json::API_VERSION, state::ClusterState};

const KIND: &str = "KnownMasters";

/// Masters by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Known {
    api_version: String,
    kind: String,
    masters: BTreeMap<NodeName, Master>,
}

/// A master, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Master {
    machine: Machine,
    /// It was taken out of the cluster and did not answer, so it was not reset. Only `repair` looks at it again: every other command
    /// would wait for it.
    #[serde(default)]
    left: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            masters: BTreeMap::new(),
        }
    }
}

impl Known {
    /// What is kept about a cluster.
    ///
    /// # Errors
    /// When it cannot be read, or is something else: then nobody can say which hosts are forgotten.
    pub fn read(state: &ClusterState) -> Result<Self, Failure> {
        let path = state.masters();
        let doing = || format!("could not read the known masters, `{}`", path.display());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(|error| Failure::doing(Exit::Unexpected, doing(), &error))?,
        };
        let known: Self = serde_json::from_str(&text).map_err(|error| {
            Failure::doing(Exit::Unexpected, doing(), &error).hint(
                "without that file the way to masters that the cluster file no longer names is not known: they would not be reset",
            )
        })?;
        if known.api_version != API_VERSION || known.kind != KIND {
            return Err(Failure::new(
                Exit::Unexpected,
                format!("{}: it is {} {}", doing(), known.api_version, known.kind),
            ));
        }
        Ok(known)
    }

    /// Keeps it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, state: &ClusterState) -> Result<(), Failure> {
        state.make()?;
        let path = state.masters();
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        replace(&path, text.as_bytes()).map_err(|error| {
            let doing = format!("could not write the known masters, `{}`", path.display());
            Failure::doing(Exit::Unexpected, doing, &error)
        })
    }

    /// Forgets a cluster that is gone.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(state: &ClusterState) -> Result<(), Failure> {
        let path = state.masters();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let doing = format!("could not remove `{}`", path.display());
                Err(Failure::doing(Exit::Unexpected, doing, &error))
            }
            _ => Ok(()),
        }
    }

    /// Masters to look at that the file does not name, for that goal. One whose address a machine of the file has is none: whatever
    /// answers there is that machine.
    pub fn retired(&self, spec: &Spec, goal: &Goal) -> BTreeMap<NodeName, Machine> {
        let looks_at_left = |node: &NodeName| match goal {
            Goal::Repair => true,
            Goal::Remove { node: named } | Goal::Replace { node: named, .. } => named == node,
            Goal::Converge
            | Goal::Convert { .. }
            | Goal::Unconvert
            | Goal::RetireOldAddress { .. }
            | Goal::KeepOldAddress => false,
        };
        self.masters
            .iter()
            .filter(|(node, master)| !master.left || looks_at_left(node))
            .filter(|(node, _)| spec.machine(node).is_none())
            .filter(|(_, master)| !has_address(spec, &master.machine))
            .map(|(node, master)| (node.clone(), master.machine.clone()))
            .collect()
    }

    /// Before a run: whatever it does, the ways to those that it is about stay known.
    pub fn begin(&mut self, intent: &Intent) {
        for (node, machine, role) in intent.machines() {
            match role {
                Some(Role::ControlPlane) => {
                    let machine = machine.clone();
                    let left = false;
                    self.masters.insert(node.clone(), Master { machine, left });
                }
                None => {
                    let machine = machine.clone();
                    self.masters.entry(node.clone()).or_insert(Master {
                        machine,
                        left: false,
                    });
                }
                Some(Role::Worker | Role::Balancer) => {}
            }
        }
    }

    /// After a run that reached its goal, and what was seen then: masters that were reset are forgotten, and those that nobody could reach
    /// are put by.
    pub fn end(&mut self, intent: &Intent, seen: &Observation) {
        self.masters.retain(|node, master| {
            if intent.spec.control_plane.contains_key(node) {
                return true;
            }
            let handled = match &intent.goal {
                Goal::Converge | Goal::Repair => intent.retired.contains_key(node),
                Goal::Convert { .. }
                | Goal::Unconvert
                | Goal::RetireOldAddress { .. }
                | Goal::KeepOldAddress => false,
                Goal::Remove { node: named } | Goal::Replace { node: named, .. } => named == node,
            };
            // A worker or balancer of that name, or of that address, has taken its place.
            if intent.spec.machine(node).is_some() || has_address(&intent.spec, &master.machine) {
                return false;
            }
            if !handled {
                return true;
            }
            match last(seen, node) {
                Last::OfNoCluster => false,
                Last::Marked => true,
                Last::Unseen => {
                    master.left = true;
                    true
                }
            }
        });
    }

    /// Masters that were taken out of the cluster and not reset, since they did not answer.
    pub fn left(&self) -> impl Iterator<Item = &NodeName> {
        let left = self.masters.iter().filter(|(_, master)| master.left);
        left.map(|(node, _)| node)
    }
}

/// How a host was in the end.
enum Last {
    /// It was reset, or its machine does not run.
    OfNoCluster,
    /// It carries the cluster's mark.
    Marked,
    /// It did not answer.
    Unseen,
}

fn last(seen: &Observation, node: &NodeName) -> Last {
    let view = seen.infra.get(node).and_then(|view| view.get().ok());
    match view.map(|view| view.power) {
        // Machines of ours: one that is started again is found running.
        Some(Power::Absent | Power::Off) => return Last::OfNoCluster,
        Some(Power::Running | Power::Frozen) | None => {}
    }
    match seen.host(node).and_then(|facts| facts.mark.get()) {
        Ok(None) => Last::OfNoCluster,
        Ok(Some(_)) => Last::Marked,
        Err(_) => Last::Unseen,
    }
}

fn has_address(spec: &Spec, machine: &Machine) -> bool {
    spec.machines()
        .any(|(_, other, _)| other.address == machine.address)
}

/// Written beside, for the owner alone, then renamed: two operators on one machine may be at it at once.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("it lies in a folder");
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_plan::{
        Missing, Seen,
        observation::{HostFacts, HostMark, HostReport},
        spec,
    };

    use super::*;
    use crate::state::Directories;

    fn spec(masters: &[(&str, u8)]) -> Spec {
        let hosts: Vec<String> = masters
            .iter()
            .map(|(name, n)| format!("{{ name: {name}, address: 10.0.0.{n} }}"))
            .collect();
        let text = format!(
            "apiVersion: quorate/v1\nname: demo\ncontrolPlane: {{ hosts: [{}] }}\n\
             endpoint: {{ host: api.example.org, balancer: {{ kind: external }} }}\nprovider: {{ kind: ssh }}\n",
            hosts.join(", ")
        );
        match spec::parse(&text, "cluster.yaml") {
            Ok((spec, _)) => spec,
            Err(found) => panic!("{found:?}"),
        }
    }

    fn intent(spec: Spec, goal: Goal, known: &Known) -> Intent {
        Intent {
            retired: known.retired(&spec, &goal),
            bundle: quorate_plan::intent::BundleRef {
                id: String::new(),
                kubernetes: spec.kubernetes.clone(),
                images: [].into(),
            },
            spec,
            binary: String::new(),
            goal,
            accepted: [].into(),
        }
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn names(retired: &BTreeMap<NodeName, Machine>) -> Vec<&str> {
        retired.keys().map(NodeName::as_str).collect()
    }

    /// A host that answers with a mark or without one, or does not answer.
    fn seen(name: &str, marked: Option<bool>) -> Observation {
        let mut seen = Observation::default();
        let report = match marked {
            None => Seen::Unknown(Missing::not_looked(name)),
            Some(marked) => {
                let mut facts = HostFacts::blank(&node(name));
                facts.mark = Seen::now(marked.then(|| HostMark {
                    cluster: "demo".parse().unwrap(),
                    node: node(name),
                    disposable: false,
                }));
                Seen::now(HostReport {
                    facts,
                    etcd: Seen::now(None),
                    api: Seen::now(None),
                })
            }
        };
        seen.record(&node(name), report);
        seen
    }

    const THREE: [(&str, u8); 3] = [("cp-1", 1), ("cp-2", 2), ("cp-3", 3)];
    const OTHER: [(&str, u8); 3] = [("cp-1", 1), ("cp-2", 2), ("cp-4", 4)];

    #[test]
    fn what_left_the_file_is_known_until_it_was_reset() {
        let mut known = Known::default();
        let first = intent(spec(&THREE), Goal::Converge, &known);
        assert!(first.retired.is_empty());
        known.begin(&first);
        known.end(&first, &Observation::default());

        let second = intent(spec(&OTHER), Goal::Converge, &known);
        assert_eq!(names(&second.retired), ["cp-3"]);
        // Killed in the middle: all four are known.
        known.begin(&second);
        let again = intent(spec(&OTHER), Goal::Converge, &known);
        assert_eq!(again.retired, second.retired);
        // Done, and the host still carries the mark: it is looked at again.
        known.end(&again, &seen("cp-3", Some(true)));
        assert_eq!(
            names(&known.retired(&spec(&OTHER), &Goal::Converge)),
            ["cp-3"]
        );
        known.end(&again, &seen("cp-3", Some(false)));
        assert!(known.retired(&spec(&OTHER), &Goal::Repair).is_empty());
    }

    #[test]
    fn one_that_did_not_answer_is_put_by_for_repair() {
        let mut known = Known::default();
        known.begin(&intent(spec(&THREE), Goal::Converge, &known));
        let swap = intent(spec(&OTHER), Goal::Converge, &known);
        known.begin(&swap);
        known.end(&swap, &seen("cp-3", None));
        assert_eq!(known.left().collect::<Vec<_>>(), [&node("cp-3")]);
        assert!(known.retired(&spec(&OTHER), &Goal::Converge).is_empty());
        assert_eq!(
            names(&known.retired(&spec(&OTHER), &Goal::Repair)),
            ["cp-3"]
        );
        let remove = Goal::Remove { node: node("cp-3") };
        assert_eq!(names(&known.retired(&spec(&OTHER), &remove)), ["cp-3"]);
        // It is back, and was reset.
        let repair = intent(spec(&OTHER), Goal::Repair, &known);
        known.begin(&repair);
        known.end(&repair, &seen("cp-3", Some(false)));
        assert_eq!(known.left().count(), 0);
    }

    #[test]
    fn another_goal_forgets_nobody_else() {
        let mut known = Known::default();
        known.begin(&intent(
            spec(&[THREE.as_slice(), &[("cp-4", 4), ("cp-5", 5)]].concat()),
            Goal::Converge,
            &known,
        ));
        let remove = Goal::Remove { node: node("cp-5") };
        let one = intent(spec(&THREE), remove, &known);
        assert_eq!(names(&one.retired), ["cp-4", "cp-5"]);
        known.end(&one, &seen("cp-5", Some(false)));
        assert_eq!(
            names(&known.retired(&spec(&THREE), &Goal::Converge)),
            ["cp-4"]
        );
    }

    #[test]
    fn an_address_is_one_machines() {
        let mut known = Known::default();
        known.begin(&intent(spec(&THREE), Goal::Converge, &known));
        // The same machine, installed anew under another name.
        let renamed = spec(&[("cp-1", 1), ("cp-2", 2), ("cp-4", 3)]);
        assert!(known.retired(&renamed, &Goal::Converge).is_empty());
    }

    #[test]
    fn it_is_kept_whole_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let state = Directories::below(folder.path()).cluster(&"demo".parse().unwrap());
        assert_eq!(Known::read(&state).unwrap(), Known::default());
        let mut known = Known::default();
        known.begin(&intent(spec(&THREE), Goal::Converge, &known));
        known.write(&state).unwrap();
        assert_eq!(Known::read(&state).unwrap(), known);
        let mode = fs::metadata(state.masters()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Known::forget(&state).unwrap();
        Known::forget(&state).unwrap();
        assert_eq!(Known::read(&state).unwrap(), Known::default());
        for bad in [
            "{",
            "{\"apiVersion\":\"quorate/v9\",\"kind\":\"KnownMasters\",\"masters\":{}}",
        ] {
            fs::write(state.masters(), bad).unwrap();
            assert_eq!(Known::read(&state).unwrap_err().exit, Exit::Unexpected);
        }
    }
}
