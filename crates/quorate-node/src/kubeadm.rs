//! Calling kubeadm: single phases, always with a configuration file, never with settings as flags. Start at [`Kubeadm`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use quorate_plan::kubeadm::{ClusterSettings, Peer};

use crate::{
    command::{Command, CommandError, Tools},
    durable,
    error::ActionError,
    paths::Paths,
};

/// The folder of all private files and folders.
const PRIVATE: &str = "private";

/// kubeadm with the configuration of one host.
pub(crate) struct Kubeadm<'a> {
    paths: &'a Paths,
    tools: &'a Tools,
    config: Private,
    within: Duration,
}

/// A file or folder in memory that only root can read. It goes when this is dropped.
pub(crate) struct Private {
    path: PathBuf,
}

impl Private {
    /// A file with these bytes.
    pub(crate) fn file(paths: &Paths, name: &str, bytes: &[u8]) -> Result<Self, ActionError> {
        let path = Self::place(paths, name)?;
        durable::write(&path, bytes, 0o600)?;
        Ok(Self { path })
    }

    /// An empty folder.
    pub(crate) fn folder(paths: &Paths, name: &str) -> Result<Self, ActionError> {
        let path = Self::place(paths, name)?;
        durable::remove_folder(&path)?;
        durable::private_folder(&path)?;
        Ok(Self { path })
    }

    /// Removes what an action that was killed left behind. Only under the host lock: nobody uses it then.
    pub(crate) fn sweep(paths: &Paths) -> Result<(), ActionError> {
        Ok(durable::remove_folder(&paths.run(PRIVATE))?)
    }

    fn place(paths: &Paths, name: &str) -> Result<PathBuf, ActionError> {
        for folder in ["", PRIVATE] {
            durable::private_folder(&paths.run(folder))?;
        }
        Ok(paths.run(PRIVATE).join(name))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // It lies in memory: what cannot be removed goes with the next boot, or the next action.
        let _ = if self.path.is_dir() {
            durable::remove_folder(&self.path)
        } else {
            durable::remove(&self.path)
        };
    }
}

/// What a configuration says beyond the cluster's settings.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// Another folder for certificates than `/etc/kubernetes/pki`.
    pub(crate) certificates: Option<&'a std::path::Path>,
    /// A bootstrap token to make, in place of the one that kubeadm would make for a day.
    pub(crate) token: Option<&'a str>,
}

impl<'a> Kubeadm<'a> {
    /// kubeadm for one host. `within` is for each call.
    pub(crate) fn new(
        paths: &'a Paths,
        tools: &'a Tools,
        settings: &ClusterSettings,
        node: &Peer,
        extra: &Extra<'_>,
        within: Duration,
    ) -> Result<Self, ActionError> {
        let text = configuration(settings, node, extra);
        Ok(Self {
            paths,
            tools,
            config: Private::file(paths, "kubeadm.yaml", text.as_bytes())?,
            within,
        })
    }

    /// Runs `kubeadm init phase PHASE`.
    pub(crate) async fn phase(&self, phase: &[&str]) -> Result<(), CommandError> {
        self.tools.run(self.command(phase)).await.map(drop)
    }

    /// Runs `kubeadm init phase PHASE` with more flags.
    pub(crate) async fn phase_with(
        &self,
        phase: &[&str],
        flags: &[(&str, &std::path::Path)],
    ) -> Result<(), CommandError> {
        let mut command = self.command(phase);
        for (flag, value) in flags {
            command = command.arg(flag).arg(value);
        }
        self.tools.run(command).await.map(drop)
    }

    fn command(&self, phase: &[&str]) -> Command {
        Command::new("kubeadm", self.within)
            .args(["init", "phase"])
            .args(phase)
            .arg("--config")
            .arg(self.config.path())
    }

