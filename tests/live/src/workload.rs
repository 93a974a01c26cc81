//! What runs in a cluster that somebody else made: a Deployment behind a Service, a pod that is connected through it, a pod that asks the API
//! by its ServiceAccount, a person with a kubeconfig of her own. Start at [`Workload::start`].
//!
//! Images are those that a bundle has: CoreDNS is the web server. Programs run in the networks of pods, with what is mounted into those.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    foreign::{Foreign, MASTER, WORKERS},
    stage::Stage,
};

/// Where the pod is that is connected through the Service.
const CONNECTED_ON: &str = WORKERS[1];

/// Where the kubeconfig of the person lies who reads the cluster.
pub const READERS: &str = "/root/jane.conf";

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: app }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: web, namespace: app }
data:
  Corefile: |
    .:1053 {
        health :8080
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: app }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
      - name: web
        image: WEB
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: { httpGet: { path: /health, port: 8080 } }
        volumeMounts: [{ name: web, mountPath: /etc/coredns }]
      volumes: [{ name: web, configMap: { name: web } }]
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: app }
spec:
  clusterIP: 10.96.100.100
  selector: { app: web }
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: v1
kind: Pod
metadata: { name: connected, namespace: app }
spec:
  nodeSelector: { kubernetes.io/hostname: w-2 }
  containers: [{ name: pause, image: PAUSE }]
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: reader, namespace: app }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: reader, namespace: app }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view }
subjects: [{ kind: ServiceAccount, name: reader, namespace: app }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: jane }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: User, name: jane }]
---
apiVersion: v1
kind: Pod
metadata: { name: reader, namespace: app }
spec:
  nodeSelector: { kubernetes.io/hostname: w-1 }
  serviceAccountName: reader
  containers: [{ name: pause, image: PAUSE }]
";

/// One connection that is kept and, beside it, a new one each time; what became of them is told in the end.
const THROUGH: &str = r#"
import http.client, json, os, time
told = {"kept": 0, "keptBroken": [], "new": 0, "newFailed": [], "longestGapMs": 0}
def ask(connection):
    connection.request("GET", "/health")
    if connection.getresponse().read() != b"OK":
        raise OSError("another answer")
def connect():
    return http.client.HTTPConnection("10.96.100.100", 80, timeout=5)
kept, last = connect(), time.monotonic()
while not os.path.exists("/run/through.stop"):
    try:
        ask(kept)
        if kept.sock is None:
            raise OSError("the connection was closed")
        told["kept"] += 1
    except Exception as error:
        told["keptBroken"].append(repr(error))
        kept = connect()
    try:
        new = connect()
        ask(new)
        new.close()
        told["new"] += 1
        now = time.monotonic()
        told["longestGapMs"] = max(told["longestGapMs"], int((now - last) * 1000))
        last = now
    except Exception as error:
        told["newFailed"].append(repr(error))
    json.dump(told, open("/run/through.new", "w"))
    os.rename("/run/through.new", "/run/through.json")
    time.sleep(0.05)
"#;

/// The API by the Service's address, as whoever the pod is; a request that failed is tried once more.
const ASKING: &str = r#"
import json, os, ssl, sys, time, urllib.request
mounted = sys.argv[1] + "/var/run/secrets/kubernetes.io/serviceaccount/"
tls = ssl.create_default_context(cafile=mounted + "ca.crt")
told = {"answered": 0, "once": 0, "twice": []}
def ask():
    url = "https://10.96.0.1/api/v1/namespaces/app/configmaps"
    token = open(mounted + "token").read()
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
    if urllib.request.urlopen(request, timeout=5, context=tls).status != 200:
        raise OSError("another answer")
while True:
    try:
        ask()
        told["answered"] += 1
    except Exception:
        try:
            ask()
            told["once"] += 1
        except Exception as error:
            told["twice"].append(repr(error))
    json.dump(told, open("/run/asking.new", "w"))
    os.rename("/run/asking.new", "/run/asking.json")
    time.sleep(0.2)
"#;

/// A running workload.
pub struct Workload<'a> {
    foreign: &'a Foreign,
}

impl<'a> Workload<'a> {
    /// Makes it, and waits until all of it runs.
    pub fn start(stage: &mut Stage, foreign: &'a Foreign) -> Result<Self> {
        let workload = Self { foreign };
        let objects = OBJECTS
            .replace("WEB", stage.image("coredns")?)
            .replace("PAUSE", stage.image("pause")?);
        foreign.on_master(&format!(
            "kubectl apply -f - >/dev/null <<'END'{objects}END"
        ))?;
        stage.wait("the workload runs", Duration::from_secs(120), |_| {
            foreign
                .on_master("kubectl -n app get pods --no-headers")
                .is_ok_and(|pods| {
                    let runs = |line: &&str| line.contains("1/1") && line.contains("Running");
                    pods.lines().filter(runs).count() == 4
                })
        });
        for (pod, node, program, text) in [
            ("connected", CONNECTED_ON, "through", THROUGH),
            ("reader", WORKERS[0], "asking", ASKING),
        ] {
            let run = format!("cat >/root/{program}.py <<'END'{text}END");
            foreign.hosts.run(node, &run)?;
            let python = format!("python3 /root/{program}.py");
            in_pod(foreign, "app", pod, node, program, &python)?;
        }
        foreign.on_master(&format!(
            "kubeadm kubeconfig user --client-name jane --config /root/kubeadm.yaml >{READERS} 2>/dev/null"
        ))?;
        stage.wait("all of it is used", Duration::from_secs(60), |_| {
            let through = workload.through();
            through.is_ok_and(|told| told["kept"].as_u64() > Some(10)) && workload.answered() > 2
        });
        Ok(workload)
    }

