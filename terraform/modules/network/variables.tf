variable "name" {
  description = "Name of the cluster: every resource made here is called by it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,26}[a-z0-9])?$", var.name))
    error_message = "The name is 1 to 28 of a-z, 0-9 and -, begins with a letter and does not end with -."
  }
}

variable "cidr" {
  description = "Addresses of a new VPC, a /16 to a /22. Must not overlap with the cluster's pod and service networks (10.244.0.0/16 and 10.96.0.0/12 by default)."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 22, false)
    error_message = "Expected an IPv4 network from /16 to /22, such as 10.0.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones of a new VPC, one private and one public subnet each. Append to the list only: a subnet's addresses follow from its zone's place in it."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.zones) <= 8 && length(distinct(var.zones)) == length(var.zones)
    error_message = "At most 8 zones, each once."
  }
}

variable "nat" {
  description = "How private subnets reach the internet (registries, packages). `per_zone`: a NAT gateway in each zone, so that the loss of a zone costs only that zone. `single`: one for all, cheaper, and its zone takes the way out of the others with it. `none`: not at all; images and packages come from inside the VPC."
  type        = string
  default     = "per_zone"

  validation {
    condition     = contains(["per_zone", "single", "none"], var.nat)
    error_message = "Expected per_zone, single or none."
  }
}

variable "existing" {
  description = "A VPC that you have, instead of a new one: its id, and a subnet for each zone. `private_subnet_ids` is where machines go, `public_subnet_ids` where an internet-facing balancer would. Each is looked up, and refused when it lies in another VPC or another zone than is said here."
  type = object({
    vpc_id             = string
    private_subnet_ids = map(string)
    public_subnet_ids  = optional(map(string), {})
  })
  default = null
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
