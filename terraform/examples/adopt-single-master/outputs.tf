output "quorate_cluster" {
  description = "The cluster as Quorate reads it."
  value       = module.control_plane.quorate_cluster
}

output "master_address" {
  description = "The old endpoint, for as long as it is used: the first master's own address."
  value       = one([for master in module.control_plane.masters : master.address if master.name == "k8s-master"])
}
