//! The codes of mistakes: one table with a name, a title and a page for each. Names are never given to another mistake.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Severity;

macro_rules! codes {
    ($($variant:ident = $name:literal, $title:literal, $page:literal;)*) => {
        /// A kind of mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// `Q0102`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The mistake in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// The whole page about it: why it is one, and the way out. Paragraphs of Markdown.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $page,)* }
            }
        }
    };
}

impl Code {
    /// The code of that name, in any case: `q0102`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.name().eq_ignore_ascii_case(name))
    }

    /// Codes from Q0500 on are warnings.
    pub fn severity(self) -> Severity {
        if self >= Self::LoadBalancerName {
            Severity::Warning
        } else {
            Severity::Error
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

/// The page about a code, by its name. `None`: there is no such code.
pub fn explain(code: &str) -> Option<&'static str> {
    Code::parse(code).map(Code::explanation)
}

codes! {
    // 01: the text and its shape.
    Syntax = "Q0101", "not YAML", "\
The cluster file is not well-formed YAML, so nothing in it could be read. The mark is where the reader gave up; the cause is often one line
above: a missing space after a colon, a quote or bracket that is not closed, lines of one block that are not indented alike.

When this mistake is repaired, the rest of the file is checked, and everything else that is wrong is reported at once.";
    UnknownKey = "Q0102", "unknown key", "\
The cluster file has a key that means nothing in this place. Unknown keys are refused rather than ignored: a misspelt `hostsFile` that is
silently dropped would only be noticed when the setting is needed.

The message lists the keys that are possible there and names the nearest one. `quorate schema` prints a JSON Schema for editors, which then
complete and check keys while you type.";
    WrongType = "Q0103", "wrong type", "\
The value has another shape than this key needs: a list where one text is expected, a text where a number is expected, and so on. Numbers
and `true`/`false` are written without quotes; lists in brackets or as lines beginning with `-`; groups of keys in braces or as indented
lines.";
    MissingKey = "Q0104", "missing key", "\
A key that has no default is not there. The mark is at the group it belongs into. `quorate init` writes a file with every key that is needed
and a comment for each.";
    DuplicateKey = "Q0105", "key written twice", "\
The same key is in one group twice. YAML readers disagree about which of the two counts, so neither is taken.";
    Tab = "Q0106", "tab in the indentation", "\
YAML is indented with spaces only; a tab has no defined width and is refused by the language itself. Replace it by spaces, two for each
level, and let the editor expand tabs in YAML files.";
    UnknownValue = "Q0107", "unknown value", "\
The key takes one of a few words, and this is none of them. The message lists them and names the nearest one. Words that a later version
will understand are not accepted before they do something.";
    NotPlainYaml = "Q0108", "anchors, aliases, tags, merge keys or several documents", "\
The cluster file is one plain YAML document: no `&anchor`, `*alias`, `!tag`, `<<` and no second document after `---`. With aliases one line
means something in several places, and a message about it could not say where the mistake is. Write the value out where it is needed.";
    WrongApiVersion = "Q0109", "unknown apiVersion", "\
`apiVersion` says how the rest of the file is to be read. This version of quorate reads `quorate/v1`. A file with another value was made for
another version of quorate, or is not a cluster file: Kubernetes manifests have an `apiVersion` too.";
    NotACluster = "Q0110", "not a cluster file", "\
The file is empty, or is not a group of keys at its top. `quorate init cluster.yaml` writes one to start from.";
    Empty = "Q0111", "empty value", "\
The key is there and its value is empty: nothing after the colon, `null`, `~` or an empty text. Leave the key out to get its default, or
write a value.";
    TooLarge = "Q0112", "file too large", "\
A cluster file is a few kilobytes. One that is larger than a mebibyte, or has more than 32 groups inside each other, is not a cluster file,
and reading on could only cost memory.";

    // 02: hosts.
    BadName = "Q0201", "not a name", "\
Names of clusters and hosts become host names, Kubernetes node names, etcd member names, names of network interfaces and subjects of
certificates. All of these take 1 to 40 of the characters a-z, 0-9 and `-`, beginning and ending with a letter or digit. Capitals and dots
are not possible: a node's name is not its domain name.";
    DuplicateName = "Q0202", "two hosts of one name", "\
Two hosts have the same name. A host's name is its node name and its etcd member name, so each must be unique in the cluster, over masters,
workers and balancers. With `count`, the names cp-1, cp-2, …, w-1, … and lb-1, … are taken.";
    DuplicateAddress = "Q0203", "two hosts of one address", "\
Two hosts have the same address. One of them is probably a copied line. A balancer that shares a host with a master is refused for another
reason, see Q0406.";
    VoterCount = "Q0204", "number of masters", "\
Every control plane host runs a voter of etcd, and a cluster of etcd decides by majority. An even number is never better than one less:
four voters need three to agree and so survive one loss, as three do, while there is one more that can fail; two survive none, where one at
least cannot be split. More than seven make every write slower, and no failure in practice needs them.

Use 3 (survives the loss of one) or 5 (survives two). 1 is accepted and survives nothing; 7 survives three.";
    CountNeedsLocal = "Q0205", "`count` where the hosts are yours", "\
`count` lets quorate make the hosts, name them and choose their addresses. That works with `provider: { kind: local }`. With
`provider: { kind: ssh }` the hosts exist already, and quorate has to be told which ones: list them below `hosts`, each with name and
address.";
    MissingAddress = "Q0206", "host without an address", "\
A host that exists already is reached at its address, and the other hosts reach it there too: etcd's peers, the balancer and kubelets are
configured with it. It is the address of the private network, as a rule. Only with `provider: { kind: local }` may it be left out; it is
then chosen by a fixed rule.";
    NotAnAddress = "Q0207", "not an IP address", "\
An IPv4 address is expected here, such as 10.0.1.11: a name would have to be resolved on every host before there is a cluster, and etcd's
certificates carry addresses.";
    Ipv6 = "Q0208", "IPv6", "\
Quorate builds IPv4 clusters. IPv6 and dual-stack clusters are not supported: kubeadm, Flannel, the balancer and the checks would each have to
be proven with them, and none is. This is refused here, plainly, rather than half-way through a bring-up.";
    CountOrHosts = "Q0209", "`count` and `hosts`", "\
A group of hosts is given either by `count` (quorate makes them) or by `hosts` (a list). Both together could contradict each other, and
neither says nothing.";
    CountRange = "Q0210", "count out of range", "\
With `count`, addresses are given out by a fixed rule inside the subnet: masters from .11, workers from .101, balancers from .201. There is
room for 7 masters, 99 workers and 9 balancers.";
    BadPort = "Q0211", "not a TCP port", "\
A TCP port is a number from 1 to 65535, written without quotes. Port 0 asks a system for any free port, and nobody could know which one that
became.";
    NoMeaning = "Q0212", "key that has no meaning here", "\
The key means something only where another one is different. `subnet` belongs to local hosts, which quorate makes in a network of its own; `user`,
`port`, `identity` and `sudo` belong to hosts that you have, which are reached over SSH. Local hosts are reached as root with a key that
quorate makes for them. `on`, `count` and `hosts` of a balancer belong to quorate's own, which has to be installed somewhere.

A key that does nothing is refused rather than ignored: whoever wrote it expects something of it.";
    UnusableAddress = "Q0213", "address that no host can have", "\
The address is reserved: unspecified (0.0.0.0), loopback (127.x), link-local (169.254.x), multicast or broadcast, the first or last address
of the subnet, or the first usable one, which is this machine's own address on the bridge.";
    BadDevice = "Q0215", "not a block device's name", "\
`etcdDevice` names a block device of its host by a path below /dev, of letters, digits and `/._-:+@`. Names such as /dev/sdb and /dev/nvme1n1 may be
another disk's after the next boot; those below /dev/disk/by-id stay the same, and `ls -l /dev/disk/by-id` on the host shows them.";
    OtherCluster = "Q0214", "Terraform's cluster has another name", "\
The output `quorate_cluster` of the configuration in `provider.directory` is of a cluster with another name. Names are in marks on the hosts and in this
machine's own state, and a file that leads to another cluster's machines would have them taken for one's own. Let `provider.directory` lead to the
right configuration, or give both the same name.";

    // 03: networks.
    NotANetwork = "Q0301", "not a network", "\
A network is written as an address and the number of its leading bits: 10.244.0.0/16.";
    HostBits = "Q0302", "address with host bits", "\
The address of a network has zeros after its leading bits. 10.244.3.0/16 is an address inside 10.244.0.0/16; tools disagree about what it
means as a network, and kubeadm refuses it in some places only.";
    Overlap = "Q0303", "networks overlap", "\
Pods, services and hosts need networks that have no address in common. A packet to an address that is in two of them goes to the wrong one,
on some hosts, some of the time: pods that cannot reach a master, services that answer from elsewhere.

It is hard to change later: choose networks that are also unused wherever the cluster's users and peers are.";
    NetworkSize = "Q0304", "network of an unfit size", "\
The service network may have 12 to 28 leading bits: kube-apiserver refuses more than 2^20 addresses, and the cluster's DNS has the tenth.
Every node gets a /24 of the pod network, so that one has 8 to 24 leading bits, and as many /24 as there are masters and workers.";
    SubnetSize = "Q0305", "subnet of local hosts that is not a /24", "\
The local hosts' network has exactly 24 leading bits: their addresses follow from it by a fixed rule (.1 is the bridge, .11 and on masters,
.101 and on workers, .201 and on balancers).";
    OutsideSubnet = "Q0306", "address outside the subnet", "\
Local hosts live in the network that `provider.subnet` names. An address outside of it could not be reached.";

    // 04: endpoint, balancer, version.
    BadEndpoint = "Q0401", "endpoint that is neither a DNS name nor an address", "\
`endpoint.host` is the name by which everything reaches the API for as long as the cluster lives. It is a DNS name (letters, digits and `-`,
parts separated by dots, no scheme, no port, no path) or an IPv4 address. The port has a key of its own.";
    EndpointIsMaster = "Q0402", "endpoint that is one master", "\
The endpoint is the address of one control plane host. Every kubelet, every kubeconfig and every certificate would carry it, and the loss of
that one host would be the loss of the API: exactly what several masters are there to prevent. kube-apiserver cannot listen on the balancer's
address either: the endpoint is the balancer's, and goes into `controlPlaneEndpoint` and into the certificates.

