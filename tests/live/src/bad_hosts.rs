//! What must be refused, is: with the documented exit code, the words an operator needs, and nothing changed on any host. Each mistake is
//! made on real hosts, looked at, and mended before the next.
//!
//! Not here: a wrong clock. Hosts share this machine's kernel and with it its clock, and no namespace gives them one of their own; that
//! refusal is tested in memory alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bare::Bare,
    judge::{listings, same},
    stage::{Stage, finish, said},
};

const NAME: &str = "live-bad";
const SUBNET: &str = "172.31.63.0/24";
const HOSTS: [&str; 2] = ["cp-1", "lb-1"];

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let hosts = Bare::make(stage, NAME, SUBNET, &[("cp-1", 11), ("lb-1", 201)])?;
    let case = Case {
        file: File::new(stage, &hosts)?,
        hosts,
    };
    case.keys(stage)?;
    case.logins(stage)?;
    case.not_ours(stage)?;
    case.ports(stage)?;
    case.disk(stage)?;
    case.names(stage)?;
    case.bundles(stage)?;
    case.frozen(stage)?;
    case.silent_balancer(stage)?;
    nobody(stage, &case.file)?;
    case.full_disk(stage)?;
    Ok(())
}

/// What a right cluster file would say, and what of it is replaced to make it wrong.
struct File {
    directory: PathBuf,
    text: String,
}

impl File {
    fn new(stage: &Stage, hosts: &Bare) -> Result<Self> {
        let text = format!(
            "apiVersion: quorate/v1\n\
             name: {NAME}\n\
             kubernetes: 1.35.4\n\
             endpoint:\n  host: api.live-bad.internal\n  hostsFile: managed\n  balancer: {{ hosts: [{{ name: lb-1, address: 172.31.63.201 }}] }}\n\
             controlPlane: {{ hosts: [{{ name: cp-1, address: 172.31.63.11 }}] }}\n\
             provider: {{ kind: ssh, user: root, identity: {} }}\n\
             components: {{ source: bundle, path: {} }}\n",
            hosts.identity("cp-1")?.display(),
            stage.bundle.display()
        );
        Ok(Self {
            directory: stage.directory.clone(),
            text,
        })
    }

    /// The file with one text in place of another.
    fn with(&self, name: &str, was: &str, is: &str) -> Result<String> {
        ensure!(self.text.contains(was), "the file has no `{was}`");
        let path = self.directory.join(name);
        fs::write(&path, self.text.replace(was, is))?;
        Ok(path.display().to_string())
    }

    fn right(&self) -> Result<String> {
        self.with("right.yaml", NAME, NAME)
    }
}

struct Case {
    file: File,
    hosts: Bare,
}

impl Case {
    /// Applies the file, which must be refused like this, with nothing changed on any host.
    fn refused(
        &self,
        stage: &mut Stage,
        what: &str,
        file: &str,
        exit: i32,
        words: &[&str],
    ) -> Result<()> {
        let before = self.listings()?;
        let output = stage.quorate(&["apply", "--yes", "-f", file])?;
        stage.check_eq(
            &format!("{what}: exit code"),
            &output.status.code(),
            &Some(exit),
        );
        says(stage, what, &said(&output), words);
        let after = self.listings()?;
        same(
            stage,
            &format!("{what}: nothing changed on any host"),
            &after,
            &before,
        );
        Ok(())
    }

    fn listings(&self) -> Result<BTreeSet<String>> {
        listings(&self.hosts, &HOSTS)
    }

