//! Plans that Terraform made of the examples, with the real AWS provider against a stand-in (`terraform/tests/record_plans.py`), judged.

#[path = "../../quorate-plan/tests/seeing/mod.rs"]
mod seeing;

use std::{fs, path::Path};

use quorate_infra::{
    Code, Finding, PlanError, Severity, TerraformPlan,
    terraform::{Cluster, lint},
};
use quorate_plan::{Observation, Spec};

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/plans")
        .join(format!("{name}.json"));
    fs::read_to_string(path).expect("a recorded plan")
}

fn plan(name: &str) -> TerraformPlan {
    TerraformPlan::parse(text(name).as_bytes()).expect("a plan that Terraform made")
}

/// Code and severity, and the last part of what each is about.
fn short(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| {
            let about = finding.about.rsplit("module.control_plane.").next();
            let about = about.unwrap_or_default();
            let mark = match finding.severity {
                Severity::Error => "",
                Severity::Warning => "warning ",
            };
            format!("{mark}{} {about}", finding.code)
        })
        .collect()
}

fn of(name: &str) -> Vec<String> {
    short(&lint(&plan(name), None))
}

const CP_2: &str = r#"aws_instance.k8s_master["cp-2"]"#;
const CP_3: &str = r#"aws_instance.k8s_master["cp-3"]"#;

#[test]
fn a_plan_that_does_nothing_is_fine() {
    assert!(!plan("nothing").resources.is_empty());
    assert_eq!(of("nothing"), [""; 0]);
}

#[test]
fn a_larger_type_stops_a_master() {
    assert_eq!(of("one-stopped"), [format!("master-stopped {CP_2}")]);
    let all = lint(&plan("all-stopped"), None);
    let codes: Vec<Code> = all.iter().map(|finding| finding.code).collect();
    assert_eq!(
        codes,
        [
            Code::MasterStopped,
            Code::MasterStopped,
            Code::MasterStopped,
            Code::MastersTogether
        ]
    );
    assert!(all[3].seen.starts_with("3 masters"), "{}", all[3].seen);
}

#[test]
fn a_master_that_is_made_anew_or_ended_is_told() {
    assert_eq!(of("one-replaced"), [format!("master-replaced {CP_3}")]);
    assert_eq!(of("one-exchanged"), [format!("master-destroyed {CP_2}")]);
}

#[test]
fn the_end_of_everything_is_told_as_that() {
    let all = lint(&plan("destroyed"), None);
    let count = |code| all.iter().filter(|finding| finding.code == code).count();
    assert_eq!(count(Code::MasterDestroyed), 3);
    assert_eq!(count(Code::MastersTogether), 1);
    // Balancer, listener and target group.
    assert_eq!(count(Code::EndpointLost), 3);
    assert!(count(Code::ApiRuleRemoved) > 0);
    // Disks of masters that go are no news.
    assert_eq!(count(Code::EtcdDiskLost), 0);
    // Workers are nobody's voters.
    assert!(
        all.iter()
            .all(|finding| !finding.about.contains("k8s_worker"))
    );
}

#[test]
fn who_loses_the_way_to_the_api_is_told() {
    let found = lint(&plan("rule-removed"), None);
    assert_eq!(
        short(&found),
        [r#"api-rule-removed aws_vpc_security_group_ingress_rule.cidr["endpoint/cidr/office"]"#]
    );
    assert!(
        found[0].seen.contains("203.0.113.0/24"),
        "{}",
        found[0].seen
    );
    // One of two networks in a rule of an old group, changed in place.
    let found = lint(&plan("adopted-closed"), None);
    assert_eq!(
        short(&found),
        ["api-rule-removed aws_security_group.k8s_master"]
    );
    assert!(
        found[0].seen.contains("198.51.100.0/24"),
        "{}",
        found[0].seen
    );
    assert!(!found[0].seen.contains("10.30.0.0/16"), "{}", found[0].seen);
}

#[test]
fn a_balancer_that_is_made_anew_is_told() {
    let found = of("balancer-replaced");
    assert!(
        found.contains(&"endpoint-lost aws_lb.api".to_owned()),
        "{found:?}"
    );
    assert!(
        found.iter().all(|one| one.starts_with("endpoint-lost")),
        "{found:?}"
    );
}

/// An apply that was interrupted leaves what it was making marked: it may be whole all the same.
#[test]
fn what_is_only_marked_can_be_kept() {
    for (name, kind, code) in [
        ("balancer-replaced", "aws_lb", Code::EndpointLost),
        ("one-replaced", "aws_instance", Code::MasterReplaced),
    ] {
        let mut written: serde_json::Value = serde_json::from_str(&text(name)).expect("JSON");
        let changes = written["resource_changes"].as_array_mut().expect("changes");
        let replaced = changes.iter_mut().filter(|change| {
            change["change"]["actions"]
                .as_array()
                .is_some_and(|a| a.len() == 2)
        });
        for change in replaced {
            change["action_reason"] = "replace_because_tainted".into();
        }
        let marked = TerraformPlan::parse(written.to_string().as_bytes()).expect("a plan");
        let of = |plan: &TerraformPlan| {
            let about = plan
                .resources
                .iter()
                .find(|one| one.kind == kind && one.tainted);
            let all = lint(plan, None);
            let found = all
                .into_iter()
                .find(|one| one.code == code)
                .expect("it is told");
            (about.map(|one| one.address.clone()), found)
        };
        let (about, found) = of(&marked);
        let untaint = format!("terraform untaint '{}'", about.expect("it is marked"));
        assert!(found.fix.contains(&untaint), "{}", found.fix);
        assert!(found.seen.contains("tainted"), "{}", found.seen);
        let (none, found) = of(&plan(name));
        assert_eq!(none, None);
        assert!(!found.fix.contains("untaint"), "{}", found.fix);
    }
}

#[test]
fn targets_of_terraform_are_told() {
    let found = of("targets-owned");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found.iter().all(|one| one.starts_with("targets-owned")),
        "{found:?}"
    );
}

