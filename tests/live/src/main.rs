//! Live cases: real hosts, real Kubernetes, the real `quorate` binary as a person would run it, and checks that do not trust it.
//!
//! `quorate-live CASE` runs one; `cargo xtask test` runs them in their tiers. Start at [`CASES`]; what a case has at hand is in
//! [`stage`]. Every case makes its own hosts and removes them again, also after a failure, and compares the machine before and after.

mod adopted;
mod ansible;
mod ansible_convert;
mod ansible_packages;
mod apt_repository;
mod bad_hosts;
mod bare;
mod bench;
mod bench_convert;
mod bench_orchestrate;
mod blocks;
mod bring_up;
mod conversion;
mod convert;
mod convert_alike;
mod convert_away;
mod convert_back;
mod convert_census;
mod convert_odd;
mod convert_outside;
mod convert_retire;
mod convert_terraform;
mod convert_ways;
mod disks;
mod drills;
mod file_server;
mod foreign;
mod founders;
mod guard;
mod host_state;
mod judge;
mod killed;
mod kin;
mod leaver;
mod load;
mod masters;
mod nlb;
mod pages;
mod readme;
mod shared_address;
mod ssh_serial;
mod stage;
mod workload;

use std::process::ExitCode;

use stage::Stage;

/// A case by name. `list` prints these for xtask: name, tier, budget in seconds, Kubernetes version, sentence.
const CASES: &[Case] = &[
    Case {
        name: "bring-up",
        full: false,
        budget_s: 345,
        kubernetes: None,
        about: "three masters founded together, second apply, power-loss drills, everything off and on again",
        run: bring_up::run,
    },
    Case {
        name: "killed",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "apply killed at every step, started again each time, ends in the same cluster",
        run: killed::run,
    },
    Case {
        name: "ssh-serial",
        full: false,
        budget_s: 205,
        kubernetes: None,
        about: "hosts that somebody has: keys compared and pinned, a user with sudo, masters joining one by one, one of them replaced",
        run: ssh_serial::run,
    },
    Case {
        name: "bad-hosts",
        full: false,
        budget_s: 190,
        kubernetes: None,
        about: "what must be refused is, with the right exit code and words, and nothing changed on any host",
        run: bad_hosts::run,
    },
    Case {
        name: "guard",
        full: false,
        budget_s: 275,
        kubernetes: None,
        about: "each master boots with an emptied etcd directory: it stays out of etcd, the balancer and the endpoints",
        run: guard::run,
    },
    Case {
        name: "replace",
        full: false,
        budget_s: 385,
        kubernetes: None,
        about: "under load: a dead master is replaced, the healthy leader, and one that is cut off and comes back",
        run: masters::replaced,
    },
    Case {
        name: "count",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "under load: a join killed half way is taken back, two operators at once, three masters to five and back",
        run: masters::counted,
    },
    Case {
        name: "broken-off",
        full: true,
        budget_s: 600,
        kubernetes: None,
        about: "under load: apply killed at every step while a master is swapped and three become five and three again",
        run: masters::broken_off,
    },
    Case {
        name: "founders",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "founders are made anew in the middle of a founding: one of three, which joins; two of three, and it begins again",
        run: founders::run,
    },
    Case {
        name: "convert",
        full: false,
        budget_s: 320,
        kubernetes: None,
        about: "under load at both addresses: a single master made by kubeadm becomes three, then it loses power",
        run: convert::run,
    },
    Case {
        name: "convert-1.34",
        full: true,
        budget_s: 420,
        kubernetes: Some("1.34.4"),
        about: "as `convert`, with the oldest Kubernetes that is supported",
        run: convert::run,
    },
    Case {
        name: "convert-1.36",
        full: true,
        budget_s: 420,
        kubernetes: Some("1.36.3"),
        about: "as `convert`, with the newest Kubernetes that is supported",
        run: convert::run,
    },
    Case {
        name: "convert-census",
        full: false,
        budget_s: 295,
        kubernetes: None,
        about: "under load at both addresses: a conversion ends at a straggler that it names, and is taken back without a failed request",
        run: convert_census::run,
    },
    Case {
        name: "shared-address",
        full: true,
        budget_s: 480,
        kubernetes: None,
        about: "under load: a single master becomes three that share an address; who holds it loses power, then it is replaced by another host",
        run: shared_address::run,
    },
    Case {
        name: "convert-back",
        full: true,
        budget_s: 660,
        kubernetes: None,
        about: "under load: a conversion is taken back from every landmark, then done by runs that are each killed at their next step",
        run: convert_back::run,
    },
    Case {
        name: "convert-odd",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "a cluster made long ago and edited by hand: mended as it is said, a straggler, a join that fails half way, then three masters",
        run: convert_odd::run,
    },
    Case {
        name: "convert-alike",
        full: true,
        budget_s: 360,
        kubernetes: None,
        about: "hosts of a cluster that was converted are those of one that apply makes: files, flags, units, settings and images",
        run: convert_alike::run,
    },
    Case {
        name: "convert-away",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "a conversion with a worker away, taken over by a second operator while the first sleeps",
        run: convert_away::run,
    },
    Case {
        name: "convert-retire",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "under load: the old address is refused to others once nobody came for a while, over a loss of power, and opened again",
        run: convert_retire::run,
    },
    Case {
        name: "convert-ways",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "a single master behind its owner's balancer and behind records of DNS up to the census and back, then under load three behind a stand-in for AWS's",
        run: convert_ways::run,
    },
    Case {
        name: "convert-outside",
        full: true,
        budget_s: 690,
        kubernetes: None,
        about: "a single master all the way behind a balancer of its owner's, and another by records of DNS alone; each time the first master loses power",
        run: convert_outside::run,
    },
    Case {
        name: "convert-terraform",
        full: true,
        budget_s: 540,
        kubernetes: None,
        about: "under load: a Terraform repository with a single master adopts the module, and its cluster becomes three as the guide shows it; Terraform is real, AWS a stand-in",
        run: convert_terraform::run,
    },
    Case {
        name: "kubeadm-kin",
        full: true,
        budget_s: 420,
        kubernetes: None,
        about: "kubeadm's own joins, resets, renewals and upgrade plans work on what was founded together; all hosts reboot",
        run: kin::run,
    },
    Case {
        name: "drills",
        full: true,
        budget_s: 540,
        kubernetes: None,
        about: "every drill in rounds: leader, follower, a master by name, power and freeze; reports as JSON; refused drills",
        run: drills::run,
    },
    Case {
        name: "ansible",
        full: true,
        budget_s: 900,
        kubernetes: None,
        about: "blank hosts become a cluster by the Ansible collection, after plays that are killed; masters join, not with one down; apply makes the same hosts",
        run: ansible::run,
    },
    Case {
        name: "ansible-convert",
        full: true,
        budget_s: 900,
        kubernetes: None,
        about: "under load at the old address: plays lead somebody else's master half way and back, end at a straggler, then make three",
        run: ansible_convert::run,
    },
    Case {
        name: "ansible-packages",
        full: true,
        budget_s: 900,
        kubernetes: None,
        about: "blank Debian hosts become a cluster by plays, from signed packages: not from forged ones, after a loss of power in apt; apply makes the same hosts",
        run: ansible_packages::run,
    },
    Case {
        name: "readme",
        full: false,
        budget_s: 140,
        kubernetes: None,
        about: "README's first session, as it stands there",
        run: readme::run,
    },
    Case {
        name: "guide",
        full: true,
        budget_s: 300,
        kubernetes: None,
        about: "the guide's cluster on this machine, as it stands there",
        run: readme::guide,
    },
    Case {
        name: "quickstart",
        full: true,
        budget_s: 600,
        kubernetes: None,
        about: "README's first command in a fresh clone, cold but for the builds, and warm",
        run: readme::quickstart,
    },
];

struct Case {
    name: &'static str,
    full: bool,
    budget_s: u64,
    /// The Kubernetes version that it is about. `None`: the one that everything is tested with, which xtask knows.
    kubernetes: Option<&'static str>,
    about: &'static str,
    run: fn(&mut Stage) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        for case in CASES {
            println!(
                "{}\t{}\t{}\t{}\t{}",
                case.name,
                if case.full { "full" } else { "main" },
                case.budget_s,
                case.kubernetes.unwrap_or("-"),
                case.about
            );
        }
        return ExitCode::SUCCESS;
    }
    let Some(case) = CASES
        .iter()
        .chain(bench::BENCHES)
        .find(|case| case.name == name)
    else {
        eprintln!("no live case is called `{name}`; `list` shows them");
        return ExitCode::from(2);
    };
    match stage::perform(case.name, case.run) {
        Ok((passed, failed)) => {
            println!("{passed} passed, {failed} failed");
            if failed == 0 && passed > 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
