//! The old address of a converted cluster is refused to others once they stayed away for a while, stays so when the rules are loaded anew and
//! over a loss of power, and is opened again.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use anyhow::Result;

use crate::{
    conversion::{
        MASTERS, STRAGGLER, api, balancer, cluster_file, new_kubeconfig, old_kubeconfig, trusted,
    },
    foreign::{Foreign, MASTER, Shape, WORKERS},
    load::Load,
    stage::{Stage, said, tail},
};

const NAME: &str = "live-retire";
const SUBNET: &str = "172.31.75.0/24";
/// This machine, as the hosts see it.
const OPERATOR: &str = "172.31.75.1";

/// How long nobody may have come.
const QUIET: &str = "20s";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let balancer = balancer(hosts)?;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    let old = &old_kubeconfig(stage, hosts)?;
    let retire = retire(file);

    let early = stage.quorate(&retire)?;
    stage.check_eq(
        "before the conversion nobody is refused at the only address",
        &early.status.code(),
        &Some(3),
    );
    names(stage, "and it says so", &said(&early), &["not-convertible"]);
    let at_old = Load::start_at(old, None, "quorate-live-old")?;
    let part_old = [("a client at the old address", at_old.now())];
    stage.succeed(&["convert", "--accept", STRAGGLER, "--yes", "-f", file])?;
    let api = api(stage, hosts, file, NAME)?;
    let new = &new_kubeconfig(stage, old, file)?;

    connected(stage, file)?;
    at_old.finish_unharmed(stage, &part_old)?;
    let load = Load::start_at(new, Some(balancer), "quorate-live-retire")?;
    let parts = [("the old address retires", load.now())];
    retires(stage, &foreign, file, old)?;
    load.finish_unharmed(stage, &parts)?;
    power_comes_back(stage, &foreign, old, |stage| {
        api.ready(stage).is_ok_and(|ready| {
            let all = MASTERS.iter().chain(&WORKERS);
            ready == all.map(|node| (*node).to_owned()).collect::<BTreeSet<_>>()
        })
    })?;

    let load = Load::start_at(new, Some(balancer), "quorate-live-keep")?;
    let parts = [("the old address is kept again", load.now())];
    stage.succeed(&keep(file))?;
    stage.check("taken back, everybody is let in again", comes(stage, old));
    let left = hosts.run(
        MASTER,
"(nft list tables; ls /etc/systemd/system /var/lib/quorate) | grep -E 'quorate-old|old-address' || true",
    )?;
    stage.check_eq("and nothing of the rule is left", &left.trim(), &"");
    let again = stage.succeed(&keep(file))?;
    nothing_to_do(stage, "to keep it again", &said(&again));
    load.finish_unharmed(stage, &parts)?;
    Ok(())
}

fn retire(file: &str) -> [&str; 7] {
    [
        "convert",
        "--retire-old-endpoint",
        "--quiet-for",
        QUIET,
        "--yes",
        "-f",
        file,
    ]
}

fn keep(file: &str) -> [&str; 5] {
    ["convert", "--keep-old-endpoint", "--yes", "-f", file]
}

/// Somebody is connected to the old address: nothing is begun.
fn connected(stage: &mut Stage, file: &str) -> Result<()> {
    let refused = stage.quorate(&retire(file))?;
    stage.check_eq(
        "while somebody is connected to the old address it is not retired",
        &refused.status.code(),
        &Some(3),
    );
    let words = ["old-address-in-use", OPERATOR];
    names(stage, "who is so is named", &said(&refused), &words);
    Ok(())
}

fn retires(stage: &mut Stage, foreign: &Foreign, file: &str, old: &Path) -> Result<()> {
    let retire = retire(file);
    let first = stage.succeed(&retire)?;
    let words = ["Remember who comes", "nobody is refused", "if nobody comes"];
    names(
        stage,
        "it remembers first, and says what to do then",
        &said(&first),
        &words,
    );
    let waits = stage.succeed(&retire)?;
    nothing_to_do(stage, "while the time runs", &said(&waits));
    names(
        stage,
        "and it says how long it does",
        &said(&waits),
        &["if nobody comes till then"],
    );
    stage.check(
        "who comes by the old address is let in still",
        comes(stage, old),
    );
    let refused = stage.quorate(&retire)?;
    stage.check_eq(
        "and is a reason not to refuse others there",
        &refused.status.code(),
        &Some(3),
    );
    let words = ["old-address-in-use", OPERATOR];
    names(stage, "by its address", &said(&refused), &words);
    stage.wait(
        "once nobody came for a while others are refused",
        Duration::from_secs(120),
        |stage| {
            let done = stage.quorate(&retire);
            done.is_ok_and(|done| done.status.success() && said(&done).contains("are refused at"))
        },
    );
    stage.check("this machine is", !comes(stage, old));
    let again = stage.succeed(&retire)?;
    nothing_to_do(stage, "once others are refused", &said(&again));
    names(
        stage,
        "and it names who tried",
        &said(&again),
        &["tried by", OPERATOR],
    );
    // What systemd does at a boot, on a master whose rules are gone.
    foreign.hosts.run(
        MASTER,
        "nft delete table ip quorate-old-address && systemctl restart quorate-old-address",
    )?;
    stage.check("also after the rules were loaded anew", !comes(stage, old));
    let address = foreign.hosts.address(MASTER)?;
    for host in MASTERS.into_iter().chain(WORKERS).chain(["lb-1"]) {
        let answers = foreign.hosts.run(
            host,
            &format!("curl -sk --max-time 10 https://{address}:6443/livez"),
        )?;
        stage.check_eq(&format!("{host} still reaches it"), &answers.trim(), &"ok");
    }
    let ready = foreign.on_master("kubectl get nodes --no-headers | grep -cw Ready")?;
    stage.check_eq("every node is Ready", &ready.trim(), &"5");
    Ok(())
}

/// The master loses power, comes back, and refuses others still.
fn power_comes_back(
    stage: &mut Stage,
    foreign: &Foreign,
    old: &Path,
    ready: impl FnMut(&Stage) -> bool,
) -> Result<()> {
    foreign.hosts.power_off(MASTER)?;
    foreign.hosts.power_on(MASTER)?;
    stage.wait(
        "the master serves after a loss of power",
        Duration::from_secs(120),
        |_| {
            let serves = "curl -sk --max-time 5 https://127.0.0.1:6443/readyz | grep -qx ok";
            foreign.hosts.holds(MASTER, serves)
        },
    );
    stage.check("and others are refused there still", !comes(stage, old));
    stage.wait("every node is Ready", Duration::from_secs(120), ready);
    Ok(())
}

fn nothing_to_do(stage: &mut Stage, when: &str, words: &str) {
    let none = words.to_lowercase().contains("nothing to do");
    stage.check(&format!("there is nothing to do {when}"), none);
    if !none {
        stage.say(&tail(words, 40));
    }
}

fn names(stage: &mut Stage, what: &str, words: &str, expected: &[&str]) {
    let all = expected.iter().all(|one| words.contains(one));
    stage.check(what, all);
    if !all {
        stage.say(&format!("expected {expected:?} in\n{}", tail(words, 40)));
    }
}

/// Whether the API answers this machine at the old address.
fn comes(stage: &Stage, old: &Path) -> bool {
    Command::new(stage.bundle.join("bin/kubectl"))
        .args(["--request-timeout=10s", "get", "--raw", "/livez"])
        .arg("--kubeconfig")
        .arg(old)
        .output()
        .is_ok_and(|answer| answer.status.success())
}
