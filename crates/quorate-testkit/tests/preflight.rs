//! What planning refuses before the first step, and what an operator may accept by name.

use quorate_plan::{
    Intent, Planning,
    lint::lint,
    observation::{HostMark, MemberMark},
    plan,
    spec::BringUp,
};
use quorate_testkit::{
    World,
    fixture::{Cluster, node},
    render,
    walk::{take, turns},
};

fn given() -> Cluster {
    Cluster {
        local: false,
        balancers: 1,
        workers: 1,
        ..Cluster::default()
    }
}

/// Refusals of a plan for hosts of that cluster, one of which is not as it should be.
fn refused(cluster: Cluster, change: impl FnOnce(&mut World, &mut Intent)) -> String {
    let mut intent = cluster.intent();
    let mut world = World::new(&intent.spec);
    change(&mut world, &mut intent);
    said(&world, &intent)
}

fn said(world: &World, intent: &Intent) -> String {
    let seen = world.observe(intent);
    let planning = plan(intent, &seen);
    assert_eq!(lint(&planning.plan, &seen), []);
    if planning.refused.is_empty() {
        return "planned\n".into();
    }
    assert!(
        planning.plan.is_empty(),
        "nothing is begun that is refused in part"
    );
    render::planning(&planning)
}

fn grown(intent: &Intent) -> World {
    let mut world = World::new(&intent.spec);
    let Planning { plan, refused, .. } = plan(intent, &world.observe(intent));
    assert_eq!(refused, []);
    for (step, change) in turns(&plan) {
        take(&mut world, intent, step, change, quorate_plan::Fence(1))
            .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
    }
    world
}

#[test]
fn fit_hosts_are_planned() {
    assert_eq!(refused(given(), |_, _| {}), "planned\n");
    assert_eq!(refused(Cluster::default(), |_, _| {}), "planned\n");
}

#[test]
fn unfit_hosts() {
    let on = |name: &'static str, change: fn(&mut quorate_testkit::world::Hardware)| {
        refused(given(), move |world, _| {
            change(&mut world.machine_mut(&node(name)).hardware);
        })
    };
    assert_eq!(
        on("cp-2", |hardware| hardware.cpus = 1),
        "refused (unfit-host): cp-2: expected at least 2 processors, seen 1\n"
    );
    assert_eq!(
        on("cp-2", |hardware| hardware.memory_bytes = 1_500_000_000),
        "refused (unfit-host): cp-2: expected at least 1700 MB of memory, seen 1500 MB\n"
    );
    assert_eq!(
        on("cp-2", |hardware| hardware.disk_free_bytes = 3 << 30),
        "refused (unfit-host): cp-2: expected at least 4 GiB free for /var/lib, seen 3072 MiB\n"
    );
    assert_eq!(
        on("w-1", |hardware| hardware.disk_free_bytes = 3 << 30),
        "refused (unfit-host): w-1: expected at least 4 GiB free for /var/lib, seen 3072 MiB\n"
    );
    assert_eq!(
        on("cp-2", |hardware| hardware.arch = "aarch64".into()),
        "refused (unfit-host): cp-2: expected architecture x86_64, seen aarch64\n"
    );
    assert_eq!(
        on("lb-1", |hardware| hardware.systemd = None),
        "refused (unfit-host): lb-1: expected systemd as the first process, seen another init\n"
    );
    // Workers and balancers do with less.
    assert_eq!(on("w-1", |hardware| hardware.cpus = 1), "planned\n");
    assert_eq!(
        on("lb-1", |hardware| hardware.memory_bytes = 256 << 20),
        "planned\n"
    );
}

#[test]
fn clocks_that_differ() {
    let off = |ms: i64| {
        refused(given(), move |world, _| {
            world.machine_mut(&node("cp-3")).hardware.clock_off_ms = ms;
        })
    };
    assert_eq!(off(5_000), "planned\n");
    assert_eq!(
        off(5_001),
        "refused (clock-differs): the clock of cp-3 is 5001 ms from the others', 5000 ms are allowed\n"
    );
    assert_eq!(
        off(-90_000),
        "refused (clock-differs): the clock of cp-3 is -90000 ms from the others', 5000 ms are allowed\n"
    );
}