Use a DNS name that you own, or the address of a balancer.";
    EndpointElsewhere = "Q0403", "endpoint that is none of the balancers", "\
`endpoint.host` is an address, the balancer is quorate's, and none of the balancer hosts has that address: nothing would answer there. Use the
address of a balancer, or better a DNS name, which can be pointed elsewhere later. If something else forwards that address, say
`balancer: { kind: external }`.";
    UnsupportedVersion = "Q0404", "Kubernetes version that is not supported", "\
This version of quorate brings up Kubernetes 1.34, 1.35 and 1.36. kubeadm's configuration, etcd's version and the flags of the components change
between versions, and only these were run.";
    InexactVersion = "Q0405", "version that is not exact", "\
The version is written whole, as in 1.35.4, without `v`: `1.35` would mean another version next month, and two runs of one file would not give
the same cluster.";
    BalancerOnMaster = "Q0406", "balancer on a master", "\
A balancer host is also a master or worker. kube-apiserver holds port 6443 on every address of its host, so a balancer there cannot have it,
and a host that takes both down with it is a poor balancer. Give the balancer a host of its own; let all masters balance behind an address
that they share, with `balancer: { on: masters }`; or use a balancer you have with `balancer: { kind: external }`.";
    PortTaken = "Q0407", "endpoint port that the balancer host needs itself", "\
The balancer listens on `endpoint.port`, and that port is already used on the balancer's host: 22 (or the port given for SSH) is how quorate
reaches it. Use 6443, or 443.";
    NothingToWrite = "Q0408", "managed hosts file without an address", "\
With `hostsFile: managed` quorate writes the endpoint's name and the address behind it into /etc/hosts of every host. Behind an external
balancer it does not know the address. Let DNS resolve the name, or give the address as `endpoint.host`.";
    BadRepository = "Q0409", "not the address of a package repository", "\
`components.repository` is the directory of a flat repository of Debian packages, which has the files `InRelease` and `Packages`: for Kubernetes' own, or a
mirror of it, the address that ends in `/core:/stable:/v1.35/deb/`. It begins with https:// or http:// (what comes from it is held to its signature either
way) and consists of letters, digits and `-._~:/+%`. User and password do not belong into the cluster file: apt reads them from /etc/apt/auth.conf.d on
the hosts.";
    PackageVersion = "Q0410", "packages of another version", "\
`components.version` is the version of the packages kubelet, kubeadm and kubectl, with the revision that their repository gave them: 1.35.4-1.1. It is
exact, and of the Kubernetes that `kubernetes` names (1.35.4, unless the file says otherwise): the images and the settings of the cluster are of that
version, and a kubelet of another one is a change that nobody planned. The packages are held at it.";
    RecordsNeedAName = "Q0411", "endpoint that records of DNS alone cannot lead to", "\
With `balancer: { kind: dns }` nothing stands between clients and masters: the endpoint is a DNS name with an address record for every master, and
clients come to the port on which kube-apiserver listens, 6443. An address has no records, and another port would need somebody who listens there and
passes connections on. Give a name and leave the port out, or name a balancer.";
    SharedAddress = "Q0412", "shared address that one host has", "\
With `balancer: { on: masters }` the masters share `balancer.address`: keepalived holds it on one of them, and on another one when that is gone. An
address that a host has for itself cannot be shared: both would answer for it. Take a free one in the network of the masters, and keep it out of what a
DHCP server gives out.";
    NothingToShare = "Q0413", "shared address where none moves", "\
With `balancer: { on: masters }` an address moves from one master to another, and the network learns of it from the new holder. The network of a cloud
does not: it knows by itself which machine has which address. Hosts that Terraform made have a Network Load Balancer instead, which is the default there,
or somebody else's balancer with `balancer: { kind: external }`.";

    // 05: warnings.
    LoadBalancerName = "Q0501", "endpoint that is a cloud load balancer's own name", "\
The endpoint is the name that the cloud gave to a load balancer. It is part of every certificate and kubeconfig, and it goes away with that load
balancer: replacing it, or moving to another kind, then means touching every node and every user. Use a name in a zone you own, and let it be an
alias (CNAME) of the load balancer's.

