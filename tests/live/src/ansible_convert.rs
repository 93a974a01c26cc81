//! Somebody else's single master becomes three by `convert.yml`, under load at its old address: first a play stops at a landmark, the next one
//! ends where somebody unknown still uses the old address, and that is taken back; then it goes all the way, and a second play has nothing to do.

use std::{fs, time::Duration};

use anyhow::Result;

use crate::{
    ansible::{ANSIBLE, OLDEST, nothing_to_do, play, settle},
    bare::Bare,
    bring_up::healthy,
    conversion::{self, Before, MASTERS},
    foreign::{BLANK, Foreign, MASTER, Shape, WORKERS},
    judge::{listings, same},
    load::Load,
    pages::{self, Reading},
    stage::{Stage, said},
};

const NAME: &str = "live-ansible-convert";
const SUBNET: &str = "172.31.73.0/24";
const CONVERT: &str = "quorate.cluster.convert";

/// What a conversion changes of the master, and puts back.
const LED: &str = "sha256sum /etc/kubernetes/pki/apiserver.crt /etc/kubernetes/*.conf";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let file = &conversion::cluster_file(stage, hosts, NAME)?;
    conversion::trusted(stage, hosts, file)?;
    settle(stage, NAME)?;
    let names = names();
    foreseen(stage, hosts, &names)?;

    let old = conversion::old_kubeconfig(stage, hosts)?;
    let load = Load::start_at(&old, None, "quorate-live-old")?;
    let before = Before::look(&foreign)?;
    let part = [("conversion by plays, at the old address", load.now())];

    there_and_back(stage, hosts)?;
    let directory = stage.directory.clone();
    let reading = Reading {
        words: &[("prod", NAME)],
        directory: &directory,
        after: &|_, _| Ok(()),
    };
    pages::run(stage, "ansible-convert", &reading)?;

    healthy(stage, file, Duration::from_secs(120))?;
    let api = conversion::api(stage, hosts, file, NAME)?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, &foreign)?;
    load.finish_unharmed(stage, &part)?;
    nothing_to_do(stage, hosts, CONVERT, file, &names)
}

/// In check mode a play says what a conversion would change, and changes nothing.
fn foreseen(stage: &mut Stage, hosts: &Bare, names: &[&str]) -> Result<()> {
    let before = listings(hosts, names)?;
    let checked = play(stage, ANSIBLE, CONVERT, &["--check", "--diff"])?;
    stage.check("a play in check mode succeeds", checked.status.success());
    stage.check(
        "it shows whom it would lead elsewhere",
        said(&checked).contains(&conversion::endpoint(NAME)),
    );
    let after = listings(hosts, names)?;
    same(stage, "and changed no file on any host", &after, &before);
    Ok(())
}

/// As far as it goes while somebody unknown uses the old address, and back: the master has the files that it had.
fn there_and_back(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let before = hosts.run(MASTER, LED)?;
    let safe = stage.directory.join("safe");
    let backup = format!("quorate_convert_backup={}", safe.display());
    let pause = [
        "-e",
        "quorate_convert_pause_after=certificate",
        "-e",
        &backup,
    ];
    let paused = play(stage, OLDEST, CONVERT, &pause)?;
    stage.check("a play stops at a landmark", paused.status.success());
    stage.check_eq(
        "and the backup came to where it was told",
        &fs::read_dir(&safe).map_or(0, Iterator::count),
        &1,
    );
    stage.check(
        "and the master has another certificate by then",
        hosts.run(MASTER, LED)? != before,
    );
    refused(stage, hosts)?;
    let undo = ["-e", "quorate_convert_undo=true"];
    let undone = play(stage, OLDEST, CONVERT, &undo)?;
    stage.check("a play takes all that back", undone.status.success());
    stage.check_eq(
        "and the master has the files that it had",
        &hosts.run(MASTER, LED)?,
        &before,
    );
    Ok(())
}

/// This machine uses the old address all the time, and nobody said that it may.
fn refused(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let refused = play(stage, ANSIBLE, CONVERT, &[])?;
    stage.check(
        "a play ends where somebody unknown uses the old address",
        !refused.status.success(),
    );
    stage.check(
        "and says why",
        said(&refused).contains("old-address-in-use"),
    );
    conversion::alone(stage, hosts)
}

fn names() -> Vec<&'static str> {
    let blank = BLANK.iter().map(|(host, _)| *host);
    MASTERS[..1]
        .iter()
        .copied()
        .chain(WORKERS)
        .chain(blank)
        .collect()
}
