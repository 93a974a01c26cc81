//! Load balancers, their listeners, target groups and targets: the calls of ELBv2 and what they answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::api::{Aws, Call, Paging};
use crate::endpoint::{Arn, Service};
use crate::error::AwsError;
use crate::xml::{Unfit, Xml};

const PAGING: Paging = Paging {
    parameter: "Marker",
    element: "NextMarker",
};

/// ARNs that one call takes.
const ARNS_MAX: usize = 20;

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Its ARN.
    pub arn: Arn,
    /// Its name.
    pub name: String,
    /// `network` for a Network Load Balancer.
    pub kind: String,
    /// Whether only its VPC reaches it.
    pub internal: bool,
    /// AWS's own DNS name for it.
    pub dns_name: String,
    /// Route 53's zone of that name.
    pub zone_id: Option<String>,
    /// `provisioning`, `active`, `active_impaired` or `failed`.
    pub state: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its security groups; none for a balancer that was made without.
    pub security_groups: Vec<String>,
    /// The zones it has a foot in.
    pub zones: Vec<Zone>,
}

/// A zone of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name, such as `eu-central-1a`.
    pub name: String,
    /// The subnet there.
    pub subnet_id: String,
    /// Addresses that were asked for; empty where AWS chose.
    pub addresses: Vec<ZoneAddress>,
}

/// A fixed address of a load balancer in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneAddress {
    /// The public address.
    pub public: Option<Ipv4Addr>,
    /// The address inside the VPC.
    pub private: Option<Ipv4Addr>,
    /// The allocation of a public address.
    pub allocation_id: Option<String>,
}

/// A listener of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its ARN.
    pub arn: Arn,
    /// Its port.
    pub port: u16,
    /// `TCP`, `TLS`, …
    pub protocol: String,
    /// Target groups that its default action forwards to.
    pub forwards_to: Vec<Arn>,
}

/// A target group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: Arn,
    /// Its name.
    pub name: String,
    /// `TCP`, `TLS`, …
    pub protocol: String,
    /// The port of targets that name none.
    pub port: u16,
    /// Its VPC.
    pub vpc_id: String,
    /// `instance`, `ip`, …
    pub target_type: String,
    /// How targets are probed.
    pub health_check: HealthCheck,
    /// Load balancers that forward to it.
    pub load_balancers: Vec<Arn>,
}

/// How targets are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Whether they are at all.
    pub enabled: bool,
    /// `TCP`, `HTTP` or `HTTPS`.
    pub protocol: String,
    /// `traffic-port`, or a number.
    pub port: String,
    /// What is asked for by HTTP.
    pub path: Option<String>,
    /// Which HTTP codes are healthy.
    pub codes: Option<String>,
    /// Between two probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Probes in a row that make a target healthy.
    pub healthy_threshold: u32,
    /// Probes in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
}

/// A target to register or to take out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// An instance's id, or an address.
    pub id: String,
    /// Its port; the target group's without one.
    pub port: Option<u16>,
}

/// How a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetHealth {
    /// An instance's id, or an address.
    pub id: String,
    /// Its port.
    pub port: u16,
    /// What the balancer does with it.
    pub state: TargetState,
    /// AWS's word for why, such as `Elb.RegistrationInProgress`.
    pub reason: Option<String>,
    /// The same in AWS's sentence.
    pub description: Option<String>,
}

/// What a load balancer does with a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetState {
    /// It is being registered, or its first probes are under way: no traffic yet.
    Initial,
    /// It gets traffic.
    Healthy,
    /// It gets none, unless all are so.
    Unhealthy,
    /// It is unhealthy, and its connections are given time to end.
    UnhealthyDraining,
    /// It is not registered, or the group has no listener, or it is stopped.
    Unused,
    /// It is being taken out: no new connections.
    Draining,
    /// It is not probed.
    Unavailable,
    /// A word that is not known here.
    Other(String),
}

impl TargetState {
    fn of(word: &str) -> TargetState {
        match word {
            "initial" => TargetState::Initial,
            "healthy" => TargetState::Healthy,
            "unhealthy" => TargetState::Unhealthy,
            "unhealthy.draining" => TargetState::UnhealthyDraining,
            "unused" => TargetState::Unused,
            "draining" => TargetState::Draining,
            "unavailable" => TargetState::Unavailable,
            other => TargetState::Other(crate::error::shown(other, 60)),
        }
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetState::Initial => "initial",
            TargetState::Healthy => "healthy",
            TargetState::Unhealthy => "unhealthy",
            TargetState::UnhealthyDraining => "unhealthy.draining",
            TargetState::Unused => "unused",
            TargetState::Draining => "draining",
            TargetState::Unavailable => "unavailable",
            TargetState::Other(word) => word,
        })
    }
}

