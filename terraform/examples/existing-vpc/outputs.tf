output "quorate_cluster" {
  description = "The cluster as Quorate reads it."
  value       = module.control_plane.quorate_cluster
}

output "balancer_dns_name" {
  description = "What your record for the endpoint points to."
  value       = module.control_plane.balancer_dns_name
}
