//! A cluster that somebody else made: `kubeadm init` on one machine, workers that joined it by its address, Flannel, a workload; nothing of
//! Quorate's is on it. Start at [`Foreign::make`].

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{bare::Bare, stage::Stage};

/// The one master, by host and node name.
pub const MASTER: &str = "cp-1";

/// Workers.
pub const WORKERS: [&str; 2] = ["w-1", "w-2"];

/// Hosts that somebody has besides, with nothing on them.
pub const BLANK: [(&str, u8); 3] = [("cp-2", 12), ("cp-3", 13), ("lb-1", 201)];

/// Where the parts of a bundle go on a host; a package would put them there.
const INSTALLED: &[(&str, &str)] = &[
    ("bin", "usr/local/bin"),
    ("cni", "opt/cni/bin"),
    ("images", "root/images"),
];

/// Hosts in namespaces have no capability to lower an OOM score, and version 1 control groups on some machines.
const CONTAINERD: &str = "version = 3
[plugins.\"io.containerd.cri.v1.images\".pinned_images]
sandbox = \"PAUSE\"
[plugins.\"io.containerd.cri.v1.runtime\"]
restrict_oom_score_adj = true
";

const CONTAINERD_UNIT: &str = "[Unit]
After=network.target
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
KillMode=process
Delegate=yes
LimitNOFILE=20000
[Install]
WantedBy=multi-user.target
";

const KUBELET_UNIT: &str = "[Unit]
After=containerd.service
[Service]
ExecStart=/usr/local/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
Restart=always
StartLimitInterval=0
RestartSec=2
[Install]
WantedBy=multi-user.target
";

/// What the kubelet of each host is told by its owner.
const KUBELET_ARGS: &str =
    "--eviction-hard=imagefs.available<1Gi,memory.available<100Mi,nodefs.available<1Gi";

/// What kubeadm's preflight does not like about hosts in namespaces.
const IGNORED: &str = "--ignore-preflight-errors=SystemVerification";

/// What its owner made of it besides.
#[derive(Default)]
pub struct Shape {
    /// The name that its `controlPlaneEndpoint` has, which its hosts know by their hosts files.
    pub endpoint: Option<&'static str>,
    /// More lines of its ClusterConfiguration.
    pub cluster: String,
    /// More lines of it, about etcd.
    pub etcd: String,
    /// What is done on the master before `kubeadm init`.
    pub before: String,
    /// What is done on the master when the cluster runs.
    pub after: String,
}

/// What hosts are called, as host and as node, with the last numbers of their addresses.
pub struct Names {
    pub master: (&'static str, u8),
    pub workers: Vec<(&'static str, u8)>,
    /// Those with nothing on them.
    pub blank: Vec<(&'static str, u8)>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            master: (MASTER, 11),
            workers: vec![(WORKERS[0], 101), (WORKERS[1], 102)],
            blank: BLANK.to_vec(),
        }
    }
}

/// A foreign cluster, and blank hosts beside it.
pub struct Foreign {
    pub hosts: Bare,
    names: Names,
}

impl Foreign {
    /// Makes it, with two workers.
    pub fn make(stage: &mut Stage, name: &str, subnet: &str, shape: &Shape) -> Result<Self> {
        Self::make_of(stage, name, subnet, Names::default(), shape)
    }

    /// Makes it of hosts with these names.
    pub fn make_of(
        stage: &mut Stage,
        name: &str,
        subnet: &str,
        names: Names,
        shape: &Shape,
    ) -> Result<Self> {
        let hosts = Bare::make(stage, name, subnet, &names.blank)?;
        let foreign = Self { hosts, names };
        let Names {
            master, workers, ..
        } = &foreign.names;
        let nodes = [&[*master][..], workers].concat();
        for (host, number) in &nodes {
            foreign.install(stage, host, *number)?;
            if let Some(name) = shape.endpoint {
                let line = format!("{} {name}", foreign.hosts.address(master.0)?);
                foreign
                    .hosts
                    .run(host, &format!("echo '{line}' >>/etc/hosts"))?;
            }
        }
        // Unpacking images takes longest.
        std::thread::scope(|scope| {
            let start = |host| {
                let foreign = &foreign;
                scope.spawn(move || foreign.start(host))
            };
            let starting: Vec<_> = nodes.iter().map(|(host, _)| start(*host)).collect();
            starting
                .into_iter()
                .try_for_each(|one| one.join().expect("it does not panic"))
        })?;
        foreign.init(stage, shape)?;
        foreign.network(stage)?;
        // Both its pods are where there is a node: on the only one.
        stage.wait(
            "cluster DNS runs on the only master",
            Duration::from_secs(120),
            |_| {
                foreign
                    .on_master("kubectl -n kube-system get deployment coredns --no-headers")
                    .is_ok_and(|line| line.contains("2/2"))
            },
        );
        let join = foreign.on_master("kubeadm token create --print-join-command")?;
        for (worker, _) in workers {
            foreign.hosts.run(
                worker,
                &format!("{} --node-name {worker} {IGNORED} 2>&1", join.trim()),
            )?;
        }
        stage.wait(
            "the foreign cluster's nodes are Ready, and all pods run",
            Duration::from_secs(120),
            |_| foreign.runs().unwrap_or(false),
        );
        foreign.on_master(&shape.after)?;
        Ok(foreign)
    }

    /// All nodes are Ready, and the pods of the network, which end once or twice where a node is new, and all others run.
    fn runs(&self) -> Result<bool> {
        let names = [&[self.names.master][..], &self.names.workers].concat();
        let nodes = self.on_master("kubectl get nodes --no-headers")?;
        let pods = self.on_master("kubectl get pods -A --no-headers")?;
        let networks = pods.lines().filter(|line| line.contains("kube-flannel-ds"));
        let runs = |line: &str| line.contains(" 1/1 ") && line.contains(" Running ");
        Ok(nodes
            .lines()
            .filter(|line| line.contains(" Ready "))
            .count()
            == names.len()
            && networks.count() == names.len()
            && pods.lines().all(runs)
            // A network that has not reached the API yet runs, too, and ends once more.
            && names
                .iter()
                .all(|(host, _)| self.hosts.holds(host, "test -s /run/flannel/subnet.env")))
    }

    /// Runs a script on the master as its administrator.
    pub fn on_master(&self, script: &str) -> Result<String> {
        let script = format!("export KUBECONFIG=/etc/kubernetes/admin.conf\n{script}");
        self.hosts.run(self.names.master.0, &script)
    }

    /// A host with the programs that a package or an image of a cloud would have brought.
    fn install(&self, stage: &Stage, host: &str, number: u8) -> Result<()> {
        self.hosts.create(host, number)?;
        let disk = self.hosts.disk(host)?;
        for (part, place) in INSTALLED {
            link(&stage.bundle.join(part), &disk.join(place))?;
        }
        let address = self.hosts.address(host)?;
        for (path, text) in [
            (
                "etc/containerd/config.toml",
                CONTAINERD.replace("PAUSE", stage.image("pause")?),
            ),
            (
                "etc/systemd/system/containerd.service",
                CONTAINERD_UNIT.to_owned(),
            ),
            (
                "etc/systemd/system/kubelet.service",
                KUBELET_UNIT.to_owned(),
            ),
            (
                "etc/sysctl.d/90-kubernetes.conf",
                "net.ipv4.ip_forward = 1\n".to_owned(),
            ),
            (
                "etc/default/kubelet",
                format!("KUBELET_EXTRA_ARGS=--node-ip={address} {KUBELET_ARGS}\n"),
            ),
        ] {
            let path = disk.join(path);
            fs::create_dir_all(path.parent().context("it lies in a folder")?)?;
            fs::write(path, text)?;
        }
        self.hosts.power_on(host)
    }

    /// What its owner's image of a machine starts with.
    fn start(&self, host: &str) -> Result<()> {
        self.hosts.run(
            host,
            "sysctl -q -w net.ipv4.ip_forward=1; systemctl enable --now containerd; systemctl enable kubelet
             for image in /root/images/*.tar; do ctr -n k8s.io images import $image >/dev/null; done; rm -r /root/images",
        )?;
        Ok(())
    }

    fn init(&self, stage: &Stage, shape: &Shape) -> Result<()> {
        let kubernetes = stage.kubernetes();
        let (dns, etcd_tag) = (tag(stage, "coredns")?, tag(stage, "etcd")?);
        let (master, _) = self.names.master;
        let address = self.hosts.address(master)?;
        let Shape {
            cluster,
            etcd,
            before,
            ..
        } = shape;
        let endpoint = shape.endpoint.map_or_else(String::new, |endpoint| {
            format!("controlPlaneEndpoint: {endpoint}:6443\n")
        });
        let config = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{ advertiseAddress: {address} }}
nodeRegistration: {{ name: {master} }}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v{kubernetes}
imageRepository: quorate.local
dns: {{ imageTag: {dns} }}
etcd:
  local:
    imageTag: {etcd_tag}
{etcd}networking: {{ podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12 }}
{endpoint}{cluster}---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack: {{ maxPerCore: 0 }}
"
        );
        self.hosts.run(
            master,
            &format!(
                "{before}\ncat >/root/kubeadm.yaml <<'END'\n{config}END\nkubeadm init --config /root/kubeadm.yaml {IGNORED} 2>&1
                 mkdir -p /root/.kube; cp /etc/kubernetes/admin.conf /root/.kube/config"
            ),
        )?;
        Ok(())
    }

    fn network(&self, stage: &Stage) -> Result<()> {
        let manifest = fs::read_to_string(stage.bundle.join("manifests/kube-flannel.yml"))?
            .replace("${POD_NETWORK}", "10.244.0.0/16");
        self.on_master(&format!("kubectl apply -f - <<'END'\n{manifest}\nEND"))?;
        Ok(())
    }
}

/// The tag of the bundle's image of a role.
fn tag<'a>(stage: &'a Stage, role: &str) -> Result<&'a str> {
    let image = stage.image(role)?;
    let (_, tag) = image.rsplit_once(':').context("an image has a tag")?;
    Ok(tag)
}

/// Gives a folder another place on the same disk. Nobody writes to what is in it: three copies of a bundle would be gigabytes for nothing.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it lies somewhere")?)?;
    let linked = Command::new("cp").arg("-alT").args([from, to]).status()?;
    if linked.success() {
        return Ok(());
    }
    // The bundle may lie on another disk than the hosts.
    copy(from, to)
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it lies somewhere")?)?;
    let copied = Command::new("cp").arg("-aT").args([from, to]).status()?;
    if !copied.success() {
        bail!("{} was not copied", from.display());
    }
    Ok(())
}
