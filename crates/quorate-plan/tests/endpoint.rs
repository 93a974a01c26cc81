//! The endpoint of a cluster file, where the masters share an address.

use quorate_plan::{
    Spec,
    diagnostic::{Code, render},
    spec::parse,
};

fn read(text: &str) -> (Spec, Vec<Code>) {
    match parse(text, "cluster.yaml") {
        Ok((spec, warnings)) => (spec, warnings.iter().map(|warning| warning.code).collect()),
        Err(found) => panic!("{}", render(&found, text, false)),
    }
}

#[test]
fn masters_may_share_an_address() {
    let on = |more: &str| {
        let balancer = format!("{{ kind: quorate, on: masters{more} }}");
        format!(
            "apiVersion: quorate/v1\nname: demo\nendpoint: {{ balancer: {balancer} }}\n\
             controlPlane: {{ count: 3 }}\nprovider: {{ kind: local, subnet: 10.9.0.0/24 }}\n"
        )
    };
    let (spec, warnings) = read(&on(", address: 10.9.0.9"));
    assert_eq!(warnings, []);
    assert_eq!(spec.shared_address(), Some([10, 9, 0, 9].into()));
    assert_eq!(spec.endpoint_address(), spec.shared_address());
    let balancers: Vec<&str> = spec.balancers().map(|(name, _)| name.as_str()).collect();
    assert_eq!(balancers, ["cp-1", "cp-2", "cp-3"]);
    assert_eq!(spec.machines().count(), 3, "each of them once");
    assert!(spec.hosts_file);
    let (spec, _) = read(&on(""));
    assert_eq!(spec.shared_address(), Some([10, 9, 0, 210].into()));
}
