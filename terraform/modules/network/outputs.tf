output "vpc_id" {
  description = "Id of the VPC, new or existing."
  value       = local.vpc_id
}

output "private_subnet_ids" {
  description = "Private subnet of each zone: what the control plane module takes as `subnet_ids`."
  value       = local.private_subnet_ids
}

output "public_subnet_ids" {
  description = "Public subnet of each zone, for an internet-facing balancer."
  value       = local.public_subnet_ids
}

output "nat_public_ips" {
  description = "Public addresses that private subnets of a new VPC are seen from, by zone of the NAT gateway. An internet-facing balancer has to admit them: that is where nodes come from."
  value       = { for zone, address in aws_eip.nat : zone => address.public_ip }
}