#[test]
fn what_can_be_accepted_is_accepted_for_one_host() {
    let accepting = |texts: &[&str]| {
        refused(given(), |world, intent| {
            for name in ["cp-2", "cp-3"] {
                world.machine_mut(&node(name)).hardware.cpus = 1;
            }
            world.machine_mut(&node("w-1")).hardware.clock_off_ms = 9_000;
            intent.accepted = texts
                .iter()
                .map(|text| text.parse().expect("an acceptance"))
                .collect();
        })
    };
    assert_eq!(
        accepting(&[]),
        "refused (unfit-host): cp-2: expected at least 2 processors, seen 1\n\
         refused (unfit-host): cp-3: expected at least 2 processors, seen 1\n\
         refused (clock-differs): the clock of w-1 is 9000 ms from the others', 5000 ms are allowed\n"
    );
    assert_eq!(
        accepting(&["unfit-host=cp-2", "clock-differs=w-1"]),
        "refused (unfit-host): cp-3: expected at least 2 processors, seen 1\n"
    );
    assert_eq!(
        accepting(&["unfit-host=cp-2", "unfit-host=cp-3", "clock-differs=w-1"]),
        "planned\n"
    );
    for never in [
        "would-lose-quorum=cp-2",
        "not-blank=cp-2",
        "missing=cp-2",
        "unfit-host",
    ] {
        assert!(
            never.parse::<quorate_plan::Acceptance>().is_err(),
            "{never} is not for accepting"
        );
    }
}

#[test]
fn ports_that_are_taken() {
    let taken = |name: &'static str, port: u16| {
        refused(given(), move |world, _| {
            let hardware = &mut world.machine_mut(&node(name)).hardware;
            hardware.listening.insert(port, "nginx".into());
        })
    };
    for port in [2379, 2380, 6443, 10250, 10257, 10259] {
        assert_eq!(
            taken("cp-1", port),
            format!("refused (port-in-use): port {port} of cp-1 is taken by nginx\n")
        );
    }
    assert_eq!(
        taken("w-1", 10250),
        "refused (port-in-use): port 10250 of w-1 is taken by nginx\n"
    );
    assert_eq!(
        taken("lb-1", 6443),
        "refused (port-in-use): port 6443 of lb-1 is taken by nginx\n"
    );
    assert_eq!(taken("w-1", 6443), "planned\n");
    assert_eq!(taken("cp-1", 80), "planned\n");
    // Where the cluster's own components run, they are the ones that listen.
    let intent = given().intent();
    assert_eq!(said(&grown(&intent), &intent), "planned\n");
}

/// A join that was cut off has started the kubelet and has no kubelet.conf yet.
#[test]
fn a_kubelet_of_our_own_is_in_nobodys_way() {
    let left_over = |change: fn(&mut quorate_testkit::world::Machine)| {
        refused(given(), move |world, _| {
            for name in ["w-1", "cp-2"] {
                let machine = world.machine_mut(&node(name));
                machine.enable("kubelet");
                change(machine);
            }
        })
    };
    let listens = |machine: &mut quorate_testkit::world::Machine, process: &str| {
        let ports = &mut machine.hardware.listening;
        ports.insert(10250, process.into());
    };
    assert_eq!(left_over(|_| {}), "planned\n");
    // It crashes again and again: for a moment its port is held by the process before.
    assert_eq!(
        left_over(|machine| {
            machine.memory.crashing.insert("kubelet".into());
            machine.hardware.listening.insert(10250, "kubelet".into());
        }),
        "planned\n"
    );
    let both = |process: &str| {
        ["cp-2", "w-1"]
            .map(|name| {
                format!("refused (port-in-use): port 10250 of {name} is taken by {process}\n")
            })
            .concat()
    };
    // Another process there, whatever our kubelet does.
    assert_eq!(
        left_over(|machine| {
            machine.memory.crashing.insert("kubelet".into());
            machine.hardware.listening.insert(10250, "nginx".into());
        }),
        both("nginx")
    );
    // Another distribution's kubelet, under a supervisor of its own.
    assert_eq!(
        left_over(|machine| {
            machine.memory.active.remove("kubelet");
            machine.hardware.listening.insert(10250, "kubelet".into());
        }),
        both("kubelet")
    );
    let unit_less = refused(given(), |world, _| {
        listens(world.machine_mut(&node("w-1")), "kubelet");
    });
    assert_eq!(
        unit_less,
        "refused (port-in-use): port 10250 of w-1 is taken by kubelet\n"
    );
}

