//! Debian hosts without any Kubernetes become a cluster by `site.yml`, with kubelet, kubeadm and kubectl from a signed repository of packages
//! and the distribution's containerd. A repository that is forged, silent or of another version installs nothing; a play that is killed while apt is
//! at it, with a host losing its power at that moment, is run again. In the end `quorate apply` makes the same hosts.

use std::{fs, time::Duration};

use anyhow::Result;

use crate::{
    ansible::{
        ANSIBLE, Again, OLDEST, broken_off_when, changes, nothing_to_do, play, settle, trust,
    },
    apt_repository::{KEY, Repositories, Told},
    bare::Bare,
    bring_up::healthy,
    host_state,
    judge::{Api, listings, same},
    stage::{Stage, said},
};

const NAME: &str = "live-packages";
const SUBNET: &str = "172.31.74.0/24";
const GATEWAY: [u8; 4] = [172, 31, 74, 1];
const ENDPOINT: &str = "api.live-packages.internal";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];
const NODES: [&str; 4] = ["cp-1", "cp-2", "cp-3", "w-1"];
const HOSTS: [(&str, u8); 5] = [
    ("cp-1", 11),
    ("cp-2", 12),
    ("cp-3", 13),
    ("w-1", 101),
    ("lb-1", 201),
];

const SITE: &str = "quorate.cluster.site";

/// Files of packages that were changed, by dpkg's own account. Configuration files may be: they belong to who runs the host.
const CHANGED: &str =
    "dpkg --verify kubeadm kubectl kubelet kubernetes-cni containerd | grep -v ' c /etc/' || true";

/// dpkg unpacks packages. By the brackets the pattern does not find itself.
const UNPACKING: &str = "pgrep -f 'dpkg.*[-]-unpack'";

/// Holds where nothing that a play handed over is at work.
const IDLE: &str = "! pgrep -f 'quorate.* node [r]un' && ! pgrep -x apt-get && ! pgrep -x dpkg";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let hosts = Bare::make(stage, NAME, SUBNET, &HOSTS)?;
    let place = stage.directory.join("repositories");
    let repositories = Repositories::make(stage, &place, GATEWAY.into())?;
    stage.say(&format!("containerd is {}", repositories.containerd));
    distribution(&hosts, &repositories)?;
    for host in NODES {
        stage.check(
            &format!("there is nothing of Kubernetes on {host}"),
            hosts.holds(host, &absent("kubelet kubeadm kubectl containerd crictl")),
        );
    }
    let file = file(stage, &hosts, &repositories)?;
    trust(stage, &hosts, &file, &HOSTS)?;
    let names = HOSTS.map(|(host, _)| host);
    foreseen(stage, &hosts, &names)?;
    wrong(stage, &hosts, &repositories, &file)?;
    broken_off(stage, &hosts)?;

    let brought = play(stage, OLDEST, SITE, &[])?;
    stage.check(
        "with the right repository a play succeeds",
        brought.status.success(),
    );
    let api = Api::of(stage, &file, Some((ENDPOINT, "172.31.74.201")))?;
    api.whole(stage, &hosts, &MASTERS, &["w-1"])?;
    api.no_join_secrets(stage)?;
    healthy(stage, &file, Duration::from_secs(60))?;
    for host in NODES {
        of_packages(stage, &hosts, &repositories, host)?;
    }
    nothing_to_do(stage, &hosts, SITE, &file, &names)?;
    let by_plays = host_state::taken(&hosts, &names)?;
    let_go(stage, &hosts, &names)?;
    with_cri_tools(stage, &hosts, &repositories)?;
    nothing_to_do(stage, &hosts, SITE, &file, &names)?;
    healthy(stage, &file, Duration::from_secs(60))?;
    drop(hosts);
    let again = Again {
        name: NAME,
        subnet: SUBNET,
        hosts: &HOSTS,
        file: &file,
        blank: &|hosts| distribution(hosts, &repositories),
        exceptions: host_state::OF_ITS_TIME,
    };
    again.by_apply(stage, &by_plays)
}

