//! Instances and the rules of security groups: the calls of EC2 and what they answer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::api::{Aws, Call, Paging};
use crate::endpoint::Service;
use crate::error::{AwsError, shown};
use crate::xml::{Unfit, Xml};

const PAGING: Paging = Paging {
    parameter: "NextToken",
    element: "nextToken",
};

/// Values that one filter takes, and instances on one page.
const VALUES_MAX: usize = 200;

/// Rules on one page.
const RULES_PAGE: usize = 500;

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Whether it runs.
    pub state: InstanceState,
    /// Its address in the VPC; a terminated one has none.
    pub address: Option<Ipv4Addr>,
    /// Its zone.
    pub zone: String,
    /// Its VPC; a terminated one has none.
    pub vpc_id: Option<String>,
    /// Its subnet; a terminated one has none.
    pub subnet_id: Option<String>,
    /// Its type, such as `t3.large`.
    pub kind: String,
    /// Its image.
    pub image_id: String,
    /// Its security groups.
    pub security_groups: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether its metadata service wants a session first (IMDSv2). `None` where EC2 does not say.
    pub session_required: Option<bool>,
    /// Through how many hosts an answer of its metadata service may go. `None` where EC2 does not say.
    pub metadata_hops: Option<u32>,
}

/// Whether an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceState {
    /// It is being made or started.
    Pending,
    /// It runs, as far as EC2 knows.
    Running,
    /// It is being ended for good.
    ShuttingDown,
    /// It is gone.
    Terminated,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
    /// A word that is not known here.
    Other(String),
}

impl InstanceState {
    fn of(word: &str) -> InstanceState {
        match word {
            "pending" => InstanceState::Pending,
            "running" => InstanceState::Running,
            "shutting-down" => InstanceState::ShuttingDown,
            "terminated" => InstanceState::Terminated,
            "stopping" => InstanceState::Stopping,
            "stopped" => InstanceState::Stopped,
            other => InstanceState::Other(shown(other, 60)),
        }
    }
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Its group.
    pub group_id: String,
    /// Whether it admits what comes or lets out what goes.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, a number, or `-1` for all.
    pub protocol: String,
    /// The first and last port; for ICMP type and code. `None` for all.
    pub ports: Option<(u16, u16)>,
    /// The other side.
    pub peer: Peer,
    /// What somebody wrote about it.
    pub description: Option<String>,
}

/// Which way a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To members of the group.
    In,
    /// From members of the group.
    Out,
}

/// The other side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// IPv4 addresses, as `10.0.0.0/16`.
    Ipv4(String),
    /// IPv6 addresses, as `::/0`.
    Ipv6(String),
    /// A list of networks that is kept elsewhere.
    PrefixList(String),
    /// Members of a security group.
    Group(String),
}

impl Aws {
    /// Instances by their ids. One that is not in the answer does not exist; one that was terminated is there for about an hour.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn instances(
        &self,
        ids: &[impl AsRef<str>],
        within: Duration,
    ) -> Result<Vec<Instance>, AwsError> {
        let mut all = Vec::new();
        for ids in ids.chunks(VALUES_MAX) {
            // Asked for by a filter, one that does not exist is left out; by its id, the whole call would fail.
            let call = filtered("DescribeInstances", "instance-id", ids);
            let call = call.with("MaxResults", VALUES_MAX);
            let page = self.pages(call, &PAGING, within, |xml| {
                let mut instances = Vec::new();
                for reservation in xml.list("reservationSet")? {
                    for item in reservation.list("instancesSet")? {
                        instances.push(instance(item)?);
                    }
                }
                Ok(instances)
            });
            all.extend(page.await?);
        }
        Ok(all)
    }

    /// All rules of security groups.
    ///
    /// # Errors
    /// See [`AwsError`].
    pub async fn security_group_rules(
        &self,
        groups: &[impl AsRef<str>],
        within: Duration,
    ) -> Result<Vec<Rule>, AwsError> {
        let mut all = Vec::new();
        for groups in groups.chunks(VALUES_MAX) {
            let call = filtered("DescribeSecurityGroupRules", "group-id", groups);
            let call = call.with("MaxResults", RULES_PAGE);
            let page = self.pages(call, &PAGING, within, |xml| {
                xml.list("securityGroupRuleSet")?.iter().map(rule).collect()
            });
            all.extend(page.await?);
        }
        Ok(all)
    }
}