    fn keys(&self, stage: &mut Stage) -> Result<()> {
        let file = self.file.right()?;
        self.refused(
            stage,
            "an unknown host key",
            &file,
            5,
            &["cp-1", "lb-1", "host key is in none of", "quorate trust -f"],
        )?;
        let prints = [
            self.hosts.fingerprint("cp-1")?,
            self.hosts.fingerprint("lb-1")?,
        ];
        let expected = ["--expect", &prints[0], "--expect", &prints[1]];
        stage.succeed(&[&["trust", "-f", &file][..], &expected].concat())?;

        const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
        self.hosts.run(
            "cp-1",
            &format!(
                "mv {KEY} /root/kept; mv {KEY}.pub /root/kept.pub; ssh-keygen -q -t ed25519 -N '' -f {KEY}; systemctl restart ssh"
            ),
        )?;
        self.refused(
            stage,
            "a changed host key",
            &file,
            5,
            &[
                "cp-1",
                "host key is not the one in",
                "nothing was sent to it",
            ],
        )?;
        let other = self.hosts.fingerprint("cp-1")?;
        let differs = stage.quorate(&["trust", "-f", &file, "--expect", &other])?;
        stage.check_eq(
            "a changed key is not pinned over the old one: exit code",
            &differs.status.code(),
            &Some(3),
        );
        says(
            stage,
            "a changed key is not pinned over the old one",
            &said(&differs),
            &["cp-1", "differ from the pinned ones", "ssh-keygen -R"],
        );
        self.hosts.run(
            "cp-1",
            &format!("mv /root/kept {KEY}; mv /root/kept.pub {KEY}.pub; systemctl restart ssh"),
        )?;
        Ok(())
    }

    fn logins(&self, stage: &mut Stage) -> Result<()> {
        let stranger = self
            .file
            .with("stranger.yaml", "user: root", "user: stranger")?;
        self.refused(
            stage,
            "a user who is not let in",
            &stranger,
            5,
            &["does not let stranger in", "ssh -v"],
        )?;
        for host in HOSTS {
            self.hosts.run(
                host,
                "useradd -m -s /bin/sh plain; install -d -m 700 -o plain /home/plain/.ssh; \
                 install -m 600 -o plain /root/.ssh/authorized_keys /home/plain/.ssh/authorized_keys",
            )?;
        }
        let plain = self.file.with("plain.yaml", "user: root", "user: plain")?;
        self.refused(
            stage,
            "a user who may not become root",
            &plain,
            5,
            &["plain may not become root", "NOPASSWD"],
        )
    }

    fn not_ours(&self, stage: &mut Stage) -> Result<()> {
        const MARK: &str = "/var/lib/quorate/mark.json";
        // The mark that another cluster's `apply` leaves on each of its hosts.
        self.hosts.run(
            "cp-1",
            &format!(
                "mkdir -p /var/lib/quorate; echo '{{\"cluster\":\"prod\",\"node\":\"cp-7\",\"disposable\":false}}' >{MARK}"
            ),
        )?;
        self.refused(
            stage,
            "a host of another cluster",
            &self.file.right()?,
            3,
            &[
                "foreign-host",
                "cp-1",
                "cluster prod as cp-7",
                "quorate explain",
            ],
        )?;
        self.hosts.run("cp-1", &format!("rm {MARK}"))?;
        Ok(())
    }

    fn ports(&self, stage: &mut Stage) -> Result<()> {
        for host in HOSTS {
            self.hosts.run(
                host,
                "systemd-run --quiet --unit=squatter socat TCP-LISTEN:6443,fork,reuseaddr -; \
                 for i in $(seq 200); do ss -ltn | grep -q ':6443 ' && exit 0; sleep 0.05; done; exit 1",
            )?;
        }
        self.refused(
            stage,
            "a port that is taken",
            &self.file.right()?,
            3,
            &[
                "port-in-use",
                "port 6443 of cp-1",
                "port 6443 of lb-1",
                "socat",
            ],
        )?;
        for host in HOSTS {
            self.hosts.run(host, "systemctl stop squatter")?;
        }
        Ok(())
    }

