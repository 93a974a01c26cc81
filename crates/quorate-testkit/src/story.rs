//! Operators' stories: a file of prose, commands and what they print, driven against a world in memory. Start at [`tell`].
//!
//! A line that begins with `#` is prose, one that begins with `> ` is a command, and the lines after a command are what it prints. `tell`
//! runs the commands and gives the file back with what they print now: it is the same file when nothing changed.
//!
//! | command | does |
//! |---|---|
//! | `cluster masters=3 workers=0 balancers=1 bring-up=together hosts=local swap=3:4` | writes the cluster file, here with `cp-4` in the place of `cp-3` (`swap=none`: nobody), `balancers=shared` (the masters balance, behind 10.0.0.9), `cni=none`, `volumes=etcd` (etcd's data has a disk of its own), `kubernetes=1.36.0`, `bundle=1.36.0` (which one there is), `endpoint=NAME`; machines that are new in it get known |
//! | `plan [VERB]`, `status` | what they say |
//! | `apply`, `replace NODE [--with HOST]`, `remove NODE`, `repair`, `convert [--undo] [--pause-after LANDMARK]`, each `[as NAME] [FAULT WORDS]` | runs the plan of that verb; `kill-before`, `kill-during`, `kill-after`, `drop-reply` or `sleep-before` happens to the first effect that has these words |
//! | `accept RISK=NODE` | from now on |
//! | `forget` | the operator's machine no longer knows the hosts of earlier files |
//! | `wake NAME` | the machine of an operator that slept goes on |
//! | `power-off HOST`, `power-on HOST`, `freeze HOST`, `thaw HOST` | as it says |
//! | `old-data HOST` | data of a forgotten cluster lies on the host |
//! | `volume HOST`, `volume HOST holds WORD` | what is on etcd's disk there; and somebody puts something else, or `nothing`, on it |
//! | `lose-etcd-data HOST` | its data directory is empty after a power cycle |
//! | `cut HOST [for SECONDS]`, `mend HOST` | neither its peers nor the operator reach it, and it goes on; and they do again |
//! | `ask HOST to remove NODE [with nobody next]`, `ask HOST to reset` | somebody's own program takes the fence of a host, and asks it for that, saying no change that it is, or that one |
//! | `balancer-silent`, `balancer-leads` | behind a balancer of the user's own (`balancers=0`) nobody is registered; and the masters are |
//! | `nlb slow SECONDS`, `nlb blind`, `nlb sees`, `nlb silent`, `nlb answers`, `nlb forget HOST` | with `balancers=nlb`: how long its targets take; its probes reach nobody; the cloud answers nobody; somebody takes a target out by hand |
//! | `targets` | what the cloud tells of them |
//! | `unresolve` | the endpoint's name resolves nowhere |
//! | `record ADDRESS`, `record-gone ADDRESS` | somebody adds a record to the endpoint's name; and removes it |
//! | `unreach HOST` | the operator alone does not reach it |
//! | `reinstall HOST` | a blank machine of the same name and address |
//! | `set HOST disk-ms=9 disk-mib=100 database-mib=1900 lag=6000 etcd=3.5.1 cpus=1 clock-ms=9000 port=6443 mark=other authority=other` | what it is like, and what it carries |
//! | `alarm HOST KIND` | its etcd raises it |
//! | `edit HOST FILE FLAG` | somebody writes into a static pod manifest |
//! | `somebody-elses` | the cluster of one master was made by somebody else, and nothing tells of Quorate |
//! | `straggler HOST PROGRAM`, `straggler-gone HOST` | somebody's program there is connected to the master's old address; and no more |
//! | `pod-network NAMESPACE/NAME` | that DaemonSet is the foreign cluster's pod network |
//! | `stores KIND NAMESPACE/NAME`, `stores-nothing` | an object of the cluster holds the master's old address; and none does any more |
//! | `old-peer-url`, `new-peer-url` | the only member is announced as 127.0.0.1; and as it should be |
//! | `add-learner URL` | somebody adds a member by hand |
//! | `leave-behind node NAME ADDRESS`, `… endpoint ADDRESS`, `… backend NAME ADDRESS`, `… secrets` | somebody went without clearing up |
//! | `wait SECONDS` | time passes |
//! | `members` | etcd's members, as it has them |
//! | `remember`, `compare` | what lasts of the world is the same as at `remember` |

