//! The cluster file at its edge: every bad file in `bad/` gives exactly the text beside it, good ones give the spec they mean, and no
//! text whatever makes the reader panic. `QUORATE_BLESS=1` writes the texts anew; read the difference before it is committed.

use std::{fs, path::Path};

use proptest::prelude::*;
use quorate_plan::{
    Spec,
    diagnostic::{Code, render},
    spec::{
        BalancerSpec, BringUp, Cni, EtcdDevice, Inventory, Listed, Provider, TargetGroup, parse,
        parse_with,
    },
};

const LOCAL: &str = "\
apiVersion: quorate/v1
name: demo
kubernetes: 1.36.3
endpoint: { host: api.demo.internal, port: 6443, hostsFile: managed, balancer: { kind: quorate, on: hosts, count: 2 } }
controlPlane: { count: 3, bringUp: together }
workers: { count: 2 }
network: { cni: flannel, pods: 10.244.0.0/16, services: 10.96.0.0/12 }
provider: { kind: local, subnet: 10.88.3.0/24 }
components: { source: bundle, path: ./bundle }
";

const SSH: &str = "\
apiVersion: quorate/v1
name: prod
endpoint:
  host: api.example.org
  balancer:
    hosts:
    - { name: lb-1, address: 10.0.1.5, port: 2222 }
    - { name: lb-2, address: 10.0.1.6 }
controlPlane:
  hosts:
  - name: cp-1
    address: 10.0.1.11
    zone: a
    user: root
  - name: cp-2
    address: 10.0.1.12
    zone: b
    sudo: false
  - name: cp-3
    address: 10.0.1.13
    zone: c
    identity: ~/.ssh/cp-3
workers:
  hosts: [{ name: w-1, address: 10.0.1.21 }]
network:
  cni: { manifest: cni.yaml }
provider:
  kind: ssh
  user: admin
  identity: ~/.ssh/cluster
";

fn good(text: &str) -> (Spec, Vec<Code>) {
    match parse(text, "cluster.yaml") {
        Ok((spec, warnings)) => (spec, warnings.iter().map(|warning| warning.code).collect()),
        Err(found) => panic!("{}", render(&found, text, false)),
    }
}

#[test]
fn bad_files_say_what_is_wrong() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut seen = 0;
    let mut differing = String::new();
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let found = match parse_with(&text, "cluster.yaml", |_| Some(inventory())) {
            Err(found) => found,
            Ok(_) => panic!("{} was accepted", file.display()),
        };
        assert!(!found.is_empty(), "{} was refused silently", file.display());
        let shown = render(&found, &text, false);
        let expected = file.with_extension("txt");
        if bless {
            fs::write(&expected, &shown).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if wanted != shown {
            differing += &format!(
                "== {}\n-- expected\n{wanted}-- seen\n{shown}",
                file.display()
            );
        }
        seen += 1;
    }
    assert!(differing.is_empty(), "{differing}");
    assert!(seen >= 60, "only {seen} bad files");
}

/// Every mistake the table knows is shown by a file or a test here.
#[test]
fn every_code_is_seen() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut shown: String = fs::read_dir(directory)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    // Too long to be kept as a file.
    let large = "#".repeat((1 << 20) + 1);
    shown += &render(&parse(&large, "f").unwrap_err(), &large, false);
    for (text, code) in warned() {
        let (_, codes) = good(&text);
        assert!(codes.contains(&code), "{code} in {codes:?} of\n{text}");
        shown += code.name();
    }
    for code in Code::ALL {
        assert!(shown.contains(code.name()), "{code} {}", code.title());
    }
}

/// Files that are accepted with a warning.
fn warned() -> Vec<(String, Code)> {
    let zones = |a: &str| SSH.replace("zone: b", &format!("zone: {a}"));
    vec![
        (
            SSH.replace("api.example.org", "k8s-0123.elb.eu-west-1.amazonaws.com"),
            Code::LoadBalancerName,
        ),
        (LOCAL.replace("count: 2 }", "count: 1 }"), Code::OneBalancer),
        (
            LOCAL.replace("api.demo.internal", "10.88.3.201"),
            Code::HostsFileUnused,
        ),
        (LOCAL.replace("count: 3", "count: 1"), Code::OneMaster),
        (zones("a").replace("zone: c", "zone: a"), Code::OneZone),
        (zones("a"), Code::TwoZones),
        (by_records(), Code::DnsOnly),
    ]
}

