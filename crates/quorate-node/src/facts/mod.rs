//! The host as it describes itself: everything in one look, each fact on its own. Start at [`report`].
//!
//! Files and `/proc` are read directly; a tool is started only where nothing else tells. Whatever asks another process has a deadline,
//! so that a component that hangs costs its own fact and not the look.

mod api;
mod balancer;
mod began;
mod blocked;
mod connections;
mod conversion;
mod conversion_api;
mod endpoint;
mod etcd;
pub(crate) mod etcd_volume;
mod flows;
mod heard;
mod homes;
pub(crate) mod machine;
mod manifests;
mod metrics;
mod pki;
mod ports;
mod runtime;
mod stored;

use std::{collections::BTreeMap, future::Future, time::Duration};

use quorate_plan::{
    Missing, Seen,
    observation::{
        EtcdData, Founding, HostFacts, HostMark, HostReport, Look, MemberMark, Rehearsal,
    },
};
use tokio::time::timeout;

use crate::{
    command::Tools,
    durable::{self, FileError},
    fence::Fences,
    hosts_file, old_address,
    paths::Paths,
    shared_address, shown,
};

pub(crate) use api::{UPLOADED_CERTS, endpoints, nodes, own_tokens};
pub(crate) use api::{adopted, present};
pub(crate) use balancer::binary_of_unit;
pub(crate) use conversion::{
    KEPT, NOTE, RECEIPT, backup, kept, kubeconfigs, off_host, served_digest,
};
pub(crate) use conversion_api::{DNS, dns_nodes, unsigned};
pub(crate) use endpoint::{first_that_answers, resolve};
#[cfg(test)]
pub(crate) use etcd::{counted as etcd_counted, view as etcd_view};
pub(crate) use heard::Heard;
pub(crate) use machine::addresses;
pub(crate) use manifests::{flag_of, parse as parse_manifest};
#[cfg(test)]
pub(crate) use metrics::tests::etcd as etcd_with_metrics;
pub(crate) use metrics::{address as metrics_address, applied as etcd_applied};
pub(crate) use pki::{
    LEAVES, authority_digest, certificate_digest, hex, issued_by, kubeconfig_certificate,
    public_key_hash, read_certificate, server_of,
};
pub(crate) use ports::look as listening;
pub(crate) use runtime::{
    CONTAINERD, Installed, InstalledFile, PINNED, installed, list_images, packages,
};

/// How long anything outside this process may take to answer before its fact is given up. Far above what is normal, which is
/// milliseconds; a component that needs longer is not one to rely on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything about this host. `binary` is the hash of the binary that answers, `heard` what earlier looks of the same session heard.
pub(crate) async fn report(paths: &Paths, look: &Look, binary: &str, heard: &Heard) -> HostReport {
    let tools = Tools::default();
    // Where etcd and the apiserver listen: the only thing that others wait for.
    let manifests = blocking("static pod manifests", paths, manifests::look).await;
    let (
        files,
        etcd_volume,
        images,
        units,
        booting,
        endpoint,
        dns,
        etcd,
        api,
        balancer,
        conversion,
        old_address,
        sharing,
    ) = tokio::join!(
        files(paths, binary),
        etcd_volume::look(paths, &tools, look.etcd_device.as_ref()),
        runtime::images(paths, &tools),
        runtime::units(&tools),
        runtime::booting(&tools),
        Box::pin(endpoint::look(paths, &tools, look.endpoint.as_ref())),
        endpoint::dns(paths, look.dns),
        Box::pin(etcd::look(paths, &manifests, heard)),
        Box::pin(api::look(paths, &manifests, look.conversion.as_ref())),
        balancer::look(paths),
        Box::pin(conversion::look(paths, &tools, look, &manifests)),
        old_address::look(paths, &tools),
        shared_address::look(paths, &tools),
    );
    let sharing = shared_address::with_unit(sharing, &units);
    let balancer = balancer::with_unit(balancer, &units);
    let etcd_data = etcd_data(paths, &manifests);
    let Files {
        machine,
        mark,
        fencing,
        sysctls,
        hosts_file,
        bundles,
        components,
        pki,
        rehearsed,
        kubeconfigs,
        founding,
        listening,
    } = files;
    HostReport {
        facts: HostFacts {
            machine,
            booting,
            mark,
            fencing,
            sysctls,
            hosts_file,
            bundles,
            components,
            images,
            units,
            pki,
            manifests,
            rehearsed,
            kubeconfigs,
            etcd_data,
            etcd_volume,
            founding,
            balancer,
            endpoint,
            dns,
            listening,
            conversion,
            old_address,
            sharing,
        },
        etcd,
        api,
    }
}

