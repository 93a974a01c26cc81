//! Repositories of Debian packages on this machine, for hosts that get their components from packages: one with the layout and the names of
//! Kubernetes' own, made of a bundle, and one that stands for the distribution's. Start at [`Repositories::make`].

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    file_server::FileServer,
    pages,
    stage::{Stage, finish},
};

/// The public key that signs Kubernetes' repository, in the case's directory.
pub const KEY: &str = "kubernetes.asc";

/// What is asked for below the server's root.
const KUBERNETES: &str = "core:/stable:/v1.35/deb";
const DISTRIBUTION: &str = "debian";

/// What the packages of every repository lie in, beside its index.
const POOL: &str = "amd64";

/// The kubelet's unit as its package brings it.
const KUBELET_UNIT: &str = "\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
";

/// What kubeadm's package adds to it.
const KUBELET_DROP_IN: &str = "\
[Service]
Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\"
Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
";

/// What a package with a unit does when it is configured.
const ENABLE_KUBELET: &str = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then deb-systemd-helper enable kubelet.service >/dev/null || true; fi\n";

/// What its server says of Kubernetes' repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// What there is.
    Truth,
    /// The same, signed by somebody else.
    Forged,
    /// An earlier version alone.
    Earlier,
    /// Nothing: connections end without an answer.
    Nothing,
}

/// Both repositories, served until this is dropped.
pub struct Repositories {
    /// The version of Kubernetes' packages.
    pub version: String,
    /// The version of cri-tools, which is another one.
    pub cri_tools: String,
    /// Where the distribution's containerd comes from, for people.
    pub containerd: String,
    /// The public key of the distribution's repository, armoured.
    distribution_key: String,
    place: PathBuf,
    server: FileServer,
}

impl Repositories {
    /// Makes them of the bundle below `place`, and serves them at that address of this machine's.
    pub fn make(stage: &Stage, place: &Path, at: Ipv4Addr) -> Result<Self> {
        let kubernetes = stage.kubernetes().to_owned();
        let makers = place.join("making");
        let owner = Key::make(&place.join("owner"), "Kubernetes of these tests")?;
        let other = Key::make(&place.join("other"), "Somebody else")?;
        let version = format!("{kubernetes}-1.1");
        let truth = place.join("truth");
        let pool = truth.join(KUBERNETES).join(POOL);
        for package in of_kubernetes(&stage.bundle, &version)? {
            package.build(&makers, &pool)?;
        }
        let cri_tools = cri_tools(stage, &place.join("crictl"))?;
        cri_tools.build(&makers, &pool)?;
        publish(&truth.join(KUBERNETES), &owner, "now")?;
        let distribution = truth.join(DISTRIBUTION);
        let containerd = distributions(stage, &makers, &distribution.join(POOL))?;
        publish(&distribution, &other, "now")?;

        let forged = place.join("forged");
        copy(&truth, &forged)?;
        publish(&forged.join(KUBERNETES), &other, "now")?;
        let earlier = place.join("earlier");
        for name in ["kubeadm", "kubectl", "kubelet"] {
            let empty = Package::named(name, "1.35.3-1.1");
            empty.build(&makers, &earlier.join(KUBERNETES).join(POOL))?;
        }
        // apt takes no list for a newer one that is of an earlier day.
        publish(&earlier.join(KUBERNETES), &owner, "1 day ago")?;
        copy(&distribution, &earlier.join(DISTRIBUTION))?;

        fs::write(stage.directory.join(KEY), owner.public()?)?;
        Ok(Self {
            version,
            cri_tools: cri_tools.version,
            containerd,
            distribution_key: other.public()?,
            place: place.to_path_buf(),
            server: FileServer::start(place.join("truth"), at)?,
        })
    }

    /// The address of Kubernetes' repository.
    pub fn address(&self) -> String {
        format!("http://{}/{KUBERNETES}/", self.server.address)
    }

    /// A shell script by which a host has the distribution's repository, and no other.
    pub fn distribution(&self) -> String {
        format!(
            "rm -rf /etc/apt/sources.list.d/*; mkdir -p /etc/apt/keyrings; cat >/etc/apt/keyrings/distribution.asc <<'END'\n{}\nEND\n\
             echo 'deb [signed-by=/etc/apt/keyrings/distribution.asc] http://{}/{DISTRIBUTION}/ /' >/etc/apt/sources.list",
            self.distribution_key, self.server.address
        )
    }

    /// From now on the server says that.
    pub fn tell(&self, told: Told) {
        self.server.serve(match told {
            Told::Truth => Some(self.place.join("truth")),
            Told::Forged => Some(self.place.join("forged")),
            Told::Earlier => Some(self.place.join("earlier")),
            Told::Nothing => None,
        });
    }
}

/// A package to build.
struct Package {
    name: String,
    version: String,
    /// Fields of its control file besides the usual ones.
    fields: String,
    /// From where, or what; to where; mode.
    files: Vec<(Content, String, u32)>,
    configuration: Vec<&'static str>,
    after: Option<&'static str>,
}