/// Every node has the distribution's repository.
fn distribution(hosts: &Bare, repositories: &Repositories) -> Result<()> {
    for host in NODES {
        hosts.run(host, &repositories.distribution())?;
    }
    Ok(())
}

/// A play is killed while dpkg unpacks on the first host, which loses its power at that moment.
fn broken_off(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let victim = "cp-1";
    broken_off_when(stage, "dpkg unpacks on cp-1", |_| {
        hosts.holds(victim, UNPACKING)
    })?;
    hosts.power_off(victim)?;
    hosts.power_on(victim)?;
    let unfinished = "test \"$(dpkg-query -W -f '${db:Status-Abbrev}\\n' kubeadm kubectl kubelet containerd | grep -c '^.i ')\" -lt 4";
    stage.check(
        "its packages are not all installed",
        hosts.holds(victim, unfinished),
    );
    // The others finish what the play had handed them, and until then another one is refused.
    stage.wait(
        "no host works on its step any more",
        Duration::from_secs(180),
        |_| NODES.iter().all(|host| hosts.holds(host, IDLE)),
    );
    Ok(())
}

/// cri-tools of the same repository, which nothing asks for: whoever installs it has a judge of containerd that no other of ours is, and the
/// cluster has nothing against it.
fn with_cri_tools(stage: &mut Stage, hosts: &Bare, repositories: &Repositories) -> Result<()> {
    let host = "cp-1";
    stage.check(
        "nothing brought crictl",
        hosts.holds(host, &absent("crictl")),
    );
    hosts.run(
        host,
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -q cri-tools",
    )?;
    stage.check_eq(
        "the repository's cri-tools can be installed beside",
        &hosts.run(host, "dpkg-query -W -f '${Version}' cri-tools")?,
        &repositories.cri_tools,
    );
    let crictl = "crictl --runtime-endpoint unix:///run/containerd/containerd.sock";
    let running = hosts.run(
        host,
        &format!("{crictl} ps -o json | python3 -c 'import json, sys; print(*sorted(each[\"metadata\"][\"name\"] for each in json.load(sys.stdin)[\"containers\"]))'"),
    )?;
    let expected = [
        "etcd",
        "flanneld",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
    ];
    for name in expected {
        stage.check(
            &format!("crictl says that {name} runs on {host}"),
            running.split_whitespace().any(|it| it == name),
        );
    }
    Ok(())
}

/// Holds where none of these programs is installed.
fn absent(programs: &str) -> String {
    format!("for name in {programs}; do if command -v $name; then exit 1; fi; done")
}

/// In check mode a play says that the packages are missing, and installs none.
fn foreseen(stage: &mut Stage, hosts: &Bare, names: &[&str]) -> Result<()> {
    let blank = listings(hosts, names)?;
    let checked = play(stage, ANSIBLE, SITE, &["--check", "--diff"])?;
    stage.check("a play in check mode succeeds", checked.status.success());
    stage.check(
        "it shows which packages there would be",
        said(&checked).contains("packages at 1.35.4-1.1"),
    );
    let looked = listings(hosts, names)?;
    same(stage, "and changed no file on any host", &looked, &blank);
    Ok(())
}

/// A repository that is not what the cluster file says: why is said, and nothing was installed.
fn wrong(stage: &mut Stage, hosts: &Bare, repositories: &Repositories, file: &str) -> Result<()> {
    repositories.tell(Told::Forged);
    let refused = play(stage, ANSIBLE, SITE, &[])?;
    stage.check(
        "a play ends where somebody else signed the repository",
        !refused.status.success(),
    );
    stage.check(
        "and says so",
        said(&refused).contains(&format!("signed by the key in {KEY}")),
    );
    for (told, what, why) in [
        (Told::Earlier, "has another version", "seen 1.35.3-1.1"),
        (Told::Nothing, "does not answer", "whether it is reached"),
    ] {
        repositories.tell(told);
        let refused = stage.quorate(&["apply", "--yes", "-f", file])?;
        stage.check(
            &format!("apply ends where the repository {what}"),
            !refused.status.success(),
        );
        let text = said(&refused);
        stage.check(&format!("and says so: {why}"), text.contains(why));
        if !text.contains(why) {
            stage.say(&text);
        }
    }
    repositories.tell(Told::Truth);
    for host in NODES {
        stage.check(
            &format!("nothing was installed on {host}"),
            hosts.holds(host, &absent("kubelet kubeadm kubectl")),
        );
    }
    Ok(())
}