An ALB cannot stand there at all: it ends TLS, and the API server authenticates clients by their certificates. It must be a Network Load Balancer
with a TCP listener.";
    OneBalancer = "Q0502", "fewer than two balancers", "\
With one balancer, its loss is the loss of the endpoint: running pods go on, and nobody reaches the API until it is back. `status` says so as
`survives the loss of the balancer: no`. On one machine, for trying and testing, that is usually fine.";
    HostsFileUnused = "Q0503", "managed hosts file for an address", "\
`hostsFile: managed` writes the endpoint's name into /etc/hosts. The endpoint here is an address, which needs no name, so nothing is written.";
    OneMaster = "Q0504", "a single master", "\
With one control plane host the cluster survives the loss of none, and its etcd data is on one disk. More can be added at any time: the endpoint
is a name from the beginning, so nothing else has to change.";
    OneZone = "Q0505", "all masters in one zone", "\
Every control plane host is said to be in the same zone. The loss of that zone is then the loss of the cluster, whatever their number. Spread them
over three.";
    TwoZones = "Q0506", "a majority of the masters in one zone", "\
A majority of the control plane hosts is in one zone. The loss of that zone leaves too few voters to decide anything; only the loss of the other
zone is survived. Three zones are needed to survive the loss of any one.";
    DnsOnly = "Q0507", "no balancer, only records of DNS", "\
The endpoint's name has an address record for every master, and nothing stands in between. That has its price when a master is lost:

- Its record goes on being answered. Clients that try one address after the other (kubelet, kube-proxy, kubectl and all others made with Go) come to
  another master; each new connection that begins with the dead one costs them a connection timeout, which is seconds. Others get an error.
- Who is connected stays with the one address that it resolved once, and notices a loss when its connection times out.
- Nobody takes the record away but you, and it is believed for as long as its TTL, and longer by some. Give it a short one: 30 to 60 seconds.

`plan`, `apply` and `status` say which records to add and which to remove. A balancer does all this by itself: `quorate`'s on two hosts, or one that you
have.";
}