impl Aws {
    /// Load balancers by their ARNs. One that does not exist makes the whole call fail with `LoadBalancerNotFound`.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn load_balancers(
        &self,
        arns: &[Arn],
        within: Duration,
    ) -> Result<Vec<LoadBalancer>, AwsError> {
        let mut all = Vec::new();
        for arns in arns.chunks(ARNS_MAX) {
            let call = numbered(
                call("DescribeLoadBalancers"),
                "LoadBalancerArns.member",
                arns,
            );
            let page = self.pages(call, &PAGING, within, |xml| {
                each(xml.list("LoadBalancers")?, load_balancer)
            });
            all.extend(page.await?);
        }
        Ok(all)
    }

    /// The attributes of a load balancer, such as `load_balancing.cross_zone.enabled`.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn load_balancer_attributes(
        &self,
        balancer: &Arn,
        within: Duration,
    ) -> Result<BTreeMap<String, String>, AwsError> {
        let call = call("DescribeLoadBalancerAttributes").with("LoadBalancerArn", balancer);
        self.call(&call, within, attributes).await
    }

    /// The listeners of a load balancer.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn listeners(
        &self,
        balancer: &Arn,
        within: Duration,
    ) -> Result<Vec<Listener>, AwsError> {
        let call = call("DescribeListeners").with("LoadBalancerArn", balancer);
        let read = |xml: &Xml| each(xml.list("Listeners")?, listener);
        self.pages(call, &PAGING, within, read).await
    }

    /// Target groups by their ARNs. One that does not exist makes the whole call fail with `TargetGroupNotFound`.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn target_groups(
        &self,
        arns: &[Arn],
        within: Duration,
    ) -> Result<Vec<TargetGroup>, AwsError> {
        let mut all = Vec::new();
        for arns in arns.chunks(ARNS_MAX) {
            let call = numbered(call("DescribeTargetGroups"), "TargetGroupArns.member", arns);
            all.extend(self.pages(call, &PAGING, within, target_groups).await?);
        }
        Ok(all)
    }

    /// Target groups that a load balancer forwards to.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn target_groups_of(
        &self,
        balancer: &Arn,
        within: Duration,
    ) -> Result<Vec<TargetGroup>, AwsError> {
        let call = call("DescribeTargetGroups").with("LoadBalancerArn", balancer);
        self.pages(call, &PAGING, within, target_groups).await
    }

    /// The attributes of a target group, such as `preserve_client_ip.enabled`.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn target_group_attributes(
        &self,
        group: &Arn,
        within: Duration,
    ) -> Result<BTreeMap<String, String>, AwsError> {
        let call = call("DescribeTargetGroupAttributes").with("TargetGroupArn", group);
        self.call(&call, within, attributes).await
    }

    /// How the targets of a group are, those that are being taken out among them. One that is not in the answer is not registered.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn target_health(
        &self,
        group: &Arn,
        within: Duration,
    ) -> Result<Vec<TargetHealth>, AwsError> {
        let call = call("DescribeTargetHealth").with("TargetGroupArn", group);
        let read = |xml: &Xml| each(xml.list("TargetHealthDescriptions")?, target_health);
        self.call(&call, within, read).await
    }

    /// Registers targets. One that is registered stays so; one that is draining comes back. Traffic comes minutes later, when it is healthy.
    ///
    /// # Errors
    /// See [`AwsError`]; `InvalidTarget` for an instance that is not running or not in the group's VPC.
    pub async fn register_targets(
        &self,
        group: &Arn,
        targets: &[Target],
        within: Duration,
    ) -> Result<(), AwsError> {
        self.move_targets("RegisterTargets", group, targets, within)
            .await
    }

    /// Takes targets out: no new connections, and draining for the group's delay. One that is not there is no error.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn deregister_targets(
        &self,
        group: &Arn,
        targets: &[Target],
        within: Duration,
    ) -> Result<(), AwsError> {
        self.move_targets("DeregisterTargets", group, targets, within)
            .await
    }

    async fn move_targets(
        &self,
        action: &'static str,
        group: &Arn,
        targets: &[Target],
        within: Duration,
    ) -> Result<(), AwsError> {
        // AWS refuses an empty list; nothing to do is done.
        if targets.is_empty() {
            return Ok(());
        }
        let mut call = call(action).with("TargetGroupArn", group);
        for (number, target) in (1..).zip(targets) {
            call = call.with(format!("Targets.member.{number}.Id"), &target.id);
            if let Some(port) = target.port {
                call = call.with(format!("Targets.member.{number}.Port"), port);
            }
        }
        self.call(&call, within, |_| Ok(())).await
    }
}

fn call(action: &'static str) -> Call {
    Call::new(Service::Balancers, action)
}

fn numbered(mut call: Call, name: &str, values: &[Arn]) -> Call {
    for (number, value) in (1..).zip(values) {
        call = call.with(format!("{name}.{number}"), value);
    }
    call
}