/// The host runs what packages brought, at their version.
fn of_packages(
    stage: &mut Stage,
    hosts: &Bare,
    repositories: &Repositories,
    host: &str,
) -> Result<()> {
    let listed = hosts.run(
        host,
        "dpkg-query -W -f '${Package} ${Version} ${db:Status-Want}\\n' kubeadm kubectl kubelet",
    )?;
    let held: String = ["kubeadm", "kubectl", "kubelet"]
        .map(|name| format!("{name} {} hold\n", repositories.version))
        .concat();
    stage.check_eq(
        &format!("{host} has that version, and holds it"),
        &listed,
        &held,
    );
    stage.check_eq(
        &format!("no file of a package was changed on {host}"),
        &hosts.run(host, CHANGED)?,
        &String::new(),
    );
    stage.check(
        &format!("{host} runs the packages' programs and units"),
        hosts.holds(
            host,
            "test \"$(readlink /proc/$(pidof kubelet)/exe)\" = /usr/bin/kubelet && \
             test \"$(readlink /proc/$(pidof containerd)/exe)\" = /usr/bin/containerd && \
             systemctl show -P FragmentPath kubelet containerd | grep -cE '^(/usr)?/lib/systemd/system/' | grep -qx 2 && \
             test ! -e /usr/local/bin/kubelet && test ! -e /usr/local/bin/containerd",
        ),
    );
    Ok(())
}

/// What somebody let go is shown by a check, and held again by a play.
fn let_go(stage: &mut Stage, hosts: &Bare, names: &[&str]) -> Result<()> {
    let difference = "package kubelet: expected held, seen not held";
    let held = "apt-mark showhold | grep -qx kubelet";
    hosts.run("w-1", "apt-mark unhold kubelet")?;
    let checked = play(stage, OLDEST, SITE, &["--check", "--diff"])?;
    stage.check("a check of it succeeds", checked.status.success());
    changes(stage, &checked, names.iter().copied(), &["w-1"]);
    stage.check(
        "it says what was let go",
        said(&checked).contains(difference),
    );
    stage.check("and leaves it so", !hosts.holds("w-1", held));
    let played = play(stage, OLDEST, SITE, &["--diff"])?;
    stage.check("a play upon it succeeds", played.status.success());
    changes(stage, &played, names.iter().copied(), &["cp-1", "w-1"]);
    stage.check("and it is held again", hosts.holds("w-1", held));
    Ok(())
}

fn file(stage: &mut Stage, hosts: &Bare, repositories: &Repositories) -> Result<String> {
    let root_key = hosts.identity("cp-1")?.display().to_string();
    let text = format!(
        "apiVersion: quorate/v1\n\
         name: {NAME}\n\
         endpoint:\n  host: {ENDPOINT}\n  hostsFile: managed\n  balancer: {{ kind: quorate, hosts: [{{ name: lb-1, address: 172.31.74.201 }}] }}\n\
         controlPlane:\n  hosts:\n  \
         - {{ name: cp-1, address: 172.31.74.11 }}\n  \
         - {{ name: cp-2, address: 172.31.74.12 }}\n  \
         - {{ name: cp-3, address: 172.31.74.13 }}\n\
         workers:\n  hosts:\n  - {{ name: w-1, address: 172.31.74.101 }}\n\
         network: {{ cni: flannel }}\n\
         provider: {{ kind: ssh, user: root, identity: {root_key} }}\n\
         components:\n  source: packages\n  repository: {}\n  key: {KEY}\n  version: {}\n  path: {}\n",
        repositories.address(),
        repositories.version,
        stage.bundle.display()
    );
    let file = stage.directory.join(format!("{NAME}.yaml"));
    fs::write(&file, text)?;
    settle(stage, NAME)?;
    Ok(file.display().to_string())
}
