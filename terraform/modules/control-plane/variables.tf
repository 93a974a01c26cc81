variable "name" {
  description = "Name of the cluster, as in the cluster file. Every resource is called by it."
  type        = string

  validation {
    # A balancer's name has at most 32 characters, and -api is put behind.
    condition     = can(regex("^[a-z]([a-z0-9-]{0,26}[a-z0-9])?$", var.name))
    error_message = "The name is 1 to 28 of a-z, 0-9 and -, begins with a letter and does not end with -."
  }
}

# Where

variable "vpc_id" {
  description = "VPC of the cluster."
  type        = string
}

variable "subnet_ids" {
  description = "Subnet of each availability zone that machines may go to, by zone: `{ eu-central-1a = \"subnet-…\" }`. Three zones where three masters shall survive the loss of one; a single zone is refused for more than one master."
  type        = map(string)

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "At least one zone and its subnet."
  }
}

# Masters

variable "master_count" {
  description = "How many masters, called cp-1, cp-2, …: 1, 3 or 5. Not used where `masters` names them."
  type        = number
  default     = 3

  validation {
    condition     = contains([1, 3, 5], var.master_count)
    error_message = "1, 3 or 5 masters: an even number survives no more losses than the odd one below it, and has one machine more that can fail."
  }
}

variable "masters" {
  description = <<-EOT
    Masters by name, where the count is not enough. Names are those of the nodes.
    - `zone`: its availability zone. Default: by the number at the end of its name, so that cp-1 and cp-4 share the first zone; a name without a number needs one. A master stays in the zone that it was made in.
    - `instance_type`: default `master_instance_type`. Changing it stops the machine: one master at a time, each after the cluster is healthy again.
    - `leaving`: is about to be removed, and does not count: with it a fourth machine may be there while one takes another's place.
    - `adopted`: a machine that was there before this module and keeps everything it has: disks, metadata options, user data, key, address. Security groups and tags are added, nothing else changes. `instance_type` and `security_group_ids` say what it has now, and so does `source_dest_check`; `tags` wins over the module's.
  EOT
  type = map(object({
    zone          = optional(string)
    instance_type = optional(string)
    leaving       = optional(bool, false)
    adopted = optional(object({
      instance_type      = string
      security_group_ids = list(string)
      source_dest_check  = optional(bool, true)
      tags               = optional(map(string), {})
    }))
  }))
  default = {}

  validation {
    condition     = length(var.masters) == 0 || contains([1, 3, 5], length([for master in values(var.masters) : master if !master.leaving]))
    error_message = "1, 3 or 5 masters that stay: an even number survives no more losses than the odd one below it. One that is on its way out is `leaving`, and does not count."
  }

  validation {
    condition     = alltrue([for name in keys(var.masters) : can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", name))])
    error_message = "A master's name is its node's: 1 to 63 of a-z, 0-9, - and ., not at the ends."
  }
}

variable "ami_id" {
  description = "Image of new machines: Debian 12 or another that the cluster's components know. Changing it changes no machine that is there."
  type        = string
}

variable "master_instance_type" {
  description = "Instance type of masters."
  type        = string
  default     = "t3.large"
}

variable "key_name" {
  description = "EC2 key pair of new machines, which operators get in with. Without one the image has to bring keys or a certificate authority for SSH. Changing it changes no machine that is there."
  type        = string
  default     = null
}

variable "user_data" {
  description = "User data of new machines. Anybody on the machine can read it, so it must hold no secret; changing it changes no machine that is there."
  type        = string
  default     = null

  validation {
    condition     = var.user_data == null ? true : !can(regex("PRIVATE KEY-----|\\b[a-z0-9]{6}\\.[a-z0-9]{16}\\b", var.user_data))
    error_message = "The user data seems to hold a private key or a bootstrap token. Every process on the machine can read user data, and Terraform's state has it in clear."
  }
}

variable "root_volume_size" {
  description = "Size of a new machine's root volume, in GiB. gp3, encrypted."
  type        = number
  default     = 40

  validation {
    condition     = var.root_volume_size >= 20
    error_message = "At least 20 GiB: images and logs need them."
  }
}

variable "etcd_volume" {
  description = "etcd's own volume of each new master: gp3, encrypted. `size` in GiB, `iops` 3000 to 16000, `throughput` in MiB/s. A volume of its own keeps images and logs from filling etcd's disk or slowing its syncs. Null: etcd lives on the root volume."
  type = object({
    size       = optional(number, 20)
    iops       = optional(number, 3000)
    throughput = optional(number, 125)
  })
  default = {}

  validation {
    condition     = var.etcd_volume == null ? true : var.etcd_volume.size >= 10 && var.etcd_volume.iops >= 3000 && var.etcd_volume.iops <= 16000
    error_message = "At least 10 GiB (etcd's quota is 2 GiB to 8 GiB, and a defragmentation writes it twice), and 3000 to 16000 IOPS."
  }
}

variable "kms_key_id" {
  description = "ARN of the KMS key of new volumes. Default: the account's own key for EBS. Changing it changes no volume that is there."
  type        = string
  default     = null
}

variable "detailed_monitoring" {
  description = "Metrics every minute instead of every five, which CloudWatch charges for."
  type        = bool
  default     = false
}

variable "protection" {
  description = "Termination protection of new masters, and deletion protection of the balancer. It is lifted for one machine when that machine's etcd member is gone, and for all only to destroy the cluster."
  type        = bool
  default     = true
}

variable "master_policy_arns" {
  description = "IAM policies of masters, by a name of your own. None is needed: Kubernetes as set up here calls no AWS API."
  type        = map(string)
  default     = {}
}

variable "iam_permissions_boundary" {
  description = "Permissions boundary of the roles that are made."
  type        = string
  default     = null
}

# Workers

variable "worker_count" {
  description = "How many workers, called w-1, w-2, …: 0 to 99."
  type        = number
  default     = 0

  validation {
    condition     = var.worker_count >= 0 && var.worker_count <= 99 && floor(var.worker_count) == var.worker_count
    error_message = "0 to 99 workers."
  }
}

variable "worker_instance_type" {
  description = "Instance type of workers."
  type        = string
  default     = "t3.large"
}

variable "worker_policy_arns" {
  description = "IAM policies of workers, by a name of your own."
  type        = map(string)
  default     = {}
}

# Endpoint and balancer

variable "endpoint_host" {
  description = "The API's name, which you own: `api.prod.example.com`. It is in every certificate and kubeconfig for as long as the cluster lives, so the balancer's own name will not do: with another balancer it would be another."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9-]{2,63}$", var.endpoint_host)) && !endswith(var.endpoint_host, ".amazonaws.com")
    error_message = "Expected a DNS name of your own with at least two parts, in lower case, and not a load balancer's name (….amazonaws.com): that one dies with the balancer, and it is in every certificate."
  }
}

