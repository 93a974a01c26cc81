//! A conversion judged by what hosts tell, where a story has no words for it: who is a straggler, and what a process began with.

use std::{collections::BTreeSet, net::IpAddr};

use quorate_plan::{
    Goal, Intent, Observation, Refusal, Seen,
    event::Verdict,
    intent::Landmark,
    observation::{Caller, HostConversion},
    plan,
    spec::BringUp,
};
use quorate_testkit::{
    World,
    drive::apply,
    fixture::{Cluster, node, operator},
    memory::{Script, Shared},
};

/// Three masters and a worker, behind a balancer of the user's own, or behind records of DNS alone.
fn cluster(dns: bool) -> Cluster {
    Cluster {
        workers: 1,
        balancers: 0,
        dns,
        local: false,
        flannel: false,
        bring_up: BringUp::OneByOne,
        ..Cluster::default()
    }
}

fn converts(dns: bool, pause_after: Option<Landmark>) -> Intent {
    Intent {
        goal: Goal::Convert { pause_after },
        ..cluster(dns).intent()
    }
}

/// Everybody was led to the endpoint, and nobody joined yet.
async fn before_the_joins(dns: bool) -> Observation {
    let single = Cluster {
        masters: 1,
        ..cluster(false)
    };
    let shared = Shared::new(World::new(&single.spec()));
    let run = apply(&shared, &single.intent(), operator(1), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    shared.change(|world| {
        world.somebody_elses();
        world.know(&cluster(dns).spec());
        if dns {
            world.resolves = [address("10.0.0.11")].into();
        }
    });
    let led = converts(dns, Some(Landmark::Kubeconfigs));
    let run = apply(&shared, &led, operator(2), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    shared.change(|world| world.observe(&led))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn told<'a>(seen: &'a mut Observation, host: &str) -> &'a mut HostConversion {
    let Some(Seen::Known { value, .. }) = seen.hosts.get_mut(&node(host)) else {
        panic!("{host} was not seen");
    };
    match &mut value.conversion {
        Seen::Known {
            value: Some(own), ..
        } => own,
        other => panic!("{other:?}"),
    }
}

/// Somebody whose process nobody knows is connected to the old address on the master.
fn comes(seen: &mut Observation, from: &str) {
    let caller = Caller {
        to: (address("10.0.0.11"), 6443).into(),
        from: address(from),
        process: None,
    };
    let own = told(seen, "cp-1");
    let mut callers: BTreeSet<Caller> = own.callers.get().expect("it looked").clone();
    callers.insert(caller);
    own.callers = Seen::now(callers);
}

fn stragglers(dns: bool, seen: &Observation) -> String {
    let planning = plan(&converts(dns, None), seen);
    let callers = planning.refused.iter().flat_map(|refusal| match refusal {
        Refusal::OldAddressInUse { callers, .. } => callers,
        other => panic!("{other}"),
    });
    let from: Vec<String> = callers.map(|caller| caller.from.to_string()).collect();
    from.join(" ")
}

#[tokio::test(start_paused = true)]
async fn a_balancer_is_no_straggler_and_its_neighbour_is() {
    let mut seen = before_the_joins(false).await;
    assert_eq!(stragglers(false, &seen), "");
    // Where the endpoint's name leads in this world.
    comes(&mut seen, "10.0.0.250");
    assert_eq!(stragglers(false, &seen), "");
    comes(&mut seen, "10.0.0.249");
    assert_eq!(stragglers(false, &seen), "10.0.0.249");
}

/// Where the name leads to the master itself, its own address says nothing.
#[tokio::test(start_paused = true)]
async fn by_records_alone_everybody_is_told() {
    let mut seen = before_the_joins(true).await;
    assert_eq!(stragglers(true, &seen), "");
    comes(&mut seen, "10.0.0.11");
    comes(&mut seen, "10.0.0.249");
    assert_eq!(stragglers(true, &seen), "10.0.0.11 10.0.0.249");
}

/// Whoever was killed between a file and the process that reads it goes on there.
#[tokio::test(start_paused = true)]
async fn a_process_that_began_before_its_kubeconfig_begins_anew() {
    let open = |seen: &Observation| {
        let planning = plan(&converts(true, Some(Landmark::Kubeconfigs)), seen);
        assert_eq!(planning.refused, []);
        let stages = planning.plan.stages.iter();
        stages.map(|stage| stage.title.clone()).collect::<Vec<_>>()
    };
    let led = before_the_joins(true).await;
    assert_eq!(open(&led), Vec::<String>::new());
    for (process, stage) in [
        ("kubelet", "Lead w-1 to the endpoint"),
        ("kube-proxy", "Start kube-proxy anew on one node"),
    ] {
        let mut seen = led.clone();
        let own = told(&mut seen, "w-1");
        let mut began = own.began_with.get().expect("it looked").clone();
        began.insert(process.to_owned(), None);
        own.began_with = Seen::now(began);
        assert_eq!(open(&seen), [stage]);
    }
}
