# A VPC that "exists" when examples/existing-vpc is tested.

variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-central-1"
}

module "network" {
  source = "../../modules/network"

  name  = "theirs"
  cidr  = "10.40.0.0/16"
  zones = [for letter in ["a", "b", "c"] : "${var.region}${letter}"]
}

output "vpc_id" {
  description = "Id of the VPC."
  value       = module.network.vpc_id
}

output "private_subnet_ids" {
  description = "Private subnet of each zone."
  value       = module.network.private_subnet_ids
}

output "public_subnet_ids" {
  description = "Public subnet of each zone."
  value       = module.network.public_subnet_ids
}

output "nat_addresses" {
  description = "Public addresses of the NAT gateways."
  value       = module.network.nat_public_ips
}