variable "dns" {
  description = "Who makes the endpoint's name resolve. `none`: you do. `private_zone`: a new private zone of this VPC, with an alias record. `existing_zone`: an alias record in the zone `dns_zone_id`."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "private_zone", "existing_zone"], var.dns)
    error_message = "Expected none, private_zone or existing_zone."
  }
}

variable "dns_zone_id" {
  description = "Zone of the alias record with `dns = \"existing_zone\"`."
  type        = string
  default     = null
}

variable "dns_zone_name" {
  description = "Name of the new zone with `dns = \"private_zone\"`. Default: the endpoint's name without its first part."
  type        = string
  default     = null
}

variable "endpoint_public" {
  description = "Whether the balancer faces the internet. Then `api_cidrs` says to whom; it has to name the addresses that nodes come from too (their NAT gateways), and `balancer_subnet_ids` public subnets."
  type        = bool
  default     = false
}

variable "balancer_subnet_ids" {
  description = "Subnet of each zone that the balancer stands in. Default: `subnet_ids`. Public ones for an internet-facing balancer."
  type        = map(string)
  default     = null
}

variable "balancer_private_ips" {
  description = "Fixed address of the balancer in each zone, for an internal one. All zones or none."
  type        = map(string)
  default     = {}
}

variable "balancer_static_public_ips" {
  description = "Whether an internet-facing balancer gets an Elastic IP in each zone, so that its addresses never change."
  type        = bool
  default     = false
}

# Who may get in

variable "api_cidrs" {
  description = "Networks that may reach the API through the balancer, besides the nodes, by a name of your own: `{ office = \"203.0.113.0/24\" }`."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for cidr in values(var.api_cidrs) : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "Expected IPv4 networks. Everything (/0) is no list: name who shall reach the API."
  }
}

variable "api_security_group_ids" {
  description = "Security groups whose machines may reach the API through an internal balancer, by a name of your own."
  type        = map(string)
  default     = {}
}

variable "ssh_cidrs" {
  description = "Networks that may reach the machines by SSH, by a name of your own: a bastion, a VPN."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for cidr in values(var.ssh_cidrs) : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "Expected IPv4 networks. Everything (/0) is no list: name where operators come from."
  }
}

variable "ssh_security_group_ids" {
  description = "Security groups whose machines may reach the machines by SSH, by a name of your own."
  type        = map(string)
  default     = {}
}

variable "node_port_cidrs" {
  description = "Networks that may reach node ports (30000 to 32767) of workers, by a name of your own. Default: nobody."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for cidr in values(var.node_port_cidrs) : can(cidrhost(cidr, 0))])
    error_message = "Expected IPv4 networks."
  }
}

variable "egress_cidrs" {
  description = "Where machines may open connections to, on the ports that the matrix names: registries, packages, DNS, time. By a name of your own."
  type        = map(string)
  default     = { anywhere = "0.0.0.0/0" }
}

variable "port_features" {
  description = "Rows of the port matrix that hold only with something: `vxlan` (Flannel), `bgp`, `wireguard`, `metrics_server`, `http_packages` (package mirrors without TLS)."
  type        = set(string)
  default     = ["vxlan", "http_packages"]

  validation {
    condition     = alltrue([for feature in var.port_features : contains(["vxlan", "bgp", "wireguard", "metrics_server", "http_packages"], feature)])
    error_message = "Expected vxlan, bgp, wireguard, metrics_server or http_packages."
  }
}

variable "additional_security_group_ids" {
  description = "Security groups of your own that all new machines get besides the module's, for what your workloads need: databases, peers, egress."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