#[test]
fn lifted_protection_is_worth_a_word() {
    let found = of("unprotected");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .all(|one| one.starts_with("warning protection-lifted")),
        "{found:?}"
    );
}

#[test]
fn adopting_a_master_leaves_it_alone_unless_its_type_is_wrong() {
    assert_eq!(of("adopted"), [""; 0]);
    assert_eq!(
        of("adopted-stopped"),
        [r#"master-stopped aws_instance.k8s_master["k8s-master"]"#]
    );
}

/// A cluster of hosts called a, b and c that are the three masters of a recorded plan.
fn cluster(name: &str) -> (TerraformPlan, Spec) {
    let mut text = text(name);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (host, seen) in [("cp-1", "a"), ("cp-2", "b"), ("cp-3", "c")] {
        let resources = json["resource_changes"].as_array().expect("a list");
        let master = resources
            .iter()
            .find(|each| each["type"] == "aws_instance" && each["index"] == host)
            .expect("a master");
        let address = master["change"]["before"]["private_ip"]
            .as_str()
            .expect("its address");
        text = text.replace(
            &format!("\"private_ip\": \"{address}\""),
            &format!("\"private_ip\": \"{}\"", seeing::address(seen)),
        );
    }
    let file = "apiVersion: quorate/v1\nname: demo\nendpoint: { host: api.demo.internal, balancer: { kind: external } }\n\
                controlPlane: { hosts: [{ name: a, address: 10.0.0.11 }, { name: b, address: 10.0.0.12 }, { name: c, address: 10.0.0.13 }] }\n\
                provider: { kind: ssh }\n";
    let (spec, _) = quorate_plan::spec::parse(file, "cluster.yaml").expect("a cluster file");
    let plan = TerraformPlan::parse(text.as_bytes()).expect("a plan");
    (plan, spec)
}

fn with(name: &str, seen: &Observation) -> Vec<Finding> {
    let (plan, spec) = cluster(name);
    lint(&plan, Some(Cluster { spec: &spec, seen }))
}

#[test]
fn the_guard_judges_a_master_that_stops() {
    let found = with("one-stopped", &seeing::seen("a+ b+ c+"));
    assert_eq!(short(&found), [format!("warning master-stopped {CP_2}")]);
    let found = with("one-stopped", &seeing::seen("a+ b+ c-"));
    assert_eq!(short(&found), [format!("master-stopped {CP_2}")]);
    assert!(
        found[0].seen.contains("would-lose-quorum"),
        "{}",
        found[0].seen
    );
    // One that does not answer may run, and may be needed: nobody saw.
    let found = with("one-stopped", &seeing::seen("a+ b- c+"));
    assert_eq!(short(&found)[0], format!("master-stopped {CP_2}"));
    let found = with("one-stopped", &Observation::default());
    assert_eq!(short(&found), [format!("master-stopped {CP_2}")]);
    // The guard permits each alone; together they are no less than before.
    let found = with("all-stopped", &seeing::seen("a+ b+ c+"));
    assert!(found.iter().any(|one| one.code == Code::MastersTogether));
}

#[test]
fn a_machine_whose_member_is_gone_may_go() {
    let found = with("one-exchanged", &seeing::seen("a+ b+ c+"));
    assert_eq!(short(&found), [format!("master-destroyed {CP_2}")]);
    assert!(found[0].seen.contains("is member b1"), "{}", found[0].seen);
    let found = with("one-exchanged", &seeing::seen("a+ c+"));
    assert_eq!(short(&found), [""; 0]);
    // No quorum tells: nobody knows.
    let found = with("one-exchanged", &seeing::seen("a- b+ c-"));
    assert_eq!(short(&found), [format!("master-destroyed {CP_2}")]);
}

#[test]
fn a_machine_of_nobody_is_not_passed_over() {
    let machine = |name: &str, tags: &str| {
        format!(
            r#"{{"format_version": "1.2", "resource_changes": [{{"address": "aws_instance.{name}", "mode": "managed", "type": "aws_instance",
                "name": "{name}", "change": {{"actions": ["delete"], "before": {{"id": "i-01", "private_ip": "10.9.9.9", "tags": {tags}}}, "after": null}}}}]}}"#
        )
    };
    let of = |name: &str, tags: &str| {
        let plan = TerraformPlan::parse(machine(name, tags).as_bytes()).expect("a plan");
        short(&lint(&plan, None))
    };
    assert_eq!(of("box", "{}"), ["machine-unknown aws_instance.box"]);
    assert_eq!(
        of("k8s-master", "{}"),
        ["master-destroyed aws_instance.k8s-master"]
    );
    assert_eq!(of("box", r#"{"quorate/role": "worker"}"#), [""; 0]);
    // The file knows every master by its address.
    let plan = TerraformPlan::parse(machine("box", "{}").as_bytes()).expect("a plan");
    let (_, spec) = cluster("nothing");
    let seen = seeing::seen("a+ b+ c+");
    let known = Cluster {
        spec: &spec,
        seen: &seen,
    };
    assert_eq!(lint(&plan, Some(known)), []);
}

/// A machine that carries no tag and is in no cluster file is a master all the same while etcd has it.
#[test]
fn a_member_that_left_the_file_is_known_by_its_address() {
    let of = |address: &str, seen: &Observation| {
        let text = format!(
            r#"{{"format_version": "1.2", "resource_changes": [{{"address": "aws_instance.box", "mode": "managed", "type": "aws_instance",
                "name": "box", "change": {{"actions": ["delete"], "before": {{"id": "i-01", "private_ip": "{address}"}}, "after": null}}}}]}}"#
        );
        let plan = TerraformPlan::parse(text.as_bytes()).expect("a plan");
        let (_, spec) = cluster("nothing");
        short(&lint(&plan, Some(Cluster { spec: &spec, seen })))
    };
    let fourth = seeing::address("d").to_string();
    let four = seeing::seen("a+ b+ c+ d+");
    assert_eq!(of(&fourth, &four), ["master-destroyed aws_instance.box"]);
    assert_eq!(of(&fourth, &seeing::seen("a+ b+ c+")), [""; 0]);
    // Nobody could say who votes.
    let unknown = seeing::seen("a- b+ c-");
    assert_eq!(of(&fourth, &unknown), ["machine-unknown aws_instance.box"]);
}

