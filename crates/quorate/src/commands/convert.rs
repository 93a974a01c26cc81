//! `quorate convert`: a cluster that somebody else made with one master becomes highly available, without an outage; and back.

use clap::Args;
use quorate_plan::{Goal, intent::Landmark};

use super::verb;
use crate::{
    args::BackupArgument,
    cluster::ClusterFile,
    console::Console,
    failure::Failure,
    reach::{Reach, wanted},
};

/// Lead a cluster that somebody else made with one master to an endpoint, and join masters to it.
///
/// The one master goes on serving its old address, so everybody moves one by one and nothing is restarted but kubelets of workers, whose pods
/// do not notice. Everything that is changed is kept first. Nobody joins while somebody unknown still uses the old address. Until the second
/// master votes --undo takes everything back, from wherever it was broken off. The plan is shown, and asked for once; running it again goes on
/// from what is there.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate convert -f demo.yaml -n                      the plan alone
  quorate convert -f demo.yaml --pause-after backup    prepare, keep, change nothing of the cluster
  quorate convert -f demo.yaml
  quorate convert -f demo.yaml --backup /mnt/safe --backup-recipient age1…
  quorate convert -f demo.yaml --undo
  quorate convert --accept old-address-in-use=w-1      a straggler there may stay behind
  quorate convert --retire-old-endpoint --quiet-for 7d
  quorate convert --keep-old-endpoint                  takes that back")]
pub struct Arguments {
    #[command(flatten)]
    verb: verb::VerbArguments,
    /// Take the conversion back: everything leads again to where it did. Only while one master votes.
    #[arg(long, conflicts_with = "pause_after")]
    undo: bool,
    /// After a conversion: refuse everybody but the cluster at the address that it had before. The first time who comes there is remembered
    /// from then on; once nobody came for the time of --quiet-for the same command refuses them, by a reset. Needs Quorate's own balancer.
    #[arg(long, conflicts_with_all = ["pause_after", "undo"])]
    retire_old_endpoint: bool,
    /// For how long nobody may have come by the old address: at least as long as the rarest thing that uses it pauses, like a nightly job.
    #[arg(long, value_name = "DURATION", default_value = "24h", requires = "retire_old_endpoint", value_parser = seconds)]
    quiet_for: u64,
    /// Take --retire-old-endpoint back: everybody may come by the old address again.
    #[arg(long, conflicts_with_all = ["pause_after", "undo", "retire_old_endpoint"])]
    keep_old_endpoint: bool,
    /// Stop when this is reached: backup, certificate, configuration, cluster-info, kube-proxy or kubeconfigs. None of them lies between two
    /// voting masters and three.
    #[arg(long, value_name = "LANDMARK")]
    pause_after: Option<Landmark>,
    #[command(flatten)]
    backup: BackupArgument,
}

/// A whole number of seconds, minutes, hours or days: `90s`, `10m`, `24h`, `7d`. At least a second, at most a year.
fn seconds(text: &str) -> Result<u64, String> {
    let expected = || "expected a time like 90s, 10m, 24h or 7d, at most 365d".to_owned();
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(expected)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let seconds = number.checked_mul(unit).ok_or_else(expected)?;
    (1..=365 * 86_400)
        .contains(&seconds)
        .then_some(seconds)
        .ok_or_else(expected)
}

impl Arguments {
    fn goal(&self) -> Goal {
        let pause_after = self.pause_after;
        match (self.undo, self.retire_old_endpoint, self.keep_old_endpoint) {
            (true, ..) => Goal::Unconvert,
            (_, true, _) => Goal::RetireOldAddress {
                quiet_for_s: self.quiet_for,
            },
            (.., true) => Goal::KeepOldAddress,
            (false, false, false) => Goal::Convert { pause_after },
        }
    }
}

/// Runs it.
///
/// # Errors
/// When it was refused or not done, or the cluster is not healthy afterwards.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let verb = &arguments.verb;
    verb.check("convert", console)?;
    let mut cluster = ClusterFile::read(&verb.file.file, reach.directories()?, console)?;
    cluster.backup = arguments.backup.place()?;
    cluster.say_warnings(console);
    let goal = arguments.goal();
    let intent = wanted(&cluster, goal, &verb.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    if let Goal::Convert { .. } = intent.goal {
        say_where_the_backup_goes(&cluster, console);
    }
    say_where_the_way_back_ends(&intent.goal, console);
    verb::run(verb, &cluster, &intent, &world, console, reach).await
}

/// Of a conversion, before it is begun.
pub(super) fn say_where_the_backup_goes(cluster: &ClusterFile, console: &mut Console) {
    let folder = cluster.backup_folder();
    let folder = folder.display();
    let recipients = &cluster.backup.recipients;
    console.say(if recipients.is_empty() {
        let identity = cluster.directories.backup_identity();
        format!(
            "The backup goes to `{folder}`, sealed to the identity in `{}`: keep a copy of that elsewhere, without it the backup is worth nothing.",
            identity.display()
        )
    } else {
        format!("The backup goes to `{folder}`, sealed to {}.", recipients.join(", "))
    });
}

/// Of a conversion that goes there: before it is begun.
pub(super) fn say_where_the_way_back_ends(goal: &Goal, console: &mut Console) {
    match goal {
        Goal::Convert { pause_after: None } => console.say(
            "Point of no return: the promotion of the second master. Until then `quorate convert --undo` takes everything back; from then on the way is on to the masters of the file.",
        ),
        Goal::Convert {
            pause_after: Some(_),
        }
        | Goal::Unconvert
        | Goal::RetireOldAddress { .. }
        | Goal::KeepOldAddress
        | Goal::Converge
        | Goal::Replace { .. }
        | Goal::Remove { .. }
        | Goal::Repair => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_whole_and_bounded() {
        for (text, expected) in [("90s", 90), ("10m", 600), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(super::seconds(text), Ok(expected));
        }
        for wrong in [
            "",
            "s",
            "0s",
            "1",
            "1.5h",
            "-1h",
            "366d",
            "1w",
            "99999999999999999999d",
            "1é",
        ] {
            super::seconds(wrong).unwrap_err();
        }
    }
}
