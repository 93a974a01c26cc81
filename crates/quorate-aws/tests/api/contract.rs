//! Every recorded output of the Terraform modules is read, and what is none is refused.

use std::path::Path;

use quorate_aws::{Balancer, Contract, ContractError};
use serde_json::{Value, json};

fn recorded() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../terraform/tests/contract");
    let mut all: Vec<(String, String)> = std::fs::read_dir(&folder)
        .unwrap_or_else(|err| panic!("{}: {err}", folder.display()))
        .map(|entry| {
            let path = entry.expect("a folder that can be read").path();
            let name = path.file_name().expect("a file").to_string_lossy();
            let text = std::fs::read_to_string(&path).expect("a file that can be read");
            (name.into_owned(), text)
        })
        .collect();
    all.sort();
    all
}

fn first() -> Value {
    let all = recorded();
    let (_, text) = all
        .iter()
        .find(|(name, _)| name == "v1.json")
        .expect("version 1 was recorded");
    serde_json::from_str(text).expect("JSON")
}

fn parse(value: &Value) -> Result<Contract, ContractError> {
    Contract::parse(&value.to_string())
}

#[test]
fn every_recorded_version_is_read() {
    let all = recorded();
    assert!(!all.is_empty());
    for (name, text) in all {
        let contract = Contract::parse(&text).unwrap_or_else(|err| panic!("{name}: {err}"));
        assert!(!contract.masters.is_empty(), "{name}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(name, format!("v{}.json", value["version"]));
    }
}

#[test]
fn version_1_has_everything() {
    let contract = parse(&first()).unwrap();
    assert_eq!(contract.name, "demo");
    assert_eq!(contract.endpoint.host, "api.demo.internal");
    assert_eq!(contract.endpoint.port, 6443);
    assert_eq!(contract.region().as_str(), "eu-central-1");
    let Balancer::Nlb {
        public, addresses, ..
    } = &contract.endpoint.balancer;
    assert!(!public);
    assert_eq!(addresses["eu-central-1b"].to_string(), "10.0.16.250");
    let masters: Vec<_> = contract
        .masters
        .iter()
        .map(|master| {
            (
                master.name.as_str(),
                master.adopted,
                master.etcd_volume_id.is_some(),
            )
        })
        .collect();
    assert_eq!(
        masters,
        [
            ("cp-1", false, true),
            ("cp-2", false, true),
            ("k8s-master", true, false)
        ]
    );
    assert_eq!(contract.workers[0].address.to_string(), "10.0.0.101");
}

#[test]
fn among_all_outputs_it_is_found() {
    let all = json!({
        "masters": {"sensitive": false, "type": "string", "value": "x"},
        "quorate_cluster": {"sensitive": false, "type": ["object", {}], "value": first()},
    });
    assert_eq!(parse(&all).unwrap(), parse(&first()).unwrap());
}

#[test]
fn keys_that_are_not_known_are_no_fault() {
    let mut value = first();
    value["later"] = json!({"a": 1});
    value["endpoint"]["later"] = json!(1);
    value["endpoint"]["balancer"]["later"] = json!(1);
    value["masters"][0]["later"] = json!(null);
    assert_eq!(parse(&value).unwrap(), parse(&first()).unwrap());
}

#[test]
fn another_version_is_refused_by_name() {
    for (version, shown) in [(json!(2), "2"), (json!("1"), "\"1\""), (json!(1.5), "1.5")] {
        let mut value = first();
        value["version"] = version;
        let err = parse(&value).unwrap_err();
        assert_eq!(
            err.to_string(),
            format!(
                "the output quorate_cluster has version {shown}, and this Quorate reads version 1\n\
                 hint: use the Quorate that came with these modules, or the modules that came with this Quorate"
            )
        );
    }
}

#[test]
fn no_key_may_be_missing() {
    fn without(at: &Value, path: &str, all: &mut Vec<String>) {
        match at {
            Value::Object(map) => {
                for (key, value) in map {
                    // Zones name addresses, so each of them may be missing.
                    if path != "/endpoint/balancer/addresses" {
                        all.push(format!("{path}/{key}"));
                    }
                    without(value, &format!("{path}/{key}"), all);
                }
            }
            Value::Array(items) => {
                for (number, value) in items.iter().enumerate() {
                    without(value, &format!("{path}/{number}"), all);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut paths = Vec::new();
    without(&first(), "", &mut paths);
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        let mut value = first();
        let (holder, key) = path.rsplit_once('/').expect("it has one");
        let holder = value.pointer_mut(holder).expect("it was there");
        holder.as_object_mut().expect("an object").remove(key);
        match parse(&value) {
            Err(err) => assert!(err.to_string().contains(key), "{path}: {err}"),
            // Where etcd is on the root volume there is none.
            Ok(_) => assert_eq!(key, "etcd_volume_id", "{path}"),
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let arn = "/endpoint/balancer/arn";
    let other_region = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/x/1";
    for (path, value, expected) in [
        (
            "/endpoint/balancer/kind",
            json!("alb"),
            "unknown variant `alb`, expected `nlb`",
        ),
        (arn, json!("demo"), "`demo` is not an ARN"),
        (
            arn,
            json!(other_region),
            "its balancer is in eu-west-1 and its target group in eu-central-1",
        ),
        ("/endpoint/port", json!(70_000), "70000"),
        ("/masters", json!([]), "it has no masters"),
        (
            "/masters/0/name",
            json!(""),
            "machine i-0123456789abcdef1 has no name",
        ),
        (
            "/masters/0/name",
            json!("cp-2"),
            "there are two machines cp-2",
        ),
        (
            "/masters/0/address",
            json!("10.0.0.1111"),
            "invalid IP address",
        ),
        (
            "/masters/0/address",
            json!("10.0.16.11"),
            "address 10.0.16.11 is there twice, also at cp-2",
        ),
        (
            "/masters/0/instance_id",
            json!("i-0 && reboot"),
            "`i-0 && reboot` of cp-1 is no instance",
        ),
        (
            "/masters/0/instance_id",
            json!("i-0123456789abcdef2"),
            "instance i-0123456789abcdef2 is there twice, also as cp-2",
        ),
        (
            "/workers/0/address",
            json!("10.0.0.11"),
            "address 10.0.0.11 is there twice, also at w-1",
        ),
    ] {
        let mut one = first();
        *one.pointer_mut(path).expect("it is there") = value;
        let err = parse(&one).unwrap_err().to_string();
        assert!(err.contains(expected), "{path}: {err}");
    }
    for (text, expected) in [
        ("", "something that is not JSON"),
        ("[]", "JSON that is not an object"),
        ("{}", "an object without `version`"),
        (r#"{"quorate_cluster": 1}"#, "it without a `value`"),
    ] {
        let err = Contract::parse(text).unwrap_err().to_string();
        assert!(err.contains(expected), "{text}: {err}");
        assert!(
            err.contains("`terraform output -json quorate_cluster`"),
            "{err}"
        );
    }
    let long = " ".repeat(5 << 20);
    assert!(matches!(
        Contract::parse(&long),
        Err(ContractError::TooLarge)
    ));
}