#[test]
fn the_output_of_the_state_before_comes_with_the_plan() {
    let with = |outputs: &str| {
        let text = format!(
            r#"{{"format_version": "1.2", "resource_changes": [], "prior_state": {{"values": {{"outputs": {outputs}}}}}}}"#
        );
        TerraformPlan::parse(text.as_bytes())
            .expect("a plan")
            .cluster
    };
    let told = with(r#"{"quorate_cluster": {"sensitive": false, "value": {"version": 1}}}"#);
    assert_eq!(told, Some(serde_json::json!({"version": 1})));
    assert_eq!(with(r#"{"other": {"value": 1}}"#), None);
    assert_eq!(plan("nothing").cluster, None, "it is cut off");
}

#[test]
fn what_is_no_plan_is_refused() {
    let refused = |text: &str| TerraformPlan::parse(text.as_bytes()).expect_err("no plan");
    for text in [
        "",
        "PK\u{3}\u{4}",
        "[]",
        "{}",
        r#"{"format_version": "1.0", "values": {}}"#,
    ] {
        assert!(matches!(refused(text), PlanError::NotOne { .. }), "{text}");
    }
    assert!(matches!(
        refused(r#"{"format_version": "2.0", "resource_changes": []}"#),
        PlanError::Format { .. }
    ));
    assert!(matches!(
        refused(r#"{"format_version": "1.2", "errored": true, "resource_changes": []}"#),
        PlanError::Failed
    ));
    let unknown = r#"{"format_version": "1.2", "resource_changes": [{"address": "a.b", "mode": "managed", "type": "a", "name": "b",
        "change": {"actions": ["sink"], "before": null, "after": null}}]}"#;
    assert!(matches!(refused(unknown), PlanError::Shape { .. }));
}