enum Content {
    File(PathBuf),
    Text(&'static str),
}

impl Package {
    fn named(name: &str, version: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            fields: String::new(),
            files: Vec::new(),
            configuration: Vec::new(),
            after: None,
        }
    }

    fn with(mut self, content: Content, to: &str, mode: u32) -> Self {
        self.files.push((content, to.into(), mode));
        self
    }

    fn build(&self, makers: &Path, pool: &Path) -> Result<()> {
        let tree = makers.join(format!("{}_{}", self.name, self.version));
        let control = tree.join("DEBIAN");
        fs::create_dir_all(&control)?;
        fs::create_dir_all(pool)?;
        let mut names = Vec::new();
        for (content, to, mode) in &self.files {
            let path = tree.join(to);
            fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
            match content {
                Content::File(from) => {
                    fs::copy(from, &path)
                        .with_context(|| format!("failed to copy {}", from.display()))?;
                }
                Content::Text(text) => fs::write(&path, text)?,
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            names.push(to.as_str());
        }
        let Self { name, version, .. } = self;
        let text = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nSection: net\nPriority: optional\nMaintainer: these tests <nobody@example.org>\n\
             {}Description: {name}, of a bundle\n",
            self.fields
        );
        fs::write(control.join("control"), text)?;
        if !self.configuration.is_empty() {
            let lines: String = self
                .configuration
                .iter()
                .map(|name| format!("/{name}\n"))
                .collect();
            fs::write(control.join("conffiles"), lines)?;
        }
        if let Some(script) = self.after {
            let path = control.join("postinst");
            fs::write(&path, script)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        names.retain(|name| !self.configuration.contains(name));
        let sums = match names.is_empty() {
            true => String::new(),
            false => run(Command::new("md5sum").current_dir(&tree).args(names))?,
        };
        fs::write(control.join("md5sums"), sums)?;
        // Without compression: it would take longer than all else.
        let deb = pool.join(format!("{name}_{version}_amd64.deb"));
        run(Command::new("dpkg-deb")
            .args(["-Znone", "--root-owner-group", "--build"])
            .args([&tree, &deb]))?;
        Ok(fs::remove_dir_all(tree)?)
    }
}

/// The packages of Kubernetes' repository that are made of a bundle.
fn of_kubernetes(bundle: &Path, version: &str) -> Result<Vec<Package>> {
    let program = |name: &str| Content::File(bundle.join("bin").join(name));
    let simple = |name: &str| {
        Package::named(name, version).with(program(name), &format!("usr/bin/{name}"), 0o755)
    };
    let mut kubelet = simple("kubelet")
        .with(
            Content::Text(KUBELET_UNIT),
            "usr/lib/systemd/system/kubelet.service",
            0o600,
        )
        .with(Content::Text(""), "var/lib/kubelet/.kubelet-keep", 0o644)
        .with(
            Content::Text(""),
            "etc/kubernetes/manifests/.kubelet-keep",
            0o644,
        )
        .with(
            Content::Text("KUBELET_EXTRA_ARGS=\n"),
            "etc/default/kubelet",
            0o644,
        );
    kubelet.fields =
        "Depends: kubernetes-cni (>= 1.2.0), mount, util-linux\nRecommends: iptables (>= 1.8.4)\n"
            .into();
    kubelet.configuration = vec!["etc/default/kubelet"];
    kubelet.after = Some(ENABLE_KUBELET);
    let kubeadm = simple("kubeadm").with(
        Content::Text(KUBELET_DROP_IN),
        "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
        0o644,
    );
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("manifest.json"))?)?;
    let files = manifest["files"].as_array().context("a bundle has files")?;
    let plugins: Vec<(&str, &str)> = files
        .iter()
        .filter(|file| file["role"] == "cni-plugin")
        .filter_map(|file| Some((file["path"].as_str()?, file["version"].as_str()?)))
        .filter(|(path, _)| !path.ends_with("/flannel"))
        .collect();
    let (_, cni) = plugins.first().context("a bundle has CNI plugins")?;
    let mut cni = Package::named(
        "kubernetes-cni",
        &format!("{}-1.1", cni.trim_start_matches('v')),
    )
    .with(
        Content::Text(""),
        "etc/cni/net.d/.kubernetes-cni-keep",
        0o644,
    );
    for (path, _) in plugins {
        let name = path.rsplit('/').next().unwrap_or(path);
        cni = cni.with(
            Content::File(bundle.join(path)),
            &format!("opt/cni/bin/{name}"),
            0o755,
        );
    }
    Ok(vec![kubelet, kubeadm, simple("kubectl"), cni])
}