/// Nothing but records of DNS leads to the masters.
fn by_records() -> String {
    let hosts = SSH.find("    hosts:\n    - { name: lb-1").unwrap();
    let end = SSH.find("controlPlane:").unwrap();
    format!("{}    kind: dns\n{}", &SSH[..hosts], &SSH[end..])
}

#[test]
fn records_of_dns_in_place_of_a_balancer() {
    let (spec, warnings) = good(&by_records());
    assert_eq!(spec.balancer, BalancerSpec::Dns);
    assert!(!spec.hosts_file);
    assert_eq!(spec.balancers().count(), 0);
    assert_eq!(warnings, [Code::DnsOnly]);
}

#[test]
fn a_whole_file_for_local_hosts() {
    let (spec, warnings) = good(LOCAL);
    assert_eq!(warnings, []);
    let hosts: Vec<String> = spec
        .machines()
        .map(|(name, machine, role)| {
            format!("{name} {} {role:?} {}", machine.address, machine.ssh.user)
        })
        .collect();
    assert_eq!(
        hosts,
        [
            "lb-1 10.88.3.201 Balancer root",
            "lb-2 10.88.3.202 Balancer root",
            "cp-1 10.88.3.11 ControlPlane root",
            "cp-2 10.88.3.12 ControlPlane root",
            "cp-3 10.88.3.13 ControlPlane root",
            "w-1 10.88.3.101 Worker root",
            "w-2 10.88.3.102 Worker root",
        ]
    );
    assert_eq!(spec.kubernetes, "1.36.3");
    assert_eq!(spec.endpoint.to_string(), "api.demo.internal:6443");
    assert!(spec.hosts_file);
    assert_eq!(spec.bring_up, BringUp::Together);
    assert_eq!(spec.bundle.as_deref(), Some("./bundle"));
}

#[test]
fn components_from_packages() {
    let with = |components: &str| {
        let text = format!(
            "apiVersion: quorate/v1\nname: demo\ncontrolPlane: {{ count: 3 }}\nprovider: {{ kind: local }}\ncomponents: {components}\n"
        );
        good(&text).0
    };
    assert_eq!(with("{ source: bundle, path: ./bundle }").packages, None);
    let spec = with(
        "{ source: packages, path: ./bundle, repository: 'https://packages.example.org/core:/stable:/v1.35/deb/', \
         key: ./kubernetes.asc, version: 1.35.4-1.1 }",
    );
    assert_eq!(spec.bundle.as_deref(), Some("./bundle"));
    let packages = spec.packages.expect("packages");
    assert_eq!(
        packages.repository,
        "https://packages.example.org/core:/stable:/v1.35/deb/"
    );
    assert_eq!(packages.key_file, "./kubernetes.asc");
    assert_eq!(packages.key, "", "whoever may read files fills it in");
    assert_eq!(packages.version, "1.35.4-1.1");
}

#[test]
fn the_least_file_for_local_hosts() {
    let (spec, warnings) = good(
        "apiVersion: quorate/v1\nname: demo\ncontrolPlane: { count: 3 }\nprovider: { kind: local }\n",
    );
    assert_eq!(warnings, [Code::OneBalancer]);
    assert_eq!(spec.kubernetes, "1.35.4");
    assert_eq!(spec.endpoint.to_string(), "api.demo.internal:6443");
    assert_eq!(spec.balancers().count(), 1);
    assert_eq!(
        spec.provider,
        Provider::Local {
            subnet: "10.177.64.0/24".into()
        }
    );
    assert_eq!(
        (spec.network.pods.as_str(), spec.network.services.as_str()),
        ("10.244.0.0/16", "10.96.0.0/12")
    );
    assert_eq!(spec.network.cni, Cni::Flannel);
    assert!(spec.workers.is_empty() && spec.hosts_file);
}

