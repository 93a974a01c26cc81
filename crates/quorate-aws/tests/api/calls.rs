//! Answers as AWS writes them, read; and lists that go on.

use std::time::Duration;

use quorate_aws::{AwsError, Direction, InstanceState, Peer, Target};

use crate::fake::SOON;
use crate::services::{BALANCER, GROUP, Services, balancer, group};

const LISTENER: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/net/demo-api/0123456789abcdef/fedcba9876543210";

fn answers(services: &Services, action: &str, pages: &[&str]) {
    let pages = pages.iter().map(|page| (*page).to_owned()).collect();
    services.state().pages.insert(action.to_owned(), pages);
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_is_read() {
    let services = Services::new();
    let aws = services.client().await;
    let one = format!(
        "<LoadBalancers><member>
          <LoadBalancerArn>{BALANCER}</LoadBalancerArn><Scheme>internal</Scheme><LoadBalancerName>demo-api</LoadBalancerName>
          <VpcId>vpc-1</VpcId><CanonicalHostedZoneId>Z3F0SRJ5LGBH90</CanonicalHostedZoneId>
          <CreatedTime>2026-11-26T05:00:00.000Z</CreatedTime>
          <AvailabilityZones>
            <member><SubnetId>subnet-a</SubnetId><ZoneName>eu-central-1a</ZoneName>
              <LoadBalancerAddresses><member><PrivateIPv4Address>10.0.0.250</PrivateIPv4Address></member></LoadBalancerAddresses></member>
            <member><SubnetId>subnet-b</SubnetId><ZoneName>eu-central-1b</ZoneName></member>
          </AvailabilityZones>
          <SecurityGroups><member>sg-1</member></SecurityGroups>
          <DNSName>demo-api-1.elb.eu-central-1.amazonaws.com</DNSName>
          <State><Code>active</Code></State><Type>network</Type><IpAddressType>ipv4</IpAddressType>
        </member></LoadBalancers>"
    );
    answers(&services, "DescribeLoadBalancers", &[&one]);
    let found = aws.load_balancers(&[balancer()], SOON).await.unwrap();
    let [found] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(found.arn, balancer());
    assert!(found.internal);
    assert_eq!(
        (found.kind.as_str(), found.state.as_str()),
        ("network", "active")
    );
    assert_eq!(found.security_groups, ["sg-1"]);
    let zones: Vec<_> = found
        .zones
        .iter()
        .map(|zone| {
            (
                zone.name.as_str(),
                zone.addresses.first().and_then(|a| a.private),
            )
        })
        .collect();
    assert_eq!(
        zones,
        [
            ("eu-central-1a", Some([10, 0, 0, 250].into())),
            ("eu-central-1b", None)
        ]
    );
    let form = services.network.seen()[0].form();
    assert_eq!(form["LoadBalancerArns.member.1"], BALANCER);
    assert_eq!(form["Version"], "2015-12-01");

    answers(
        &services,
        "DescribeLoadBalancerAttributes",
        &[
            "<Attributes><member><Key>load_balancing.cross_zone.enabled</Key><Value>true</Value></member>\
           <member><Key>access_logs.s3.bucket</Key><Value/></member></Attributes>",
        ],
    );
    let attributes = aws
        .load_balancer_attributes(&balancer(), SOON)
        .await
        .unwrap();
    assert_eq!(attributes["load_balancing.cross_zone.enabled"], "true");
    assert_eq!(attributes["access_logs.s3.bucket"], "");

    // A scheme that nobody knows is neither internal nor public.
    let other = one.replace("internal", "interplanetary");
    answers(&services, "DescribeLoadBalancers", &[&other]);
    let err = aws.load_balancers(&[balancer()], SOON).await.unwrap_err();
    assert!(
        err.to_string().contains("`Scheme` is `interplanetary`"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn listeners_and_their_groups_are_read() {
    let services = Services::new();
    let aws = services.client().await;
    let forward = format!(
        "<Type>forward</Type><TargetGroupArn>{GROUP}</TargetGroupArn><ForwardConfig><TargetGroups>\
         <member><TargetGroupArn>{GROUP}</TargetGroupArn><Weight>1</Weight></member></TargetGroups></ForwardConfig>"
    );
    let one = format!(
        "<Listeners><member><ListenerArn>{LISTENER}</ListenerArn><LoadBalancerArn>{BALANCER}</LoadBalancerArn><Port>6443</Port>\
         <Protocol>TCP</Protocol><DefaultActions><member>{forward}</member></DefaultActions></member></Listeners>"
    );
    answers(&services, "DescribeListeners", &[&one]);
    let found = aws.listeners(&balancer(), SOON).await.unwrap();
    assert_eq!((found[0].port, found[0].protocol.as_str()), (6443, "TCP"));
    assert_eq!(found[0].forwards_to, [group()]);

    let one = format!(
        "<TargetGroups><member><TargetGroupArn>{GROUP}</TargetGroupArn><TargetGroupName>demo-api</TargetGroupName>\
         <Protocol>TCP</Protocol><Port>6443</Port><VpcId>vpc-1</VpcId><HealthCheckProtocol>HTTPS</HealthCheckProtocol>\
         <HealthCheckPort>traffic-port</HealthCheckPort><HealthCheckEnabled>true</HealthCheckEnabled>\
         <HealthCheckIntervalSeconds>5</HealthCheckIntervalSeconds><HealthCheckTimeoutSeconds>4</HealthCheckTimeoutSeconds>\
         <HealthyThresholdCount>2</HealthyThresholdCount><UnhealthyThresholdCount>2</UnhealthyThresholdCount>\
         <HealthCheckPath>/readyz</HealthCheckPath><Matcher><HttpCode>200</HttpCode></Matcher>\
         <LoadBalancerArns><member>{BALANCER}</member></LoadBalancerArns><TargetType>instance</TargetType></member></TargetGroups>"
    );
    answers(&services, "DescribeTargetGroups", &[&one]);
    let found = aws.target_groups(&[group()], SOON).await.unwrap();
    assert_eq!(
        found,
        aws.target_groups_of(&balancer(), SOON).await.unwrap()
    );
    let check = &found[0].health_check;
    assert_eq!(check.path.as_deref(), Some("/readyz"));
    assert_eq!(check.codes.as_deref(), Some("200"));
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(5), Duration::from_secs(4))
    );
    assert_eq!(found[0].load_balancers, [balancer()]);
    answers(
        &services,
        "DescribeTargetGroupAttributes",
        &[
            "<Attributes><member><Value>false</Value><Key>preserve_client_ip.enabled</Key></member></Attributes>",
        ],
    );
    let attributes = aws.target_group_attributes(&group(), SOON).await.unwrap();
    assert_eq!(attributes["preserve_client_ip.enabled"], "false");
}

#[tokio::test(start_paused = true)]
async fn instances_are_read_page_by_page() {
    let services = Services::new();
    let aws = services.client().await;
    let running = "<reservationSet><item><reservationId>r-1</reservationId><instancesSet><item>
        <instanceId>i-01</instanceId><imageId>ami-1</imageId><instanceState><code>16</code><name>running</name></instanceState>
        <instanceType>t3.large</instanceType><placement><availabilityZone>eu-central-1a</availabilityZone></placement>
        <subnetId>subnet-a</subnetId><vpcId>vpc-1</vpcId><privateIpAddress>10.0.0.11</privateIpAddress>
        <groupSet><item><groupId>sg-1</groupId><groupName>m</groupName></item></groupSet>
        <tagSet><item><key>Name</key><value>cp-1</value></item><item><key>empty</key><value/></item></tagSet>
        <metadataOptions><httpTokens>required</httpTokens><httpPutResponseHopLimit>1</httpPutResponseHopLimit></metadataOptions>
        </item></instancesSet></item></reservationSet>";
    let terminated = "<reservationSet><item><instancesSet><item><instanceId>i-02</instanceId><imageId>ami-1</imageId>
        <instanceState><code>48</code><name>terminated</name></instanceState><instanceType>t3.large</instanceType>
        <placement><availabilityZone>eu-central-1b</availabilityZone></placement></item></instancesSet></item></reservationSet>";
    answers(
        &services,
        "DescribeInstances",
        &[running, "<reservationSet/>", terminated],
    );
    let found = aws
        .instances(&["i-01", "i-02", "i-03"], SOON)
        .await
        .unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].state, InstanceState::Running);
    assert_eq!(found[0].address, Some([10, 0, 0, 11].into()));
    assert_eq!(found[0].tags["Name"], "cp-1");
    assert_eq!(
        (found[0].session_required, found[0].metadata_hops),
        (Some(true), Some(1))
    );
    assert_eq!(found[1].state, InstanceState::Terminated);
    assert_eq!((found[1].address, found[1].session_required), (None, None));
    let forms: Vec<_> = services
        .network
        .seen()
        .iter()
        .map(|seen| seen.form())
        .collect();
    assert_eq!(forms.len(), 3);
    assert_eq!(forms[0]["Filter.1.Name"], "instance-id");
    assert_eq!(forms[0]["Filter.1.Value.3"], "i-03");
    let tokens: Vec<_> = forms
        .iter()
        .map(|form| form.get("NextToken").cloned())
        .collect();
    assert_eq!(tokens, [None, Some("1".to_owned()), Some("2".to_owned())]);
    // More ids than one filter takes are more calls, and none is no call.
    services.network.take_seen();
    answers(&services, "DescribeInstances", &["<reservationSet/>"]);
    let many: Vec<String> = (0..401).map(|n| format!("i-{n:02}")).collect();
    aws.instances(&many, SOON).await.unwrap();
    assert_eq!(services.network.take_seen().len(), 3);
    let none: [&str; 0] = [];
    aws.instances(&none, SOON).await.unwrap();
    assert!(services.network.seen().is_empty());
    // An address that is none is not as good as no address.
    let broken = running.replace("10.0.0.11", "10.0.0.311");
    answers(&services, "DescribeInstances", &[&broken]);
    let err = aws.instances(&["i-01"], SOON).await.unwrap_err();
    assert!(
        err.to_string()
            .contains("`privateIpAddress` in `item` is `10.0.0.311`"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn rules_are_read() {
    let services = Services::new();
    let aws = services.client().await;
    let rule = |id: &str, rest: &str| {
        format!(
            "<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>sg-1</groupId>{rest}</item>"
        )
    };
    let ingress = rule(
        "sgr-1",
        "<isEgress>false</isEgress><ipProtocol>tcp</ipProtocol><fromPort>6443</fromPort><toPort>6443</toPort>\
         <referencedGroupInfo><groupId>sg-2</groupId><userId>123456789012</userId></referencedGroupInfo><description>API</description>",
    );
    let egress = rule(
        "sgr-2",
        "<isEgress>true</isEgress><ipProtocol>-1</ipProtocol><fromPort>-1</fromPort><toPort>-1</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4>",
    );
    let page = format!("<securityGroupRuleSet>{ingress}{egress}</securityGroupRuleSet>");
    answers(&services, "DescribeSecurityGroupRules", &[&page]);
    let rules = aws.security_group_rules(&["sg-1"], SOON).await.unwrap();
    assert_eq!(rules[0].direction, Direction::In);
    assert_eq!(rules[0].ports, Some((6443, 6443)));
    assert_eq!(rules[0].peer, Peer::Group("sg-2".to_owned()));
    assert_eq!(rules[0].description.as_deref(), Some("API"));
    assert_eq!(rules[1].direction, Direction::Out);
    assert_eq!(rules[1].ports, None);
    assert_eq!(rules[1].peer, Peer::Ipv4("0.0.0.0/0".to_owned()));
    // A rule whose other side is not understood is not a rule that admits nobody.
    let odd = rule(
        "sgr-3",
        "<isEgress>false</isEgress><ipProtocol>tcp</ipProtocol>",
    );
    let page = format!("<securityGroupRuleSet>{odd}</securityGroupRuleSet>");
    answers(&services, "DescribeSecurityGroupRules", &[&page]);
    let err = aws.security_group_rules(&["sg-1"], SOON).await.unwrap_err();
    assert!(
        err.to_string()
            .contains("rule `sgr-3` has not exactly one other side"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_ends() {
    let services = Services::new();
    let aws = services.client().await;
    let round = "<Listeners></Listeners><NextMarker>round</NextMarker>";
    // The host takes tokens for numbers of pages; this one always leads to the first.
    services.state().pages.insert(
        "DescribeListeners".to_owned(),
        vec![round.replace("round", "0")],
    );
    let err = aws.listeners(&balancer(), SOON).await.unwrap_err();
    assert!(matches!(err, AwsError::Unfit { .. }), "{err:?}");
    assert!(
        err.to_string()
            .contains("`NextMarker` leads back to a page that was read already"),
        "{err}"
    );
    assert_eq!(services.network.take_seen().len(), 2);
    let many = vec!["<Listeners></Listeners>".to_owned(); 200];
    services
        .state()
        .pages
        .insert("DescribeListeners".to_owned(), many);
    let err = aws.listeners(&balancer(), SOON).await.unwrap_err();
    assert!(
        err.to_string().contains("there are more than 100 pages"),
        "{err}"
    );
    assert_eq!(services.network.seen().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn targets_are_sent_as_they_are_given() {
    let services = Services::new();
    let aws = services.client().await;
    let targets = [
        Target {
            id: "i-01".to_owned(),
            port: Some(6443),
        },
        Target {
            id: "i-02".to_owned(),
            port: None,
        },
    ];
    aws.register_targets(&group(), &targets, SOON)
        .await
        .unwrap();
    let form = services.network.seen()[0].form();
    assert_eq!(form["TargetGroupArn"], GROUP);
    assert_eq!(form["Targets.member.1.Id"], "i-01");
    assert_eq!(form["Targets.member.1.Port"], "6443");
    assert_eq!(form["Targets.member.2.Id"], "i-02");
    assert!(!form.contains_key("Targets.member.2.Port"));
}