/// What is read from files and `/proc` alone.
struct Files {
    machine: Seen<quorate_plan::observation::Machine>,
    mark: Seen<Option<HostMark>>,
    fencing: Seen<quorate_plan::observation::Fencing>,
    sysctls: Seen<BTreeMap<String, String>>,
    hosts_file: Seen<BTreeMap<String, std::net::IpAddr>>,
    bundles: Seen<std::collections::BTreeSet<String>>,
    components: Seen<Option<quorate_plan::observation::Components>>,
    pki: Seen<quorate_plan::observation::Pki>,
    rehearsed: Seen<Option<Rehearsal>>,
    kubeconfigs: Seen<BTreeMap<String, String>>,
    founding: Seen<Option<Founding>>,
    listening: Seen<BTreeMap<u16, String>>,
}

async fn files(paths: &Paths, binary: &str) -> Files {
    let own = paths.clone();
    let binary = binary.to_owned();
    // Reading the processes' descriptors takes longest; the rest fits beside it.
    let (listening, files) = tokio::join!(
        blocking("listening ports", paths, ports::look),
        tokio::task::spawn_blocking(move || {
            let paths = &own;
            Files {
                machine: seen("machine", machine::look(paths, &binary)),
                mark: seen("mark", mark(paths)),
                fencing: seen("fence", Fences::new(paths).look()),
                sysctls: seen("kernel settings", machine::sysctls(paths)),
                hosts_file: seen("/etc/hosts", hosts_file::look(paths)),
                bundles: seen("bundles", runtime::bundles(paths)),
                components: seen("components", runtime::components(paths)),
                pki: seen("certificates", pki::look(paths)),
                rehearsed: seen("rehearsal", rehearsal(paths)),
                kubeconfigs: seen("kubeconfigs", pki::kubeconfigs(paths)),
                founding: seen("founding", founding(paths)),
                listening: Seen::Unknown(Missing::not_looked("listening ports")),
            }
        })
    );
    let files = files.expect("reading files does not panic");
    Files { listening, ..files }
}

/// Quorate's mark on this host.
pub(crate) fn mark(paths: &Paths) -> Result<Option<HostMark>, FileError> {
    durable::read_json(&paths.state("mark.json"))
}

/// The founding noted on this host.
pub(crate) fn founding(paths: &Paths) -> Result<Option<Founding>, FileError> {
    durable::read_json(&paths.state("founding.json"))
}

/// Where the last rehearsal is kept, until the next boot.
pub(crate) const REHEARSAL: &str = "rehearsal.json";

/// What came of the last rehearsal on this host.
fn rehearsal(paths: &Paths) -> Result<Option<Rehearsal>, FileError> {
    let mut rehearsal: Option<Rehearsal> = durable::read_json(&paths.run(REHEARSAL))?;
    // Files may have been put there since: that is what comes of being told that they are missing.
    for manifest in rehearsal
        .iter_mut()
        .flat_map(|one| one.manifests.values_mut())
    {
        manifests::look_at_files(paths, manifest)?;
    }
    Ok(rehearsal)
}

/// The marker of the empty-data guard.
pub(crate) fn member_mark(paths: &Paths) -> Result<Option<MemberMark>, FileError> {
    durable::read_json(&paths.state("etcd-member.json"))
}

/// Static pod manifests on this host.
pub(crate) fn manifests(
    paths: &Paths,
) -> Result<BTreeMap<String, quorate_plan::observation::Manifest>, FileError> {
    manifests::look(paths)
}

/// Where kubeadm puts etcd's data.
pub(crate) const ETCD_DATA: &str = "/var/lib/etcd";

