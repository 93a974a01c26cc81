//! The codes of findings: one table with a name, a title, the reason, the way on and what else its page says. Names are never given to
//! another finding.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($variant:ident = $name:literal, $title:literal, $why:literal, $fix:literal, $more:literal;)*) => {
        /// A kind of finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All of them: those about Terraform plans, then those about load balancers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// `master-stopped`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The finding in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// Why it is one.
            pub fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)* }
            }

            /// What to do.
            pub fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix,)* }
            }

            /// What else there is to know. May be empty.
            fn more(self) -> &'static str {
                match self { $(Self::$variant => $more,)* }
            }
        }
    };
}

impl Code {
    /// The code of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// The whole page about it, in paragraphs of Markdown.
    pub fn page(self) -> String {
        let mut page = format!("{}\n\nWhat to do: {}\n", self.why(), self.fix());
        if !self.more().is_empty() {
            page += &format!("\n{}\n", self.more());
        }
        page
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

codes! {
    MasterDestroyed = "master-destroyed", "a master is destroyed",
    "With the machine goes a voter of etcd that is still a member: it counts for the majority and is not there.",
    "take it out of the cluster first (`quorate remove NODE`, or `quorate replace NODE`), then plan again",
    "With `-f` the lint asks the cluster: a machine whose member is gone may go.";

    MasterReplaced = "master-replaced", "a master is made anew",
    "The machine that comes has an empty disk and the old one's name. Its member of etcd is still there and never answers again.",
    "keep what is the reason for it (image, subnet, user data) as it was, or bring a machine of another name and `quorate replace NODE --with OTHER`",
    "Terraform says at the attribute what forces the replacement. The modules ignore changes of image, user data, subnet and key pair of machines \
that are there, so that only a machine of your own or a tainted one comes to this.";

    MasterStopped = "master-stopped", "a master is stopped",
    "Terraform calls it an update in place, and stops the machine for it: etcd's voter and an API server are away for minutes.",
    "one master at a time: apply, wait until `quorate status` says healthy, then the next; for the old master of an adopted cluster write what it has now",
    "What stops a machine: another `instance_type`, `user_data` or `ebs_optimized`, and an `aws_ec2_instance_state` that says so. With `-f` the \
lint asks the quorum guard, and it is a warning where the other masters keep the majority.";

    MastersTogether = "masters-together", "several masters in one plan",
    "Terraform works on resources side by side. Two of three masters away at once are the loss of the majority: no write is answered.",
    "split it: apply for one master (`terraform apply -target=ADDRESS`, or change one name alone), wait until `quorate status` says healthy, then the next",
    "To end a cluster on purpose there is no code to accept: `terraform destroy` asks for itself.";

    MachineUnknown = "machine-unknown", "a machine that may be a master",
    "The plan destroys, replaces or stops a machine, and nothing says what it is: neither its tag `quorate/role`, nor its name, nor a cluster file.",
    "give the cluster file with `-f`, so that masters are known by their addresses, or tag the machine: `quorate/role = worker`",
    "";

    ApiRuleRemoved = "api-rule-removed", "somebody loses the way to port 6443",
    "Whoever uses the API by that rule is cut off when it goes: kubelets, controllers and people stay outside until it is back.",
    "keep the rule until nobody uses that way: for an old endpoint, until every kubeconfig and kubelet has the new one",
    "It counts rules of security groups, the lists inside of a group, groups that go, and groups that are taken from a master. A rule that \
is made again for the same group and the same source is none that goes.";

    EndpointLost = "endpoint-lost", "the balancer of the API goes",
    "Its address is behind the endpoint's name. Without balancer, listener or target group nobody reaches the API; a balancer made anew has \
another address, and no targets until they are registered.",
    "keep what is the reason for it as it was; to exchange a balancer make a second one beside it, register the masters there, move the name, wait for DNS, then take the first one away",
    "";

    EtcdDiskLost = "etcd-disk-lost", "etcd's disk goes",
    "The volume of a master is destroyed, replaced or taken from its machine: etcd's data goes with it, from under a running member.",
    "take the master out of the cluster first (`quorate remove NODE`, or `quorate replace NODE`)",
    "";

    TargetsOwned = "targets-owned", "Terraform registers masters at the balancer",
    "A master registered before its API server serves gets traffic all the same while all targets are unhealthy. And two owners of a target \
undo each other: after an exchange of a master Terraform brings the old one back.",
    "take `aws_lb_target_group_attachment` out of the configuration (`terraform state rm` keeps the target); masters are registered when their own /readyz is green",
    "";

    ProtectionLifted = "protection-lifted", "a master loses its termination protection",
    "Termination protection is what stops a mistake in a plan, or in the console, from ending a voter of etcd.",
    "lift it for the one machine whose member of etcd is gone, and for all only to end the cluster",
    "";

    NlbKind = "nlb-kind", "no Network Load Balancer",
    "The API server authenticates clients by their certificates. A balancer that ends TLS itself shows it nobody's certificate: every kubelet would be anonymous.",
    "use a Network Load Balancer with a TCP listener",
    "";

    NlbListener = "nlb-listener", "no TCP listener for the API",
    "The API is reached through a TCP listener that forwards to a TCP target group. A TLS listener ends TLS, and the API server sees nobody's certificate.",
    "make a listener with protocol TCP on the endpoint's port that forwards to a TCP target group",
    "";

    NlbHairpin = "nlb-hairpin", "clients' addresses are preserved",
    "A master that reaches the balancer and is led to itself gets packets that come from its own address, drops them and times out: of three \
masters each loses a third of its connections.",
    "set `preserve_client_ip.enabled` of the target group to false",
    "For targets by instance id it is on unless told otherwise. The price of turning it off: API servers see the balancer's address. Connections \
that are open when it changes may be cut.";

    NlbHealthCheck = "nlb-health-check", "targets are not asked whether they are ready",
    "A check that only opens a connection keeps a master in service whose API server listens and whose etcd is gone. `/livez` stays green \
while an API server shuts down.",
    "check HTTPS `/readyz` on the traffic port, with code 200",
    "";

    NlbSlowCheck = "nlb-slow-check", "a dead master is found late",
    "Until interval times threshold are over, clients are sent to a dead master.",
    "an interval of 5 s, thresholds of 2, and a timeout of 3 to 4 s, which leaves room for the API server's own look at etcd",
    "";

    NlbCrossZone = "nlb-cross-zone", "each zone's address leads to that zone's masters only",
    "Without cross-zone balancing the loss of a zone's one master takes the address of that zone out of DNS, with all the caching that DNS does.",
    "set `load_balancing.cross_zone.enabled` of the balancer to true",
    "";

    NlbOneZone = "nlb-one-zone", "the balancer stands in one zone",
    "The loss of that zone is the loss of the endpoint, wherever the masters are.",
    "give the balancer a subnet in each of three zones",
    "Subnets can be added to a balancer that is there.";

    NlbUnready = "nlb-unready", "a target that does not serve",
    "A target is there and unhealthy: it was registered before its API server served, or it died and was left. While all targets are unhealthy \
the balancer sends traffic to all of them.",
    "register a master when its own /readyz is green, the first one before anything else needs the endpoint; take out those that are gone",
    "";

    NlbNoGroup = "nlb-no-group", "the balancer has no security group",
    "It lets in everybody who can reach its subnets, and a group cannot be given later.",
    "make a balancer with a security group, move the endpoint's name to it, and take the old one away",
    "";

    NlbOpen = "nlb-open", "the API is open to the whole world",
    "Whoever finds the address can try every hole that an API server ever has, and take its capacity.",
    "name the networks that need it, those of the nodes' NAT gateways among them",
    "For an internal balancer it is a warning: the VPC's routes decide who comes that far.";

    NlbDraining = "nlb-draining", "connections to a master that leaves never end",
    "Watches have no end of their own: without cutting them, clients go on waiting at a master whose API server has stopped, or that is dead.",
    "set `deregistration_delay.connection_termination.enabled` and `target_health_state.unhealthy.connection_termination.enabled` to true, and the delay to 60 to 120 s: API requests last at most a minute",
    "";
}