    /// The static pod manifests that a phase would write, by name without `.yaml`. Written straight into the kubelet's folder they
    /// would start before anybody could look at them.
    pub(crate) async fn manifests(
        &self,
        phase: &[&str],
    ) -> Result<BTreeMap<String, String>, ActionError> {
        let folder = Private::folder(self.paths, "manifests")?;
        let render = self
            .command(phase)
            .arg("--dry-run")
            .env("KUBEADM_INIT_DRYRUN_DIR", folder.path());
        self.tools.run(render).await?;
        let mut found = BTreeMap::new();
        let entries = std::fs::read_dir(folder.path())
            .map_err(durable::FileError::new("read", folder.path()))?;
        for entry in entries {
            let path = entry
                .map_err(durable::FileError::new("read", folder.path()))?
                .path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.and_then(|name| name.strip_suffix(".yaml")) else {
                continue;
            };
            if let Some(text) = durable::read_text(&path)? {
                found.insert(name.to_owned(), text);
            }
        }
        Ok(found)
    }
}

fn configuration(settings: &ClusterSettings, node: &Peer, extra: &Extra<'_>) -> String {
    let mut text = settings.init_configuration(node);
    if let Some(folder) = extra.certificates {
        let kind = "kind: ClusterConfiguration\n";
        let with = format!("{kind}certificatesDir: \"{}\"\n", folder.display());
        text = text.replacen(kind, &with, 1);
    }
    if let Some(token) = extra.token {
        let kind = "kind: InitConfiguration\n";
        let with = format!(
            "{kind}bootstrapTokens:\n- token: \"{token}\"\n  ttl: 15m0s\n  description: {}\n",
            crate::token::DESCRIPTION
        );
        text = text.replacen(kind, &with, 1);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use quorate_plan::{
        kubeadm::Peer,
        observation::{Cgroup, EndpointName, MachineKind},
    };

    use super::*;
    use crate::testing;

    pub(crate) fn settings() -> ClusterSettings {
        ClusterSettings {
            cluster: "demo".parse().unwrap(),
            kubernetes: "1.35.4".into(),
            endpoint: EndpointName {
                host: "api.demo.internal".into(),
                port: 6443,
            },
            sans: ["api.demo.internal".to_owned()].into(),
            pods: "10.244.0.0/16".into(),
            services: "10.96.0.0/12".into(),
            images: [(
                "kube-apiserver".to_owned(),
                "quorate.local/kube-apiserver:v1.35.4".to_owned(),
            )]
            .into(),
            kind: MachineKind {
                cgroup: Cgroup::V2,
                oom_score_adjustable: true,
                swap: false,
                shared_disk: false,
            },
            adopted: None,
        }
    }

    #[test]
    fn folders_and_tokens_go_into_the_right_document() {
        let node = Peer {
            name: "cp-1".parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
        };
        let extra = Extra {
            certificates: Some(std::path::Path::new("/x")),
            token: Some("abcdef.0123456789abcdef"),
        };
        let text = configuration(&settings(), &node, &extra);
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        let of = |kind: &str| documents.iter().find(|doc| doc["kind"] == kind).unwrap();
        assert_eq!(of("ClusterConfiguration")["certificatesDir"], "/x");
        let token = &of("InitConfiguration")["bootstrapTokens"][0];
        assert_eq!(token["token"], "abcdef.0123456789abcdef");
        assert_eq!(token["description"], "quorate");
        let plain = configuration(&settings(), &node, &Extra::default());
        assert!(!plain.contains("certificatesDir") && !plain.contains("bootstrapTokens"));
    }

    #[test]
    fn private_files_are_roots_alone_and_go_away() {
        let machine = testing::machine();
        let file = Private::file(&machine.paths, "join.yaml", b"secret").unwrap();
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        let path = file.path().to_owned();
        assert_eq!(mode(&path) & 0o777, 0o600);
        assert_eq!(mode(&machine.paths.run("")) & 0o777, 0o700);
        drop(file);
        assert!(!path.exists());
        let folder = Private::folder(&machine.paths, "f").unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());

        // As if the process had been killed.
        let left = Private::file(&machine.paths, "join.yaml", b"secret").unwrap();
        let path = left.path().to_owned();
        std::mem::forget(left);
        Private::sweep(&machine.paths).unwrap();
        assert!(!path.exists());
        Private::sweep(&machine.paths).unwrap();
    }
}