/// Whether a write-ahead log lies in an etcd data folder of the machine.
pub(crate) fn has_wal(paths: &Paths, data: &str) -> bool {
    std::fs::read_dir(paths.at(data).join("member/wal")).is_ok_and(|mut dir| dir.next().is_some())
}

fn etcd_data(
    paths: &Paths,
    manifests: &Seen<BTreeMap<String, quorate_plan::observation::Manifest>>,
) -> Seen<EtcdData> {
    let data = match manifests.get() {
        Ok(manifests) => manifests
            .get("etcd")
            .and_then(|etcd| etcd.flag("data-dir"))
            .unwrap_or(ETCD_DATA),
        Err(missing) => return Seen::Unknown(missing),
    };
    let wal = has_wal(paths, data);
    seen(
        "etcd's marker",
        member_mark(paths).map(|marker| EtcdData { wal, marker }),
    )
}

/// What was read, or why it was not.
fn seen<T, E: std::error::Error + 'static>(what: &str, result: Result<T, E>) -> Seen<T> {
    match result {
        Ok(value) => Seen::now(value),
        Err(err) => Seen::Unknown(no_answer(what, &err)),
    }
}

fn no_answer(what: &str, err: &(dyn std::error::Error + 'static)) -> Missing {
    Missing::no_answer(what, shown::line(&shown::chain(err)))
}

/// Reads files on a thread of its own.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    paths: &Paths,
    look: fn(&Paths) -> Result<T, FileError>,
) -> Seen<T> {
    let paths = paths.clone();
    tokio::task::spawn_blocking(move || seen(what, look(&paths)))
        .await
        .expect("reading files does not panic")
}

/// Gives up after [`PATIENCE`].
async fn in_time<T>(what: &str, look: impl Future<Output = Seen<T>>) -> Seen<T> {
    match timeout(PATIENCE, look).await {
        Ok(seen) => seen,
        Err(_) => Seen::Unknown(Missing::no_answer(
            what,
            format!("no answer within {} s", PATIENCE.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// All of it is one future, and a thread's stack holds it more than once in an unoptimised build.
    #[test]
    fn a_look_fits_on_a_stack() {
        let machine = testing::machine();
        let look = Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: None,
            conversion: None,
        };
        let bytes = size_of_val(&report(&machine.paths, &look, "", &Heard::default()));
        assert!(bytes < 64 << 10, "{bytes}");
    }

    #[tokio::test]
    async fn a_blank_machine_is_known_to_carry_nothing() {
        let machine = testing::machine();
        let look = Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: None,
            conversion: None,
        };
        let report = report(&machine.paths, &look, "00", &Heard::default()).await;
        let facts = &report.facts;
        assert_eq!(facts.mark.get().unwrap(), &None);
        assert_eq!(facts.fencing.get().unwrap().highest.0, 0);
        assert!(facts.bundles.get().unwrap().is_empty());
        assert_eq!(facts.components.get().unwrap(), &None);
        assert!(facts.images.get().unwrap().is_empty());
        assert_eq!(facts.pki.get().unwrap(), &Default::default());
        assert!(facts.manifests.get().unwrap().is_empty());
        assert_eq!(facts.etcd_data.get().unwrap(), &EtcdData::default());
        assert_eq!(facts.founding.get().unwrap(), &None);
        assert_eq!(facts.rehearsed.get().unwrap(), &None);
        assert_eq!(facts.balancer.get().unwrap(), &None);
        assert_eq!(facts.endpoint.get().unwrap(), &None);
        assert_eq!(report.etcd.get().unwrap(), &None);
        assert_eq!(report.api.get().unwrap(), &None);
        // There is no /etc/machine-id here: that is not known, and everything else is all the same.
        assert!(facts.machine.get().is_err());
    }

    #[test]
    fn data_is_a_log_not_a_folder() {
        let machine = testing::machine();
        assert!(!has_wal(&machine.paths, ETCD_DATA));
        std::fs::create_dir_all(machine.paths.at("/var/lib/etcd/member/wal")).unwrap();
        assert!(!has_wal(&machine.paths, ETCD_DATA));
        machine.write("/var/lib/etcd/member/wal/0.wal", "x");
        assert!(has_wal(&machine.paths, ETCD_DATA));
    }
}