fn each<T>(list: &[Xml], read: impl Fn(&Xml) -> Result<T, Unfit>) -> Result<Vec<T>, Unfit> {
    list.iter().map(read).collect()
}

fn arn(xml: &Xml) -> Result<Arn, Unfit> {
    xml.own_text().parse().map_err(Unfit)
}

fn attributes(xml: &Xml) -> Result<BTreeMap<String, String>, Unfit> {
    // A value may be empty; the key is what makes it one.
    let pair = |xml: &Xml| Ok((xml.text("Key")?, xml.optional("Value").unwrap_or_default()));
    Ok(each(xml.list("Attributes")?, pair)?.into_iter().collect())
}

fn load_balancer(xml: &Xml) -> Result<LoadBalancer, Unfit> {
    let scheme = xml.text("Scheme")?;
    let zone = |xml: &Xml| {
        let address = |xml: &Xml| {
            Ok(ZoneAddress {
                public: xml.read_optional("IpAddress")?,
                private: xml.read_optional("PrivateIPv4Address")?,
                allocation_id: xml.optional("AllocationId"),
            })
        };
        Ok(Zone {
            name: xml.text("ZoneName")?,
            subnet_id: xml.text("SubnetId")?,
            addresses: each(xml.list_or_none("LoadBalancerAddresses"), address)?,
        })
    };
    Ok(LoadBalancer {
        arn: arn(xml.has("LoadBalancerArn")?)?,
        name: xml.text("LoadBalancerName")?,
        kind: xml.text("Type")?,
        internal: match scheme.as_str() {
            "internal" => true,
            "internet-facing" => false,
            other => {
                let other = crate::error::shown(other, 60);
                return Err(Unfit(format!("`Scheme` is `{other}`")));
            }
        },
        dns_name: xml.text("DNSName")?,
        zone_id: xml.optional("CanonicalHostedZoneId"),
        state: xml.has("State")?.text("Code")?,
        vpc_id: xml.text("VpcId")?,
        security_groups: xml
            .list_or_none("SecurityGroups")
            .iter()
            .map(|group| group.own_text().to_owned())
            .collect(),
        zones: each(xml.list("AvailabilityZones")?, zone)?,
    })
}

fn listener(xml: &Xml) -> Result<Listener, Unfit> {
    let mut forwards_to = Vec::new();
    for action in xml.list("DefaultActions")? {
        let many = action
            .child("ForwardConfig")
            .map_or(&[][..], |forward| forward.list_or_none("TargetGroups"));
        for holder in std::iter::once(action).chain(many) {
            if let Some(group) = holder.child("TargetGroupArn") {
                let group = arn(group)?;
                if !forwards_to.contains(&group) {
                    forwards_to.push(group);
                }
            }
        }
    }
    Ok(Listener {
        arn: arn(xml.has("ListenerArn")?)?,
        port: xml.read("Port")?,
        protocol: xml.text("Protocol")?,
        forwards_to,
    })
}

fn target_groups(xml: &Xml) -> Result<Vec<TargetGroup>, Unfit> {
    each(xml.list("TargetGroups")?, target_group)
}

fn target_group(xml: &Xml) -> Result<TargetGroup, Unfit> {
    let seconds = |name| xml.read(name).map(Duration::from_secs);
    Ok(TargetGroup {
        arn: arn(xml.has("TargetGroupArn")?)?,
        name: xml.text("TargetGroupName")?,
        protocol: xml.text("Protocol")?,
        port: xml.read("Port")?,
        vpc_id: xml.text("VpcId")?,
        target_type: xml.text("TargetType")?,
        health_check: HealthCheck {
            enabled: xml.read("HealthCheckEnabled")?,
            protocol: xml.text("HealthCheckProtocol")?,
            port: xml.text("HealthCheckPort")?,
            path: xml.optional("HealthCheckPath"),
            codes: xml
                .child("Matcher")
                .and_then(|matcher| matcher.optional("HttpCode")),
            interval: seconds("HealthCheckIntervalSeconds")?,
            timeout: seconds("HealthCheckTimeoutSeconds")?,
            healthy_threshold: xml.read("HealthyThresholdCount")?,
            unhealthy_threshold: xml.read("UnhealthyThresholdCount")?,
        },
        load_balancers: each(xml.list_or_none("LoadBalancerArns"), arn)?,
    })
}

fn target_health(xml: &Xml) -> Result<TargetHealth, Unfit> {
    let (target, health) = (xml.has("Target")?, xml.has("TargetHealth")?);
    Ok(TargetHealth {
        id: target.text("Id")?,
        port: target.read("Port")?,
        state: TargetState::of(&health.text("State")?),
        reason: health.optional("Reason"),
        description: health.optional("Description"),
    })
}
