output "quorate_cluster" {
  description = "The cluster as Quorate reads it."
  value       = module.control_plane.quorate_cluster
}
