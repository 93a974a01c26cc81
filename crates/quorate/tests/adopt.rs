//! What `quorate adopt` says of clusters that others made: every file in `adopt/` has what was recorded of one, as differences from a cluster
//! that `kubeadm init` makes, and the assessment, without what is seen of that one too. `QUORATE_BLESS=1` writes the assessments anew; read the
//! difference before it is committed.
//!
//! Lines before `---`: `# prose`; `PLACE = JSON` puts a value in its place in the observation, `PLACE + JSON` adds to a list there, `PLACE -`
//! takes something away, `PLACE ? why` makes it unknown; `kubeadm-config:` begins the ConfigMap's text, indented; `accept RISK=NODE`. In a
//! place a `~` stands for a slash, and `*` for whatever comes first.

use std::{fs, path::Path};

use quorate::{console::Paint, show};
use quorate_plan::{Goal, Intent, Missing, Observation, adopted::Adopted, planner::adoption};
use quorate_testkit::{
    World,
    drive::apply,
    fixture::{Cluster, operator},
    memory::{Script, Shared},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn foreign_clusters_are_judged() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt");
    let (intent, seen) = ordinary().await;
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut differing = String::new();
    let usual = judge(&intent, &seen, "");
    for path in &paths {
        let written = fs::read_to_string(path).unwrap();
        let (recorded, _) = written.split_once("---\n").unwrap();
        let said = judge(&intent, &seen, recorded);
        let is_usual =
            |line: &&str| line.starts_with("  ") && usual.lines().any(|one| one == *line);
        let said: String = if path.ends_with("ordinary.txt") {
            said
        } else {
            let lines = said.lines().filter(|line| !is_usual(line));
            lines.map(|line| format!("{line}\n")).collect()
        };
        let judged = format!("{recorded}---\n{said}");
        if bless {
            fs::write(path, &judged).unwrap();
        } else if judged != written {
            differing += &format!("== {}\n-- seen\n{judged}", path.display());
        }
    }
    assert!(differing.is_empty(), "{differing}");
    assert!(paths.len() >= 18, "only {} clusters", paths.len());
}

/// A cluster of one master and a worker as kubeadm makes it, and what is wanted of it.
async fn ordinary() -> (Intent, Observation) {
    let before = Cluster {
        masters: 1,
        workers: 1,
        balancers: 0,
        local: false,
        flannel: false,
        bring_up: quorate_plan::spec::BringUp::OneByOne,
        ..Cluster::default()
    };
    let shared = Shared::new(World::new(&before.spec()));
    let run = apply(&shared, &before.intent(), operator(1), Script::none()).await;
    assert_eq!(run.text(), "done");
    let after = Cluster {
        masters: 3,
        balancers: 1,
        ..before
    };
    shared.change(|world| {
        world.somebody_elses();
        world.know(&after.spec());
    });
    let intent = Intent {
        goal: Goal::Convert { pause_after: None },
        ..after.intent()
    };
    let (seams, _handle) = shared.operator(operator(2), Script::none());
    let seen = quorate_exec::observe(&seams, &intent).await;
    (intent, seen)
}

fn judge(intent: &Intent, seen: &Observation, recorded: &str) -> String {
    let mut intent = intent.clone();
    let mut seen = serde_json::to_value(seen).unwrap();
    let mut lines = recorded.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        } else if line == "kubeadm-config:" {
            let mut text = String::new();
            while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
                text += &format!("{}\n", &line[2..]);
            }
            configure(&mut seen, &text);
        } else if let Some(risk) = line.strip_prefix("accept ") {
            intent.accepted.insert(risk.parse().unwrap());
        } else if let Some((place, value)) = line.split_once(" = ") {
            *at(&mut seen, place) = serde_json::from_str(value).unwrap();
        } else if let Some((place, value)) = line.split_once(" + ") {
            let list = at(&mut seen, place).as_array_mut().expect(place);
            list.push(serde_json::from_str(value).unwrap());
        } else if let Some(place) = line.strip_suffix(" -") {
            let (above, key) = place.rsplit_once('/').unwrap();
            let taken = at(&mut seen, above).as_object_mut().unwrap().remove(key);
            assert!(taken.is_some(), "{place} is not there");
        } else if let Some((place, why)) = line.split_once(" ? ") {
            let (above, key) = place.rsplit_once('/').unwrap();
            let missing = Missing::no_answer(key, why);
            at(&mut seen, above)[key] = json!({ "unknown": missing });
        } else {
            panic!("nothing is recorded by `{line}`");
        }
    }
    let seen: Observation = serde_json::from_value(seen).unwrap();
    let adoption = adoption::assess(&intent, &seen);
    let paint = Paint { colour: false };
    show::adoption::text(&intent, &seen, &adoption, paint)
        + &show::refusal::all(&adoption.findings, paint)
}

/// kubeadm's text as the API has it.
fn configure(seen: &mut Value, text: &str) {
    let config: Value = serde_saphyr::from_str(text).unwrap();
    let text_of = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let adopted = Adopted::read(text, None).unwrap();
    *at(seen, "api/cp-1/kubeadm") = json!({
        "kubernetes": text_of("kubernetesVersion").trim_start_matches('v'),
        "endpoint": text_of("controlPlaneEndpoint"),
        "adopted": adopted,
    });
}

/// A place in an observation: what was seen stands for itself.
fn at<'a>(seen: &'a mut Value, place: &str) -> &'a mut Value {
    let mut here = seen;
    for key in place.split('/') {
        let key = key.replace('~', "/");
        here = known(match here {
            Value::Array(list) => &mut list[key.parse::<usize>().unwrap()],
            Value::Object(map) => {
                let first = || map.keys().next().expect(place).clone();
                let key = if key == "*" { first() } else { key };
                map.entry(key).or_insert(Value::Null)
            }
            other => panic!("{place}: there is nothing below {other}"),
        });
    }
    here
}

fn known(value: &mut Value) -> &mut Value {
    if value.get("known").is_some() {
        &mut value["known"]["value"]
    } else {
        value
    }
}