/// What is left of them: cri-tools, built for this alone, since no bundle has it. kubeadm has not asked for it since 1.32.
fn cri_tools(stage: &Stage, program: &Path) -> Result<Package> {
    const MODULE: &str = "sigs.k8s.io/cri-tools";
    let sources = pages::root().join("tests/live/cri-tools");
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.current_dir(&sources)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .args(arguments);
        run(&mut go)
    };
    let version = go(&["list", "-m", "-f", "{{.Version}}", MODULE])?;
    let version = version.trim().trim_start_matches('v');
    stage.say(&format!("builds crictl {version}"));
    let out = program.display().to_string();
    let named = format!("-s -w -X {MODULE}/pkg/version.Version=v{version}");
    let crictl = format!("{MODULE}/cmd/crictl");
    go(&[
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        &named,
        "-o",
        &out,
        &crictl,
    ])?;
    let package = Package::named("cri-tools", &format!("{version}-1.1"));
    Ok(package.with(Content::File(program.into()), "usr/bin/crictl", 0o755))
}

/// Debian's own containerd, as this machine's apt gets it; where it gets none, the bundle's under that name. Says which.
fn distributions(stage: &Stage, makers: &Path, pool: &Path) -> Result<String> {
    fs::create_dir_all(pool)?;
    let mut download = Command::new("apt-get");
    download.current_dir(pool).args([
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Acquire::Retries=1",
        "download",
        "containerd",
    ]);
    if finish(&mut download)?.status.success() {
        let names: Vec<String> = fs::read_dir(pool)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        return Ok(format!("Debian's own, {}", names.join(" ")));
    }
    let program = |name: &str| Content::File(stage.bundle.join("bin").join(name));
    let mut containerd = Package::named("containerd", "2.2.9~bundle-1");
    for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        containerd = containerd.with(program(name), &format!("usr/bin/{name}"), 0o755);
    }
    containerd = containerd
        .with(
            Content::Text("version = 2\n"),
            "etc/containerd/config.toml",
            0o644,
        )
        .with(
            Content::Text(CONTAINERD_UNIT),
            "usr/lib/systemd/system/containerd.service",
            0o644,
        );
    containerd.configuration = vec!["etc/containerd/config.toml"];
    containerd.fields = "Depends: runc\n".into();
    containerd.after = Some(START_CONTAINERD);
    containerd.build(makers, pool)?;
    Ok("the bundle's under Debian's name: this machine's apt gets none".into())
}

const CONTAINERD_UNIT: &str = "\
[Unit]
Description=containerd container runtime
After=network.target local-fs.target

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
LimitNOFILE=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
";

const START_CONTAINERD: &str = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then deb-systemd-helper enable containerd.service >/dev/null || true; \
     systemctl daemon-reload; deb-systemd-invoke start containerd.service || true; fi\n";

/// A key that signs repositories; what gpg keeps of it goes with the folder.
struct Key {
    home: PathBuf,
}

impl Key {
    fn make(home: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(home)?;
        fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
        let key = Self { home: home.into() };
        let generate = [
            "--passphrase",
            "",
            "--quick-generate-key",
            name,
            "ed25519",
            "sign",
            "never",
        ];
        run(key.gpg().args(generate))?;
        Ok(key)
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir")
            .arg(&self.home)
            .args(["--batch", "--quiet", "--yes"]);
        gpg
    }

    fn public(&self) -> Result<String> {
        run(self.gpg().args(["--armor", "--export"]))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // It would go on by itself.
        let mut end = Command::new("gpgconf");
        end.arg("--homedir")
            .arg(&self.home)
            .args(["--kill", "gpg-agent"]);
        if let Err(error) = run(&mut end) {
            eprintln!(
                "gpg's agent in {} was not ended: {error:#}",
                self.home.display()
            );
        }
    }
}

/// Makes a repository of the packages that lie below it: index, and signature.
fn publish(repository: &Path, key: &Key, day: &str) -> Result<()> {
    let index = run(Command::new("dpkg-scanpackages")
        .current_dir(repository)
        .args(["--multiversion", POOL]))?;
    ensure!(!index.is_empty(), "dpkg-scanpackages finds packages");
    fs::write(repository.join("Packages"), &index)?;
    let sum = run(Command::new("sha256sum")
        .current_dir(repository)
        .arg("Packages"))?;
    let sum = sum.split_whitespace().next().context("a hash")?;
    let date = run(Command::new("date").args(["-u", "-R", "-d", day]))?;
    let release = format!(
        "Origin: these tests\nLabel: these tests\nSuite: deb\nDate: {}\nArchitectures: amd64\nSHA256:\n {sum} {} Packages\n",
        date.trim(),
        index.len()
    );
    fs::write(repository.join("Release"), release)?;
    let mut sign = key.gpg();
    sign.current_dir(repository)
        .args(["--output", "InRelease", "--clearsign", "Release"]);
    run(&mut sign)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a folder lies in another")?)?;
    // By links: packages are large, and what is made anew gets a file of its own.
    run(Command::new("cp").args(["-rl"]).args([from, to]))?;
    for entry in ["Packages", "Release", "InRelease"] {
        for repository in [KUBERNETES, DISTRIBUTION] {
            let file = to.join(repository).join(entry);
            if file.exists() {
                let bytes = fs::read(&file)?;
                fs::remove_file(&file)?;
                fs::write(&file, bytes)?;
            }
        }
    }
    Ok(())
}

/// Runs a program to its end, and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