#[test]
fn hosts_of_others() {
    let marked = |cluster: &'static str, name: &'static str| {
        refused(given(), move |world, _| {
            world.machine_mut(&node("cp-2")).disk.mark = Some(HostMark {
                cluster: cluster.parse().expect("a name"),
                node: node(name),
                disposable: false,
            });
        })
    };
    assert_eq!(
        marked("other", "cp-2"),
        "refused (foreign-host): cp-2 belongs to cluster other as cp-2, expected cluster demo as cp-2\n"
    );
    assert_eq!(
        marked("demo", "cp-3"),
        "refused (foreign-host): cp-2 belongs to cluster demo as cp-3, expected cluster demo as cp-2\n"
    );
    assert_eq!(marked("demo", "cp-2"), "planned\n");
}

#[test]
fn names_that_do_not_resolve() {
    let unresolved = refused(given(), |world, _| world.resolves.clear());
    let expected: String = ["lb-1", "cp-1", "cp-2", "cp-3", "w-1"]
        .map(|name| {
            format!(
                "refused (endpoint-unresolved): `api.demo.internal` does not resolve on {name}\n"
            )
        })
        .concat();
    assert_eq!(unresolved, expected);
    // Where Quorate writes the name itself, it need not resolve before.
    assert_eq!(
        refused(Cluster::default(), |world, _| world.resolves.clear()),
        "planned\n"
    );
}

#[test]
fn machines_that_are_held_or_silent() {
    let intent = Cluster::default().intent();
    let mut frozen = grown(&intent);
    frozen.freeze(&node("cp-3"));
    assert_eq!(
        said(&frozen, &intent),
        "refused (machine-held): cp-3 is frozen: `quorate local thaw cp-3` lets it go on\n"
    );
}

/// What a host needs that is on its way cannot be said; what is refused of the others can.
#[test]
fn hosts_that_are_on_their_way_are_waited_for() {
    let planned = |change: fn(&mut World)| {
        let intent = given().intent();
        let mut world = World::new(&intent.spec);
        change(&mut world);
        render::planning(&plan(&intent, &world.observe(&intent)))
    };
    assert_eq!(
        planned(|world| world.power_off(&node("cp-3"))),
        "waits for cp-3 to answer: no route to it\n"
    );
    assert_eq!(
        planned(|world| {
            world.power_off(&node("cp-2"));
            world.boot(&node("cp-2"), 0, 10);
            world.power_off(&node("w-1"));
            world.boot(&node("w-1"), 3, 10);
        }),
        "waits for cp-2 to finish booting: what it needs can be seen then\n\
         waits for w-1 to answer: nobody listens on its SSH port\n"
    );
    // A mark of another cluster stays one, whatever the others do.
    assert_eq!(
        planned(|world| {
            world.power_off(&node("cp-2"));
            world.boot(&node("cp-2"), 0, 10);
            world.machine_mut(&node("cp-1")).disk.mark = Some(HostMark {
                cluster: "other".parse().expect("a name"),
                node: node("cp-1"),
                disposable: false,
            });
        }),
        "refused (foreign-host): cp-1 belongs to cluster other as cp-1, expected cluster demo as cp-1\n"
    );
}

#[test]
fn machines_that_are_switched_off_are_started_first() {
    let intent = Cluster::default().intent();
    let mut world = grown(&intent);
    for name in ["cp-2", "lb-1"] {
        world.power_off(&node(name));
    }
    assert_eq!(
        render::planning(&plan(&intent, &world.observe(&intent))),
        "1. Start the machines\n   \
         this machine: machine at 10.0.0.201 runs and answers SSH\n   \
         this machine: machine at 10.0.0.12 runs and answers SSH\n\
         waits for lb-1 to run: what else it needs can be seen then\n\
         waits for cp-2 to run: what else it needs can be seen then\n"
    );
}

#[test]
fn data_that_is_lost() {
    let intent = given().intent();
    let mut world = grown(&intent);
    let member = world
        .machine(&node("cp-3"))
        .disk
        .etcd
        .as_ref()
        .expect("a member")
        .member;
    world.lose_etcd_data(&node("cp-3"));
    world.settle();
    assert!(
        !world.machine(&node("cp-3")).active("kubelet"),
        "the empty-data guard holds the kubelet"
    );
    assert_eq!(
        said(&world, &intent),
        format!(
            "refused (data-lost): cp-3 was member {member} and its etcd data is gone: it must not start an empty etcd\n"
        )
    );
}

