//! Foundings that begin again, and that are over. Start at [`World::founding_aside`].

use quorate_plan::{
    NodeName,
    observation::{Founding, Pki},
};

use super::{
    World,
    act::{ActError, failed, not_yet},
};

impl World {
    /// Everything of the founding goes from the host but its note. When nobody carries data of its cluster any more, it never was.
    pub(super) fn founding_aside(
        &mut self,
        node: &NodeName,
        founding: &Founding,
    ) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        if machine.disk.marker.is_some() {
            return Err(failed("the marker of an etcd member lies here"));
        }
        match &mut machine.disk.founding {
            Some(noted) if noted.nodes == founding.nodes && !noted.done => {
                noted.restarts = founding.restarts;
            }
            Some(_) | None => return Err(failed("no founding of these hosts is in progress here")),
        }
        machine.memory.active.remove("kubelet");
        machine.disk.enabled.remove("kubelet");
        machine.memory.pods.clear();
        machine.disk.manifests.clear();
        machine.disk.kubeconfigs.clear();
        machine.disk.pki = Pki::default();
        let data = machine.disk.etcd.take();
        machine.disk.aside.extend(data.clone());
        let carried = |cluster| {
            let mut machines = self.machines.values();
            machines.any(|machine| {
                let disk = machine.disk.etcd.as_ref();
                disk.is_some_and(|disk| disk.cluster == cluster)
            })
        };
        let Some(cluster) = data.map(|data| data.cluster) else {
            return Ok(());
        };
        let carried = carried(cluster);
        match self.clusters.get_mut(&cluster) {
            Some(of) if of.has_clients => of.begun_anew = true,
            Some(_) if !carried => drop(self.clusters.remove(&cluster)),
            Some(_) | None => {}
        }
        Ok(())
    }

    pub(super) fn founding_over(&mut self, node: &NodeName) -> Result<(), ActError> {
        self.etcd_client(node).map_err(not_yet)?;
        if let Some(founding) = &mut self.machine_mut(node).disk.founding {
            founding.done = true;
        }
        Ok(())
    }
}