    fn disk(&self, stage: &mut Stage) -> Result<()> {
        // Enough for the binary that looks, and not for what it would have to bring.
        self.hosts
            .run("cp-1", "mount -t tmpfs -o size=400m tmpfs /var/lib")?;
        let outcome = self.refused(
            stage,
            "too little disk",
            &self.file.right()?,
            3,
            &[
                "unfit-host",
                "cp-1",
                "4 GiB free",
                "--accept unfit-host=cp-1",
            ],
        );
        self.hosts.run("cp-1", "umount -l /var/lib")?;
        outcome
    }

    fn names(&self, stage: &mut Stage) -> Result<()> {
        let file = self.file.with(
            "nowhere.yaml",
            "host: api.live-bad.internal\n  hostsFile: managed",
            "host: nowhere.invalid",
        )?;
        self.refused(
            stage,
            "a name that does not resolve",
            &file,
            3,
            &[
                "endpoint-unresolved",
                "`nowhere.invalid` does not resolve on cp-1",
            ],
        )
    }

    fn bundles(&self, stage: &mut Stage) -> Result<()> {
        let damaged = stage.directory.join("damaged");
        // Links where that is possible: a bundle is a gigabyte.
        let script = "cp -al \"$0\" \"$1\" 2>/dev/null || cp -a \"$0\" \"$1\"";
        let mut copy = Command::new("sh");
        copy.args(["-c", script]).arg(&stage.bundle).arg(&damaged);
        ensure!(
            finish(&mut copy)?.status.success(),
            "failed to copy the bundle"
        );
        flip_a_byte(&damaged.join("bin/kubeadm"))?;
        let verified = stage.quorate(&["bundle", "verify", &damaged.display().to_string()])?;
        stage.check_eq(
            "`bundle verify` sees one flipped byte: exit code",
            &verified.status.code(),
            &Some(4),
        );
        says(
            stage,
            "`bundle verify` sees one flipped byte",
            &said(&verified),
            &["bin/kubeadm"],
        );
        let was = stage.bundle.display().to_string();
        let file = self
            .file
            .with("damaged.yaml", &was, &damaged.display().to_string())?;
        self.refused(
            stage,
            "a bundle with one flipped byte",
            &file,
            2,
            &["bin/kubeadm", "quorate bundle verify"],
        )?;
        let file = self
            .file
            .with("other.yaml", "kubernetes: 1.35.4", "kubernetes: 1.36.3")?;
        self.refused(
            stage,
            "a bundle of another version",
            &file,
            3,
            &["bundle-version", "1.35.4", "1.36.3"],
        )
    }

    fn frozen(&self, stage: &mut Stage) -> Result<()> {
        self.hosts.freeze("cp-1")?;
        let outcome = self.refused(
            stage,
            "a host that hangs",
            &self.file.right()?,
            5,
            &["cp-1", "does not answer"],
        );
        let by_us = self.file.with(
            "local.yaml",
            &self.file.text,
            &format!(
                "apiVersion: quorate/v1\nname: {NAME}\ncontrolPlane: {{ count: 1 }}\nprovider: {{ kind: local, subnet: {SUBNET} }}\n\
                 components: {{ source: bundle, path: {} }}\n",
                stage.bundle.display()
            ),
        )?;
        let held = self.refused(
            stage,
            "a local host that was frozen by hand",
            &by_us,
            3,
            &["machine-held", "cp-1 is frozen"],
        );
        self.hosts.thaw("cp-1")?;
        outcome.and(held)
    }

    fn silent_balancer(&self, stage: &mut Stage) -> Result<()> {
        let before = listings(&self.hosts, &["cp-1"])?;
        self.hosts.power_off("lb-1")?;
        let output = stage.quorate(&["apply", "--yes", "-f", &self.file.right()?])?;
        self.hosts.power_on("lb-1")?;
        self.hosts.booted("lb-1")?;
        stage.check_eq(
            "a balancer nobody answers on: exit code",
            &output.status.code(),
            &Some(5),
        );
        says(
            stage,
            "a balancer nobody answers on",
            &said(&output),
            &["lb-1"],
        );
        same(
            stage,
            "a balancer nobody answers on: nothing changed on the master",
            &listings(&self.hosts, &["cp-1"])?,
            &before,
        );
        Ok(())
    }

