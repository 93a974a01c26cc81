# The module names the workers that it made. The old one stays outside of it, and is a node of the cluster all the same: Quorate leads it to the
# balancer, and refuses to convert a cluster with a node that it is not told of. Its name is the node's.
output "quorate_cluster" {
  description = "The cluster as Quorate reads it."
  value = merge(module.control_plane.quorate_cluster, {
    workers = concat(module.control_plane.quorate_cluster.workers, [{
      name        = "k8s-worker"
      instance_id = aws_instance.k8s_worker.id
      address     = aws_instance.k8s_worker.private_ip
      zone        = aws_instance.k8s_worker.availability_zone
    }])
  })
}

output "master_address" {
  description = "The old endpoint, for as long as it is used: the first master's own address."
  value       = one([for master in module.control_plane.masters : master.address if master.name == "k8s-master"])
}