    /// The person's kubeconfig, as she has it.
    pub fn readers_kubeconfig(&self) -> Result<String> {
        self.foreign.hosts.run(MASTER, &format!("cat {READERS}"))
    }

    fn through(&self) -> Result<Value> {
        let text = self
            .foreign
            .hosts
            .run(CONNECTED_ON, "cat /run/through.json")?;
        serde_json::from_str(&text).context("it tells JSON")
    }

    fn asked(&self) -> Result<Value> {
        let text = self.foreign.hosts.run(WORKERS[0], "cat /run/asking.json")?;
        serde_json::from_str(&text).context("it tells JSON")
    }

    fn answered(&self) -> u64 {
        let asked = self.asked();
        asked.map_or(0, |told| told["answered"].as_u64().unwrap_or(0))
    }

    /// Nobody in the cluster has noticed anything.
    pub fn unharmed(&self, stage: &mut Stage) -> Result<()> {
        let told = self.through()?;
        stage.say(&format!(
            "through the Service: {} requests over the kept connection, {} new connections, longest gap {} ms",
            told["kept"], told["new"], told["longestGapMs"]
        ));
        stage.check_eq(
            "the kept connection through the Service was never broken",
            &told["keptBroken"],
            &Value::Array(vec![]),
        );
        stage.check_eq(
            "and no new one failed",
            &told["newFailed"],
            &Value::Array(vec![]),
        );
        let asked = self.asked()?;
        stage.say(&format!(
            "the ServiceAccount was answered {} times, and {} times at the second try",
            asked["answered"], asked["once"]
        ));
        stage.check_eq(
            "no request of the ServiceAccount failed twice",
            &asked["twice"],
            &Value::Array(vec![]),
        );
        Ok(())
    }

    /// The kept connection through the Service is still the same, and the ServiceAccount is answered again.
    pub fn goes_on(&self, stage: &mut Stage) -> Result<()> {
        let told = self.through()?;
        stage.check_eq(
            "the kept connection through the Service outlived the first master, too",
            &told["keptBroken"],
            &Value::Array(vec![]),
        );
        stage.check_eq(
            "and no new one failed",
            &told["newFailed"],
            &Value::Array(vec![]),
        );
        let before = self.answered();
        stage.wait(
            "the ServiceAccount is answered",
            Duration::from_secs(60),
            |_| self.answered() >= before + 5,
        );
        Ok(())
    }

    /// The person's kubeconfig leads to the endpoint by one command, and reads the cluster from where its name resolves.
    pub fn reader_moves(&self, stage: &mut Stage, file: &str) -> Result<()> {
        let path = stage.directory.join("jane.conf");
        fs::write(&path, self.readers_kubeconfig()?)?;
        let name = path.display().to_string();
        stage.succeed(&["kubeconfig", "rewrite", &name, "-f", file])?;
        let text = fs::read_to_string(&path)?;
        let hosts = &self.foreign.hosts;
        hosts.run(
            WORKERS[0],
            &format!("umask 077; cat >{READERS} <<'END'\n{text}END"),
        )?;
        self.reader_reads(stage, "after `quorate kubeconfig rewrite`")
    }

    /// She still can.
    pub fn reader_reads(&self, stage: &mut Stage, when: &str) -> Result<()> {
        let read = self.foreign.hosts.run(
            WORKERS[0],
            &format!("kubectl --kubeconfig {READERS} get pods -A --request-timeout=5s"),
        );
        if let Err(error) = &read {
            stage.say(&format!("        {error:#}"));
        }
        stage.check(
            &format!("a person reads the cluster with her own kubeconfig {when}"),
            read.is_ok(),
        );
        Ok(())
    }
}

/// Runs a program of the host in the network of a pod, as a unit. The folder that the pod sees as its root is given to it.
pub fn in_pod(
    foreign: &Foreign,
    namespace: &str,
    pod: &str,
    node: &str,
    unit: &str,
    program: &str,
) -> Result<()> {
    let uid = foreign.on_master(&format!(
        "kubectl -n {namespace} get pod {pod} -o jsonpath='{{.metadata.uid}}'"
    ))?;
    // Of the pod's two processes one holds its network, the other has what is mounted.
    let script = format!(
        "for process in /proc/[0-9]*; do
           if grep -q {uid} $process/cgroup && grep -q pause $process/comm; then found=$process; fi
           if test -d $process/root/var/run/secrets && grep -q {uid} $process/cgroup; then found=$process; break; fi
         done
         systemd-run --quiet --unit={unit} nsenter --net=$found/ns/net {program} $found/root"
    );
    foreign.hosts.run(node, &script)?;
    Ok(())
}