    /// No room for the journal on the operator's machine.
    fn full_disk(&self, stage: &mut Stage) -> Result<()> {
        let known = fs::read(
            stage
                .directory
                .join(format!("state/quorate/clusters/{NAME}/known_hosts")),
        )?;
        let full = Full::mount(stage.directory.join("full"))?;
        let cluster = full.path.join(format!("quorate/clusters/{NAME}"));
        fs::create_dir_all(&cluster)?;
        fs::write(cluster.join("known_hosts"), known)?;
        full.fill()?;
        let file = self.file.right()?;
        let before = self.listings()?;
        let mut apply = stage.command(&["apply", "--yes", "-f", &file]);
        let output = finish(apply.env("XDG_STATE_HOME", &full.path))?;
        stage.check_eq(
            "a full disk on the operator's machine: exit code",
            &output.status.code(),
            &Some(1),
        );
        says(
            stage,
            "a full disk on the operator's machine",
            &said(&output),
            &["No space left on device", &full.path.display().to_string()],
        );
        same(
            stage,
            "a full disk on the operator's machine: nothing changed on any host",
            &self.listings()?,
            &before,
        );
        Ok(())
    }
}

fn says(stage: &mut Stage, what: &str, text: &str, words: &[&str]) {
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    stage.check(&format!("{what}: says so"), missing.is_empty());
    if !missing.is_empty() {
        stage.say(&format!("        not said: {missing:?}"));
        stage.say(&crate::stage::tail(text, 30));
    }
}

/// Somebody who is not root, with a state directory that is not theirs.
fn nobody(stage: &mut Stage, file: &File) -> Result<()> {
    // Neither the binary nor this case's directory may be theirs to read where they are.
    let theirs = tempfile::Builder::new()
        .prefix("quorate-nobody-")
        .tempdir()?;
    let binary = theirs.path().join("quorate");
    fs::copy(&stage.quorate, &binary)?;
    let cluster = theirs.path().join("cluster.yaml");
    fs::write(&cluster, &file.text)?;
    let mut open = Command::new("chmod");
    finish(open.args(["-R", "a+rX"]).arg(theirs.path()))?;
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&binary)
            .args(arguments)
            .current_dir(theirs.path())
            .env("XDG_STATE_HOME", theirs.path().join("state"))
            .env("XDG_RUNTIME_DIR", theirs.path())
            .env("NO_COLOR", "1");
        finish(&mut command)
    };
    let list = as_nobody(&["local", "list"])?;
    stage.check_eq(
        "local hosts without root: exit code",
        &list.status.code(),
        &Some(1),
    );
    says(
        stage,
        "local hosts without root",
        &said(&list),
        &["local hosts need root", "sudo"],
    );
    let status = as_nobody(&["status", "-f", "cluster.yaml"])?;
    stage.check_eq(
        "a state directory that cannot be made: exit code",
        &status.status.code(),
        &Some(1),
    );
    says(
        stage,
        "a state directory that cannot be made",
        &said(&status),
        &["could not make the directory", "Permission denied"],
    );
    Ok(())
}

fn flip_a_byte(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = fs::metadata(path)?.permissions();
    // Another file in its place: the bundle's own is linked to the same data.
    fs::remove_file(path)?;
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, mode)?)
}

/// A small disk that can be filled up, and goes away again.
struct Full {
    path: PathBuf,
}

impl Full {
    fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let mut mount = Command::new("mount");
        let output = finish(
            mount
                .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
                .arg(&path),
        )?;
        ensure!(output.status.success(), "mount: {}", said(&output));
        Ok(Self { path })
    }

    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.path.join("filling"))?;
        let block = [0; 4096];
        for _ in 0..64 {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("failed to fill the disk"),
            }
        }
        anyhow::bail!("64 KiB took more than 256")
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