mod hands;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    rc::Rc,
    time::Duration,
};

use quorate_exec::{HostError, Hosts as _, consider, observe};
use quorate_plan::{
    Acceptance, Change, Claim, Event, Fence, Goal, HostEnsure, Intent, Missing, NodeName, Operator,
    Request,
    assessment::assess,
    event::Verdict,
    spec::{BringUp, Machine},
};
use tokio::task::JoinHandle;

use crate::{
    World,
    drive::approve,
    fixture::{Cluster, bundle, node},
    memory::{Fault, OperatorHandle, Script, Shared},
    render,
};

/// Runs a story and gives it back with what its commands print now. Needs a [`tokio::task::LocalSet`].
///
/// # Panics
/// When a line is no command: the story's author wants to know.
pub async fn tell(text: &str) -> String {
    let mut out = String::new();
    let mut stage = Stage::default();
    let mut in_output = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            in_output = true;
            writeln!(out, "{line}").expect("a String takes everything");
            out.push_str(&stage.act(command).await);
        } else if line.is_empty() || line.starts_with('#') {
            in_output = false;
            writeln!(out, "{line}").expect("a String takes everything");
        } else {
            assert!(
                in_output,
                "`{line}` is neither prose nor a command's output"
            );
        }
    }
    out
}

/// An operator whose machine sleeps.
struct Sleeper {
    handle: OperatorHandle,
    run: JoinHandle<Verdict>,
    told: Rc<RefCell<Vec<Event>>>,
}

#[derive(Default)]
struct Stage {
    cluster: Cluster,
    shared: Option<Shared>,
    runs: u32,
    sleepers: BTreeMap<String, Sleeper>,
    remembered: Option<String>,
    /// Masters of every file there was, as far as the operator's machine remembers.
    masters: BTreeMap<NodeName, Machine>,
    accepted: BTreeSet<Acceptance>,
    /// What the file says now in place of what it said.
    kubernetes: Option<String>,
    bundle: Option<String>,
    endpoint: Option<String>,
}

impl Stage {
    fn shared(&self) -> &Shared {
        self.shared
            .as_ref()
            .expect("a story begins with the cluster file")
    }

    fn intent(&self) -> Intent {
        let mut intent = self.cluster.intent();
        intent.retired.clone_from(&self.masters);
        intent
            .retired
            .retain(|node, _| intent.spec.machine(node).is_none());
        intent.accepted.clone_from(&self.accepted);
        if let Some(version) = &self.kubernetes {
            intent.spec.kubernetes.clone_from(version);
        }
        if let Some(version) = &self.bundle {
            intent.bundle = bundle(version);
        }
        if let Some(host) = &self.endpoint {
            intent.spec.endpoint.host.clone_from(host);
        }
        intent
    }

