//! What happens *to* machines: power, disks, the network, and what other people do.

use std::collections::BTreeSet;

use quorate_plan::{NodeName, observation::Power};

use super::{
    World,
    machine::{Boot, Disk, Memory},
};

impl World {
    /// Power is cut: memory is gone, the disk is not.
    pub fn power_off(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        if machine.power != Power::Absent {
            machine.power = Power::Off;
            machine.memory = Memory::default();
        }
    }

    /// Power is back: enabled units start, but for a kubelet that the empty-data guard holds.
    pub fn power_on(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        if machine.power != Power::Off {
            return;
        }
        machine.power = Power::Running;
        machine.boots += 1;
        machine.memory.active = machine.disk.enabled.clone();
        if machine.guard_holds() {
            machine.memory.active.remove("kubelet");
        }
    }

    /// As [`World::power_on`], in time: it does not answer for `silent` ticks, and its units run `starting` ticks after that.
    pub fn boot(&mut self, node: &NodeName, silent: u32, starting: u32) {
        self.power_on(node);
        self.machine_mut(node).memory.boot = Some(Boot { silent, starting });
    }

    /// Every process stops where it is.
    pub fn freeze(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        if machine.power == Power::Running {
            machine.power = Power::Frozen;
        }
    }

    /// And goes on.
    pub fn thaw(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        if machine.power == Power::Frozen {
            machine.power = Power::Running;
        }
    }

    /// etcd's data directory is empty after a power cycle, as when its volume did not mount.
    pub fn lose_etcd_data(&mut self, node: &NodeName) {
        self.power_off(node);
        self.machine_mut(node).disk.etcd = None;
        self.power_on(node);
    }

    /// The machine is replaced by a blank one with the same name and address; a provider's is gone until it is made again.
    pub fn lose_disk(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        super::volume::left(machine);
        machine.disk = Disk::default();
        machine.memory = Memory::default();
        machine.boots += 1;
        machine.power = if machine.provided {
            Power::Absent
        } else {
            Power::Running
        };
    }

    /// Of a cluster whose data nobody carries any more nothing is left: whoever founds after that founds another one, whatever its ID.
    pub fn forget_what_nobody_has(&mut self) {
        let carried: BTreeSet<_> = self
            .machines
            .values()
            .filter_map(|machine| Some(machine.disk.etcd.as_ref()?.cluster))
            .collect();
        self.clusters.retain(|id, _| carried.contains(id));
    }

    /// The network around it is cut: neither its peers nor the operator reach it, and it goes on.
    pub fn cut(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        machine.isolated = true;
        machine.unreachable = true;
    }

    /// And mended.
    pub fn mend(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        machine.isolated = false;
        machine.unreachable = false;
    }

    /// Somebody stops a unit.
    pub fn stop_unit(&mut self, node: &NodeName, unit: &str) {
        self.machine_mut(node).memory.active.remove(unit);
    }

    /// The member on that host comes to lead etcd where it may, as after an election or when somebody moves leadership.
    pub fn elect_on(&mut self, node: &NodeName) {
        let Some((id, member)) = self.participant(node) else {
            return;
        };
        let cluster = &self.clusters[&id];
        let may = !cluster.members[&member].learner && self.quorum_at(id, node);
        if may && cluster.leader != Some(member) {
            let cluster = self.clusters.get_mut(&id).expect("found above");
            cluster.led_by(member);
        }
    }

    /// etcd on that host raises an alarm.
    pub fn raise_alarm(&mut self, node: &NodeName, kind: &str) {
        if let Some((cluster, member)) = self.participant(node)
            && let Some(cluster) = self.clusters.get_mut(&cluster)
        {
            cluster.alarms.insert((kind.to_owned(), member));
        }
    }
}
