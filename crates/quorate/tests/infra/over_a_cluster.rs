//! Over a cluster of three masters, which is in memory.

use std::{
    cell::Cell,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate::{
    cluster::ClusterFile,
    console::{Console, Terminal},
    failure::Failure,
    reach::Reach,
    run_in,
    state::Directories,
};
use quorate_exec::World;
use quorate_plan::Intent;
use quorate_testkit::{
    fixture::node,
    memory::{MemoryHosts, MemoryInfra},
};
use serde_json::{Value, json};

use crate::{
    lab::Lab,
    made::{Made, Seen, created, ended, stopped},
};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run(reach: &impl Reach, directory: &Path, line: &str) -> Seen {
    let (data, conversation) = (Kept::default(), Kept::default());
    let mut console = Console::of(
        Box::new(data.clone()),
        Box::new(conversation.clone()),
        Box::new(io::empty()),
        Terminal::default(),
    );
    let directory = directory.display().to_string();
    let words = line.split_whitespace();
    let words = words.map(|word| OsString::from(word.replace("@/", &format!("{directory}/"))));
    let exit = run_in(words, &mut console, reach).await;
    let text = |kept: &Kept| String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    Seen {
        exit: exit.code().into(),
        out: text(&data),
        err: text(&conversation),
    }
}

/// Three masters that serve. Its bring-up is in virtual time; what Terraform takes is real.
async fn serving(directory: &Path) -> Lab {
    let lab = Lab::new(directory, "given.yaml");
    tokio::time::pause();
    run(&&lab, directory, "quorate apply --yes -f @/given.yaml")
        .await
        .is(0, &["healthy"]);
    tokio::time::resume();
    lab
}

#[tokio::test]
async fn the_guard_has_the_word_about_masters() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    let plan = "quorate infra plan -f @/made.yaml";

    // A member does not go; one that etcd let go of does, and so does what never was one.
    made.plans(&[ended("cp-2", 12)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[master-destroyed]", "10.0.0.12 is member"]);
    run(
        &&lab,
        &lab.directory,
        "quorate infra apply --yes -f @/made.yaml",
    )
    .await
    .is(3, &["error[master-destroyed]"]);
    made.plans(&[created("cp-4"), ended("cp-9", 19)], true);
    run(&&lab, &lab.directory, plan).await.is(0, &["0 errors"]);

    // One may stop while the others keep the majority, never two.
    made.plans(&[stopped("cp-2", 12)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(0, &["warning[master-stopped]", "keep the majority"]);
    made.plans(&[stopped("cp-2", 12), stopped("cp-3", 13)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[masters-together]"]);
    made.plans(&[stopped("cp-2", 12)], true);
    lab.shared.change(|world| world.power_off(&node("cp-3")));
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[master-stopped]"]);
    assert!(!made.asked().contains(&"apply".to_owned()));

    // Nobody tells: whoever goes may be needed.
    made.plans(&[created("cp-4"), ended("cp-9", 19)], true);
    lab.shared.change(|world| world.power_off(&node("cp-2")));
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["members of etcd are not known"]);
    made.plans(&[created("cp-4")], true);
    run(&&lab, &lab.directory, plan).await.is(0, &["0 errors"]);
}

#[tokio::test]
async fn a_saved_plan_is_for_the_members_that_were_seen() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    made.plans(&[created("cp-4")], true);
    run(
        &&lab,
        &lab.directory,
        "quorate infra plan -f @/made.yaml --out @/saved",
    )
    .await
    .is(0, &["Saved."]);
    for name in ["cp-2", "cp-3"] {
        lab.shared.change(|world| world.power_off(&node(name)));
    }
    let seen = run(&&lab, &lab.directory, "quorate infra apply --yes @/saved").await;
    seen.is(
        3,
        &[
            "does not fit any more: etcd's members are others",
            "https://10.0.0.12:2380",
            "nobody who could tell",
        ],
    );
    assert!(!made.asked().contains(&"apply".to_owned()));
    for name in ["cp-2", "cp-3"] {
        lab.shared.change(|world| world.power_on(&node(name)));
    }
    tokio::time::pause();
    lab.shared.rest().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    tokio::time::resume();
    let seen = run(
        &&lab,
        &lab.directory,
        "quorate infra apply --yes @/saved -o json",
    )
    .await
    .is(0, &[]);
    let told: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(
        told,
        json!({"apiVersion": "quorate/v1", "kind": "InfraApply", "cluster": "given", "applied": true, "add": 2, "change": 0, "remove": 1})
    );
    assert_eq!(lab.shared.violations(), [""; 0]);
}

/// A cluster that loses a master between the first look and the second.
struct Dying {
    lab: Lab,
    looks: Cell<u32>,
}

impl Reach for &Dying {
    type Hosts = MemoryHosts;
    type Infra = MemoryInfra;

    fn directories(&self) -> Result<Directories, Failure> {
        (&self.lab).directories()
    }

    fn terraform(&self) -> Result<PathBuf, Failure> {
        (&self.lab).terraform()
    }

    async fn world(
        &self,
        cluster: &ClusterFile,
        intent: &Intent,
    ) -> Result<World<MemoryHosts, MemoryInfra>, Failure> {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == 2 {
            self.lab
                .shared
                .change(|world| world.power_off(&node("cp-3")));
        }
        (&self.lab).world(cluster, intent).await
    }
}

/// What is seen last counts, whatever was shown and approved.
#[tokio::test]
async fn it_is_looked_at_again_right_before() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    made.plans(&[stopped("cp-2", 12)], true);
    let dying = Dying {
        lab,
        looks: Cell::new(0),
    };
    let seen = run(
        &&dying,
        made.directory.path(),
        "quorate infra apply --yes -f @/made.yaml",
    )
    .await;
    let seen = seen.is(3, &["warning[master-stopped]", "error[master-stopped]"]);
    assert!(!made.asked().contains(&"apply".to_owned()), "{}", seen.err);
    assert_eq!(dying.looks.get(), 2);
}