fn filtered(action: &'static str, name: &str, values: &[impl AsRef<str>]) -> Call {
    let mut call = Call::new(Service::Ec2, action).with("Filter.1.Name", name);
    for (number, value) in (1..).zip(values) {
        call = call.with(format!("Filter.1.Value.{number}"), value.as_ref());
    }
    call
}

fn instance(xml: &Xml) -> Result<Instance, Unfit> {
    let options = xml.child("metadataOptions");
    let tag = |xml: &Xml| Ok((xml.text("key")?, xml.optional("value").unwrap_or_default()));
    Ok(Instance {
        id: xml.text("instanceId")?,
        state: InstanceState::of(&xml.has("instanceState")?.text("name")?),
        address: xml.read_optional("privateIpAddress")?,
        zone: xml.has("placement")?.text("availabilityZone")?,
        vpc_id: xml.optional("vpcId"),
        subnet_id: xml.optional("subnetId"),
        kind: xml.text("instanceType")?,
        image_id: xml.text("imageId")?,
        security_groups: xml
            .list_or_none("groupSet")
            .iter()
            .map(|group| group.text("groupId"))
            .collect::<Result<_, Unfit>>()?,
        tags: xml
            .list_or_none("tagSet")
            .iter()
            .map(tag)
            .collect::<Result<_, Unfit>>()?,
        session_required: match options.and_then(|options| options.optional("httpTokens")) {
            Some(word) if word == "required" => Some(true),
            Some(word) if word == "optional" => Some(false),
            Some(word) => {
                return Err(Unfit(format!("`httpTokens` is `{}`", shown(&word, 60))));
            }
            None => None,
        },
        metadata_hops: match options {
            Some(options) => options.read_optional("httpPutResponseHopLimit")?,
            None => None,
        },
    })
}

fn rule(xml: &Xml) -> Result<Rule, Unfit> {
    let id = xml.text("securityGroupRuleId")?;
    let peers = [
        xml.optional("cidrIpv4").map(Peer::Ipv4),
        xml.optional("cidrIpv6").map(Peer::Ipv6),
        xml.optional("prefixListId").map(Peer::PrefixList),
        xml.child("referencedGroupInfo")
            .and_then(|group| group.optional("groupId"))
            .map(Peer::Group),
    ];
    let mut peers = peers.into_iter().flatten();
    let (Some(peer), None) = (peers.next(), peers.next()) else {
        let id = shown(&id, 60);
        return Err(Unfit(format!("rule `{id}` has not exactly one other side")));
    };
    // Left out or -1 for all.
    let port = |name| -> Result<Option<u16>, Unfit> {
        match xml.optional(name).as_deref() {
            None | Some("-1") => Ok(None),
            Some(_) => xml.read(name).map(Some),
        }
    };
    let ports = match (port("fromPort")?, port("toPort")?) {
        (Some(from), Some(to)) => Some((from, to)),
        (None, None) => None,
        // ICMP: all codes of a type.
        (Some(from), None) => Some((from, u16::MAX)),
        (None, Some(to)) => Some((0, to)),
    };
    Ok(Rule {
        id,
        group_id: xml.text("groupId")?,
        direction: match xml.read::<bool>("isEgress")? {
            true => Direction::Out,
            false => Direction::In,
        },
        protocol: xml.text("ipProtocol")?,
        ports,
        peer,
        description: xml.optional("description"),
    })
}