    /// The verb in front of some words, and the rest of them.
    async fn goal<'a>(&mut self, words: &'a [&'a str]) -> Result<(Goal, &'a [&'a str]), Missing> {
        Ok(match words {
            ["replace", name, "--with", with, rest @ ..] => {
                (self.replaces(name, Some(node(with))).await?, rest)
            }
            ["replace", name, rest @ ..] => (self.replaces(name, None).await?, rest),
            ["remove", name, rest @ ..] => (Goal::Remove { node: node(name) }, rest),
            ["repair", rest @ ..] => (Goal::Repair, rest),
            ["convert", "--undo", rest @ ..] => (Goal::Unconvert, rest),
            ["convert", "--retire-old-endpoint", seconds, rest @ ..] => {
                let quiet_for_s = seconds.parse().expect("a number of seconds");
                (Goal::RetireOldAddress { quiet_for_s }, rest)
            }
            ["convert", "--keep-old-endpoint", rest @ ..] => (Goal::KeepOldAddress, rest),
            ["convert", "--pause-after", landmark, rest @ ..] => {
                let landmark = landmark.parse().expect("a landmark");
                let pause_after = Some(landmark);
                (Goal::Convert { pause_after }, rest)
            }
            ["convert", rest @ ..] => (Goal::Convert { pause_after: None }, rest),
            ["apply", rest @ ..] => (Goal::Converge, rest),
            rest => (Goal::Converge, rest),
        })
    }

    async fn replaces(&mut self, name: &str, with: Option<NodeName>) -> Result<Goal, Missing> {
        let intent = self.intent();
        let operator = self.operator("ada");
        let (seams, _handle) = self.shared().operator(operator, Script::none());
        let seen = observe(&seams, &intent).await;
        Goal::replace(&intent, node(name), with, &seen)
    }

    async fn act(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let argument = |at: usize| {
            *words
                .get(at)
                .unwrap_or_else(|| panic!("`{command}` lacks a word"))
        };
        match words[0] {
            "cluster" => self.write_file(&words[1..]),
            "plan" => self.plan(&words[1..]).await,
            "volume" if words.len() == 2 => self.volume(&node(argument(1))),
            "apply" | "replace" | "remove" | "repair" | "convert" => self.run(&words).await,
            "accept" => {
                let risk = argument(1).parse();
                self.accepted
                    .insert(risk.expect("a risk that can be accepted"));
                String::new()
            }
            "forget" => {
                self.masters.clear();
                String::new()
            }
            "wake" => self.wake(argument(1)).await,
            "status" => self.status().await,
            "cut" if words.get(2) == Some(&"for") => {
                let seconds = argument(3).parse().expect("a number of seconds");
                let time = Duration::from_secs(seconds);
                self.shared().cut(&node(argument(1)), time);
                String::new()
            }
            "wait" => {
                let seconds = argument(1).parse().expect("a number of seconds");
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                String::new()
            }
            "ask" => self.ask(argument(1), &words[3..]).await,
            "members" => self.members(),
            "targets" => self.targets(),
            "remember" => {
                self.remembered = Some(render::lasting(&self.shared().world()));
                String::new()
            }
            "compare" => {
                let then = self.remembered.as_ref().expect("`remember` comes first");
                let now = render::lasting(&self.shared().world());
                match render::first_difference(then, &now) {
                    None => "the same\n".into(),
                    Some(difference) => format!("different:\n{difference}\n"),
                }
            }
            _ => {
                let done = self.shared().change(|world| hands::lend(world, &words));
                assert!(done, "`{command}` is no command");
                String::new()
            }
        }
    }

    fn write_file(&mut self, words: &[&str]) -> String {
        for word in words {
            let (key, value) = word.split_once('=').expect("key=value");
            let number = || value.parse().expect("a number");
            match (key, value) {
                ("masters", _) => self.cluster.masters = number(),
                ("workers", _) => self.cluster.workers = number(),
                ("balancers", "dns") => (self.cluster.balancers, self.cluster.dns) = (0, true),
                ("balancers", "nlb") => (self.cluster.balancers, self.cluster.nlb) = (0, true),
                ("balancers", "shared") => self.cluster.shared = true,
                ("balancers", _) => {
                    (self.cluster.balancers, self.cluster.shared) = (number(), false);
                }
                ("bring-up", "together") => self.cluster.bring_up = BringUp::Together,
                ("bring-up", "one-by-one") => self.cluster.bring_up = BringUp::OneByOne,
                ("hosts", "local") => self.cluster.local = true,
                ("hosts", "given") => self.cluster.local = false,
                ("volumes", "etcd") => self.cluster.volumes = true,
                ("cni", "flannel") => self.cluster.flannel = true,
                ("cni", "none") => self.cluster.flannel = false,
                ("kubernetes", _) => self.kubernetes = Some(value.to_owned()),
                ("bundle", _) => self.bundle = Some(value.to_owned()),
                ("endpoint", _) => self.endpoint = Some(value.to_owned()),
                ("swap", "none") => self.cluster.swaps = [(0, 0); 2],
                ("swap", _) => {
                    let pair = |text: &str| {
                        let (goes, comes) = text.split_once(':').expect("3:4");
                        let number = |text: &str| text.parse().expect("a number");
                        (number(goes), number(comes))
                    };
                    let mut pairs = value.split(',').map(pair);
                    self.cluster.swaps = [(); 2].map(|()| pairs.next().unwrap_or_default());
                }
                _ => panic!("`{word}` is nothing a cluster file says"),
            }
        }
        let spec = self.cluster.spec();
        self.masters.extend(spec.control_plane.clone());
        match &self.shared {
            Some(shared) => shared.change(|world| world.know(&spec)),
            None => self.shared = Some(Shared::new(World::new(&spec))),
        }
        String::new()
    }

    fn operator(&mut self, name: &str) -> Operator {
        self.runs += 1;
        Operator {
            user: name.into(),
            machine: "laptop".into(),
            pid: 1000 + self.runs,
            run: format!("run-{}", self.runs),
        }
    }

    async fn plan(&mut self, words: &[&str]) -> String {
        let goal = match self.goal(words).await {
            Ok((goal, _)) => goal,
            Err(missing) => return format!("cannot be seen: {missing}\n"),
        };
        let intent = Intent {
            goal,
            ..self.intent()
        };
        let operator = self.operator("ada");
        let (seams, _handle) = self.shared().operator(operator, Script::none());
        let (_, planning) = consider(&seams, &intent, &mut |_, _| {}).await;
        render::planning(&planning)
    }

    fn volume(&self, host: &NodeName) -> String {
        let world = self.shared().world();
        let machine = world.machine(host);
        let volume = machine.volume.as_ref().expect("a host with such a disk");
        let data = if machine.disk.volume_in_place {
            machine.disk.etcd.as_ref()
        } else {
            volume.data.as_ref()
        };
        let mark = volume.mark.as_ref();
        format!(
            "holds {:?}, {}, {} member's data, {} moved aside\n",
            volume.holds,
            mark.map_or("nobody's".into(), ToString::to_string),
            data.map_or("no", |_| "a"),
            volume.aside.len()
        )
    }

    async fn status(&mut self) -> String {
        let intent = self.intent();
        let operator = self.operator("ada");
        let (seams, _handle) = self.shared().operator(operator, Script::none());
        let assessment = assess(&intent, &observe(&seams, &intent).await);
        let mut told = render::assessment(&assessment);
        if let Some(shared) = &assessment.shared_address {
            let holders: Vec<&str> = shared.holders.iter().map(NodeName::as_str).collect();
            let _ = writeln!(told, "{}: held by {}", shared.address, holders.join(", "));
        }
        told
    }

    async fn run(&mut self, words: &[&str]) -> String {
        let (goal, mut words) = match self.goal(words).await {
            Ok(parsed) => parsed,
            Err(missing) => return format!("cannot be seen: {missing}\n"),
        };
        let intent = Intent {
            goal,
            ..self.intent()
        };
        let mut name = "ada";
        if let ["as", who, rest @ ..] = words {
            (name, words) = (who, rest);
        }
        let script = match words {
            [] => Script::none(),
            [what, at @ ..] => {
                let fault = match *what {
                    "kill-before" => Fault::KillBefore,
                    "kill-during" => Fault::KillDuring,
                    "kill-after" => Fault::KillAfter,
                    "drop-reply" => Fault::DropReply,
                    "sleep-before" => Fault::Sleep,
                    other => panic!("`{other}` is nothing that apply knows"),
                };
                assert!(!at.is_empty(), "`{what}` needs the words of an effect");
                Script::on(&at.join(" "), fault)
            }
        };
        let (name, operator) = (name.to_owned(), self.operator(name));
        let (seams, handle) = self.shared().operator(operator.clone(), script);
        let approved = match approve(&seams, &intent).await {
            Ok(approved) => approved,
            Err(refused) => return format!("{}\n", render::verdict(&refused)),
        };
        let told = Rc::new(RefCell::new(Vec::new()));
        let run = tokio::task::spawn_local({
            let told = told.clone();
            async move {
                let stop = quorate_exec::StopSignal::new();
                let mut emit = |event| told.borrow_mut().push(event);
                quorate_exec::run(&approved, &intent, &seams, &operator, &stop, &mut emit).await
            }
        });
        let mut sleeper = Sleeper { handle, run, told };
        let handle = sleeper.handle.clone();
        let verdict = tokio::select! {
            biased;
            () = handle.killed() => None,
            () = handle.asleep() => {
                let said = said(&sleeper.told, None, &format!("{name}'s machine sleeps"));
                self.sleepers.insert(name, sleeper);
                return said;
            }
            verdict = &mut sleeper.run => Some(verdict.expect("a run does not panic")),
        };
        sleeper.run.abort();
        sleeper.handle.kill();
        let end = match &verdict {
            Some(verdict) => render::verdict(verdict),
            None => "killed".into(),
        };
        said(&sleeper.told, verdict.as_ref(), &end)
    }

    async fn wake(&mut self, name: &str) -> String {
        let sleeper = self
            .sleepers
            .remove(name)
            .unwrap_or_else(|| panic!("{name} does not sleep"));
        sleeper.told.borrow_mut().clear();
        sleeper.handle.wake();
        let verdict = sleeper.run.await.expect("a run does not panic");
        sleeper.handle.kill();
        said(&sleeper.told, Some(&verdict), &render::verdict(&verdict))
    }

    async fn ask(&mut self, on: &str, what: &[&str]) -> String {
        let (on, intent, operator) = (node(on), self.intent(), self.operator("eve"));
        let world = self.shared().world();
        let mut change = None;
        let ensure = match what {
            ["remove", whom, said @ ..] => {
                let mut members = world.clusters.values().flat_map(|of| of.members.iter());
                let (member, told) = members
                    .find(|(_, member)| member.name == *whom)
                    .unwrap_or_else(|| panic!("{whom} is no member"));
                if *said == ["with", "nobody", "next"] {
                    let (id, next) = (*member, None);
                    change = Some(Change::RemoveMember { id, next });
                }
                HostEnsure::MemberGone {
                    member: *member,
                    peer_urls: [told.peer_url.clone()].into(),
                }
            }
            ["reset"] => HostEnsure::Reset {
                node: intent.spec.peer(&on).expect("a host of the file"),
            },
            other => panic!("nobody asks a host to {other:?}"),
        };
        let fence = Fence(world.machine(&on).disk.fence.0 + 1);
        let (seams, handle) = self.shared().operator(operator.clone(), Script::none());
        let testimony = observe(&seams, &intent).await;
        let claim = Claim {
            fence,
            operator,
            since: 0,
            intent,
        };
        let taken = seams.hosts.claim(&on, &claim).await;
        taken.expect("nobody else is at it");
        let request = Request {
            fence,
            ensure,
            change,
            sealed: Vec::new(),
            receipt: None,
            accepted: BTreeSet::new(),
            testimony,
        };
        let answer = seams.hosts.ensure(&on, request, &mut |_| {}).await;
        let released = seams.hosts.release(&on, fence).await;
        released.expect("it was taken");
        handle.kill();
        match answer {
            Ok(_) => "done\n".into(),
            Err(HostError::Refused { refusal, .. }) => {
                let refusals = vec![*refusal];
                format!("{}\n", render::verdict(&Verdict::Refused { refusals }))
            }
            Err(other) => format!("{other}\n"),
        }
    }

    fn targets(&self) -> String {
        let mut out = String::new();
        for (node, target) in self.shared().world().targets() {
            match target.get() {
                Ok(target) => writeln!(out, "{node} {target}"),
                Err(missing) => writeln!(out, "{missing}"),
            }
            .expect("a String takes everything");
        }
        for violation in self.shared().violations() {
            writeln!(out, "VIOLATION: {violation}").expect("a String takes everything");
        }
        out
    }

    fn members(&self) -> String {
        let mut out = String::new();
        let world = self.shared().world();
        for (id, cluster) in &world.clusters {
            let leads = if cluster.leader.is_some() {
                "led"
            } else {
                "without a leader"
            };
            writeln!(out, "cluster {id}, {leads}").expect("a String takes everything");
            let mut members: Vec<_> = cluster.members.values().collect();
            members.sort_by_key(|member| &member.peer_url);
            for member in members {
                let kind = if member.learner { "learner" } else { "voter" };
                let name = if member.name.is_empty() {
                    "never started"
                } else {
                    &member.name
                };
                writeln!(out, "  {kind} {name} at {}", member.peer_url)
                    .expect("a String takes everything");
            }
        }
        if out.is_empty() {
            out.push_str("no etcd\n");
        }
        out
    }
}

/// The stages that began, and the end.
fn said(told: &RefCell<Vec<Event>>, verdict: Option<&Verdict>, end: &str) -> String {
    let mut out = String::new();
    for event in told.borrow().iter() {
        if let Event::StageStarted { number, title, .. } = event {
            writeln!(out, "{number}. {title}").expect("a String takes everything");
        }
    }
    if verdict == Some(&Verdict::Done) && out.is_empty() {
        return "nothing to do\n".into();
    }
    writeln!(out, "{end}").expect("a String takes everything");
    out
}