#[test]
fn hosts_that_are_not_blank() {
    let marker = MemberMark {
        cluster_id: "abc".into(),
        member: "def".parse().expect("an ID"),
    };
    let old = |bring_up: BringUp, name: &'static str| {
        let cluster = Cluster {
            bring_up,
            ..given()
        };
        refused(cluster, move |world, _| {
            let disk = &mut world.machine_mut(&node(name)).disk;
            disk.etcd = Some(quorate_testkit::world::machine::EtcdDisk {
                cluster: quorate_testkit::world::ClusterId(1),
                member: "def".parse().expect("an ID"),
                index: 9,
            });
        })
    };
    for bring_up in [BringUp::Together, BringUp::OneByOne] {
        for name in ["cp-1", "cp-3"] {
            assert_eq!(
                old(bring_up, name),
                format!(
                    "refused (not-blank): {name} shall found a cluster, but carries etcd data\n"
                ),
                "{bring_up:?}"
            );
        }
    }
    let guarded = refused(given(), |world, _| {
        let disk = &mut world.machine_mut(&node("cp-1")).disk;
        disk.marker = Some(marker);
    });
    assert!(
        guarded.contains("refused (data-lost): cp-1 was member def"),
        "{guarded}"
    );
    // A joiner is held to it as well.
    let intent = Cluster {
        masters: 1,
        ..given()
    }
    .intent();
    let mut world = grown(&intent);
    let three = given().intent();
    world.know(&three.spec);
    world.machine_mut(&node("cp-3")).disk.etcd = Some(quorate_testkit::world::machine::EtcdDisk {
        cluster: quorate_testkit::world::ClusterId(1),
        member: "def".parse().expect("an ID"),
        index: 9,
    });
    assert_eq!(
        said(&world, &three),
        "refused (not-blank): cp-3 shall found a cluster, but carries etcd data of a cluster it is not a member of\n"
    );
}

#[test]
fn authorities_of_others() {
    let founder = refused(given(), |world, _| {
        world.machine_mut(&node("cp-2")).disk.pki.authority = Some("somebody's".into());
    });
    assert_eq!(
        founder,
        "refused (not-blank): cp-2 shall found a cluster, but carries certificate authorities\n"
    );
    let single = Cluster {
        masters: 1,
        ..given()
    };
    let mut world = grown(&single.intent());
    let three = given().intent();
    world.know(&three.spec);
    world.machine_mut(&node("cp-2")).disk.pki.authority = Some("somebody's".into());
    assert_eq!(
        said(&world, &three),
        "refused (foreign-authority): cp-2 holds another certificate authority than cp-1\n"
    );
    // A worker of somebody's kubeadm cluster, which carries no mark of ours: before we have masters, and after.
    let foreign = |world: &mut World| {
        let disk = &mut world.machine_mut(&node("w-1")).disk;
        disk.pki.cluster_ca = Some("somebody's".into());
        let server = "https://10.9.9.9:6443".to_owned();
        disk.kubeconfigs.insert("kubelet.conf".into(), server);
    };
    let expected =
        "refused (foreign-authority): w-1 holds another certificate authority than cp-1\n";
    assert_eq!(refused(given(), |world, _| foreign(world)), expected);
    let mut world = grown(&given().intent());
    foreign(&mut world);
    assert_eq!(said(&world, &given().intent()), expected);
}

#[test]
fn members_that_the_file_does_not_name() {
    let three = given().intent();
    let world = grown(&three);
    let one = Cluster {
        masters: 1,
        ..given()
    };
    assert_eq!(
        said(&world, &one.intent()),
        "refused (may-still-run): member 58522375b4adf9a7 may still run (no way to its host is known; etcd on cp-1, which leads, hears of \
         it; its kubelet renewed its lease 0 s ago), and without it 1 of 2 voters are healthy, 2 needed\n"
    );
}

#[test]
fn what_no_verb_changes_yet() {
    let intent = given().intent();
    let world = grown(&intent);
    let mut newer = intent.clone();
    newer.spec.kubernetes = "1.36.3".into();
    newer.bundle.kubernetes = "1.36.3".into();
    assert_eq!(
        said(&world, &newer),
        "refused (unchangeable): kubernetesVersion of the running cluster is 1.35.4, the cluster file wants 1.36.3\n"
    );
    let mut elsewhere = intent;
    elsewhere.spec.endpoint.port = 7443;
    assert_eq!(
        said(&world, &elsewhere),
        "refused (unchangeable): controlPlaneEndpoint of the running cluster is api.demo.internal:6443, the cluster file wants api.demo.internal:7443\n"
    );
}

#[test]
fn bundles_of_another_version() {
    let wrong = refused(given(), |_, intent| {
        intent.bundle.kubernetes = "1.36.3".into();
    });
    assert_eq!(
        wrong,
        "refused (bundle-version): the bundle holds Kubernetes 1.36.3, the cluster file wants 1.35.4\n"
    );
}