#[test]
fn a_whole_file_for_hosts_of_ones_own() {
    let (spec, warnings) = good(SSH);
    assert_eq!(warnings, []);
    let ways: Vec<String> = spec
        .machines()
        .map(|(name, machine, _)| {
            let ssh = &machine.ssh;
            format!(
                "{name} {}@{}:{} {} sudo {} zone {}",
                ssh.user,
                machine.address,
                ssh.port,
                ssh.identity.as_deref().unwrap_or("-"),
                ssh.sudo,
                machine.zone.as_deref().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        ways,
        [
            "lb-1 admin@10.0.1.5:2222 ~/.ssh/cluster sudo true zone -",
            "lb-2 admin@10.0.1.6:22 ~/.ssh/cluster sudo true zone -",
            "cp-1 root@10.0.1.11:22 ~/.ssh/cluster sudo false zone a",
            "cp-2 admin@10.0.1.12:22 ~/.ssh/cluster sudo false zone b",
            "cp-3 admin@10.0.1.13:22 ~/.ssh/cp-3 sudo true zone c",
            "w-1 admin@10.0.1.21:22 ~/.ssh/cluster sudo true zone -",
        ]
    );
    assert_eq!(spec.bring_up, BringUp::OneByOne);
    assert!(!spec.hosts_file);
    assert_eq!(
        spec.network.cni,
        Cni::Manifest {
            file: "cni.yaml".into(),
            text: String::new()
        }
    );
}

#[test]
fn local_hosts_by_name_get_addresses_by_place() {
    let (spec, _) = good(&LOCAL.replace(
        "count: 3, bringUp: together",
        "hosts: [{ name: anna }, { name: berta, address: 10.88.3.50 }, { name: carla }]",
    ));
    let addresses: Vec<String> = spec
        .control_plane
        .iter()
        .map(|(name, machine)| format!("{name} {}", machine.address))
        .collect();
    assert_eq!(
        addresses,
        ["anna 10.88.3.11", "berta 10.88.3.50", "carla 10.88.3.13"]
    );
}

/// A host that comes in another's place must not get its address.
#[test]
fn a_local_hosts_name_and_address_stay_together() {
    let (counted, _) = good(LOCAL);
    let (listed, _) = good(&LOCAL.replace(
        "count: 3, bringUp: together",
        "hosts: [{ name: cp-1 }, { name: cp-3 }, { name: cp-4 }]",
    ));
    let address = |spec: &Spec, name: &str| spec.control_plane[&name.parse().unwrap()].address;
    for name in ["cp-1", "cp-3"] {
        assert_eq!(address(&listed, name), address(&counted, name));
    }
    assert_eq!(address(&listed, "cp-4").to_string(), "10.88.3.14");
}

#[test]
fn a_spec_survives_its_own_text() {
    for text in [LOCAL, SSH] {
        let (spec, _) = good(text);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
    }
}

/// One edit of a text, at a place given as a fraction of its length.
#[derive(Clone, Debug)]
enum Edit {
    Remove(usize, usize),
    Insert(usize, String),
    DoubleLine(usize),
    SwapLines(usize, usize),
    Truncate(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0_usize..2000;
    let piece = prop_oneof![
        "[\\x00-\\x7f]{1,4}",
        "\\PC{1,3}",
        prop::sample::select(vec![
            "\t",
            "\n",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ": ",
            ",",
            "\"",
            "'",
            "&a ",
            "*a",
            "!!map ",
            "<<: ",
            "---\n",
            "#",
            "|\n",
            "? ",
            "0",
            "-1",
            "99999999999999999999",
            "null",
            "::1",
            "0.0.0.0/0",
            "\u{feff}",
            "\u{2028}",
            "é",
            "\r\n",
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        (at.clone(), 1_usize..20).prop_map(|(at, n)| Edit::Remove(at, n)),
        (at.clone(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        at.clone().prop_map(Edit::DoubleLine),
        (at.clone(), at.clone()).prop_map(|(a, b)| Edit::SwapLines(a, b)),
        at.prop_map(Edit::Truncate),
    ]
}

fn apply(text: &str, edit: &Edit) -> String {
    let border = |at: usize| {
        let mut at = at % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let lines = || {
        text.split_inclusive('\n')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    match edit {
        Edit::Remove(at, n) => {
            let start = border(*at);
            let end: usize = text[start..].chars().take(*n).map(char::len_utf8).sum();
            format!("{}{}", &text[..start], &text[start + end..])
        }
        Edit::Insert(at, piece) => {
            let at = border(*at);
            format!("{}{piece}{}", &text[..at], &text[at..])
        }
        Edit::DoubleLine(at) => {
            let mut lines = lines();
            if let Some(line) = lines.get(at % lines.len().max(1)).cloned() {
                lines.push(line);
            }
            lines.concat()
        }
        Edit::SwapLines(a, b) => {
            let mut lines = lines();
            if !lines.is_empty() {
                let n = lines.len();
                lines.swap(a % n, b % n);
            }
            lines.concat()
        }
        Edit::Truncate(at) => text[..border(*at)].to_owned(),
    }
}

fn whatever_it_is(text: &str) {
    let found = match parse(text, "cluster.yaml") {
        Ok((_, warnings)) => warnings,
        Err(found) => {
            assert!(!found.is_empty(), "refused silently: {text:?}");
            found
        }
    };
    for one in &found {
        assert!(text.get(one.span.clone()).is_some(), "{one:?} in {text:?}");
    }
    let shown = render(&found, text, false);
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(base in prop::sample::select(vec![LOCAL, SSH]), edits in prop::collection::vec(edit(), 1..6)) {
        let mut text = base.to_owned();
        for edit in &edits {
            text = apply(&text, edit);
        }
        whatever_it_is(&text);
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        whatever_it_is(&text);
    }
}

const TERRAFORM: &str = "\
apiVersion: quorate/v1
name: prod
provider: { kind: terraform, directory: ../infra, user: admin }
";

fn listed(name: &str, address: &str, zone: &str) -> Listed {
    Listed {
        name: name.into(),
        address: address.into(),
        zone: Some(zone.into()),
        etcd_device: None,
    }
}

fn inventory() -> Inventory {
    Inventory {
        name: "prod".into(),
        host: "api.prod.internal".into(),
        port: 6443,
        masters: vec![
            listed("cp-1", "10.0.0.11", "a"),
            listed("cp-2", "10.0.16.11", "b"),
            listed("cp-3", "10.0.32.11", "c"),
        ],
        workers: vec![listed("w-1", "10.0.0.101", "a")],
        target_group: TargetGroup {
            arn: "arn:of:the:group".into(),
            // One of them left the file, and is a target still.
            instances: [
                ("cp-1", "i-01"),
                ("cp-2", "i-02"),
                ("cp-3", "i-03"),
                ("cp-9", "i-09"),
            ]
            .map(|(name, instance)| (name.to_owned(), instance.to_owned()))
            .into(),
        },
    }
}

/// The codes of what is wrong with a file whose hosts Terraform made.
fn wrong(text: &str, inventory: Inventory) -> Vec<Code> {
    let found = parse_with(text, "cluster.yaml", |_| Some(inventory)).unwrap_err();
    found.iter().map(|one| one.code).collect()
}

#[test]
fn terraform_says_which_hosts_there_are() {
    let mut asked = String::new();
    let (spec, warnings) = parse_with(TERRAFORM, "cluster.yaml", |directory| {
        asked = directory.to_owned();
        Some(inventory())
    })
    .unwrap();
    assert_eq!(asked, "../infra");
    assert_eq!(warnings, []);
    assert_eq!(
        spec.provider,
        Provider::Terraform {
            directory: "../infra".into()
        }
    );
    assert_eq!(spec.endpoint.to_string(), "api.prod.internal:6443");
    let BalancerSpec::Nlb {
        target_group,
        instances,
    } = &spec.balancer
    else {
        panic!("{:?}", spec.balancer);
    };
    assert_eq!(target_group, "arn:of:the:group");
    assert_eq!(instances.len(), 4);
    let instance = |name: &str| spec.instance(&name.parse().unwrap());
    assert_eq!(instance("cp-3"), Some("i-03"));
    assert_eq!(instance("cp-9"), Some("i-09"));
    assert_eq!(instance("cp-4"), None);
    let external = format!("{TERRAFORM}endpoint: {{ balancer: {{ kind: external }} }}\n");
    let (own, _) = parse_with(&external, "cluster.yaml", |_| Some(inventory())).unwrap();
    assert_eq!(own.balancer, BalancerSpec::External);
    assert_eq!(spec.bring_up, BringUp::OneByOne);
    assert!(!spec.hosts_file && !spec.local());
    let masters: Vec<String> = spec
        .control_plane
        .iter()
        .map(|(name, machine)| {
            let zone = machine.zone.as_deref().unwrap_or_default();
            format!("{name} {} {zone} {}", machine.address, machine.ssh.user)
        })
        .collect();
    assert_eq!(
        masters,
        [
            "cp-1 10.0.0.11 a admin",
            "cp-2 10.0.16.11 b admin",
            "cp-3 10.0.32.11 c admin"
        ]
    );
    assert_eq!(spec.workers.len(), 1);
    assert!(spec.machines().all(|(_, machine, _)| machine.ssh.sudo));
}

#[test]
fn a_master_may_have_a_disk_for_etcd() {
    let text = SSH.replace(
        "    zone: b\n",
        "    zone: b\n    etcdDevice: /dev/disk/by-id/wwn-0x5000c500a-part1\n",
    );
    let (spec, _) = good(&text);
    let device = |spec: &Spec, name: &str| {
        let machine = spec.machine(&name.parse().unwrap()).unwrap();
        machine.etcd_device.clone()
    };
    assert_eq!(
        device(&spec, "cp-2"),
        Some(EtcdDevice::named("/dev/disk/by-id/wwn-0x5000c500a-part1"))
    );
    assert_eq!(device(&spec, "cp-1"), None);

    let mut told = inventory();
    told.masters[1].etcd_device = Some(EtcdDevice::of_ebs("vol-0123456789abcdef0"));
    let (spec, _) = parse_with(TERRAFORM, "cluster.yaml", |_| Some(told)).unwrap();
    let device = device(&spec, "cp-2").unwrap();
    assert_eq!(
        device.names(),
        [
            "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0",
            "/dev/xvdf",
            "/dev/sdf"
        ]
    );
}

#[test]
fn what_terraform_says_is_judged_like_a_file() {
    let mut two = inventory();
    two.masters.pop();
    assert_eq!(wrong(TERRAFORM, two), [Code::VoterCount]);
    let mut other = inventory();
    other.name = "test".into();
    assert_eq!(wrong(TERRAFORM, other), [Code::OtherCluster]);
    let mut bad = inventory();
    bad.masters[0].name = "CP_1".into();
    bad.workers[0].address = "fd00::1".into();
    assert_eq!(wrong(TERRAFORM, bad), [Code::BadName, Code::Ipv6]);
    let twice = format!(
        "{TERRAFORM}controlPlane: {{ count: 3 }}\nendpoint: {{ host: api.example.org, port: 443 }}\n"
    );
    assert_eq!(
        wrong(&twice, inventory()),
        [Code::NoMeaning, Code::NoMeaning, Code::NoMeaning]
    );
    // A way is possible without a second word.
    let (spec, _) = parse_with(
        &format!("{TERRAFORM}controlPlane: {{ bringUp: together }}\n"),
        "cluster.yaml",
        |_| Some(inventory()),
    )
    .unwrap();
    assert_eq!(spec.bring_up, BringUp::Together);
}

#[test]
fn nobody_is_asked_for_what_a_file_says_itself() {
    for text in [LOCAL, SSH] {
        parse_with(text, "cluster.yaml", |_| panic!("nothing to ask for")).unwrap();
    }
    // Nothing is wrong with the file, and there is no cluster either.
    assert_eq!(parse(TERRAFORM, "cluster.yaml").unwrap_err(), []);
}
