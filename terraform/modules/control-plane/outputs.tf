locals {
  masters_out = [
    for name in sort(keys(local.masters)) : {
      name           = name
      instance_id    = aws_instance.k8s_master[name].id
      address        = aws_instance.k8s_master[name].private_ip
      zone           = aws_instance.k8s_master[name].availability_zone
      etcd_volume_id = try(aws_ebs_volume.etcd[name].id, null)
      adopted        = local.masters[name].adopted != null
      leaving        = local.masters[name].leaving
    }
  ]
  # By number, so that w-10 comes after w-9.
  workers_out = [
    for name in local.worker_names : {
      name        = name
      instance_id = aws_instance.k8s_worker[name].id
      address     = aws_instance.k8s_worker[name].private_ip
      zone        = aws_instance.k8s_worker[name].availability_zone
    }
  ]
  balancer_addresses = merge(var.balancer_private_ips, { for zone, address in aws_eip.balancer : zone => address.public_ip })
}

output "quorate_cluster" {
  description = "The cluster as Quorate reads it, and the only output it reads. `version` changes when a key changes its meaning or goes; keys may be added without."
  value = {
    version = 1
    name    = var.name
    endpoint = {
      host = var.endpoint_host
      port = 6443
      balancer = {
        kind             = "nlb"
        arn              = aws_lb.api.arn
        target_group_arn = aws_lb_target_group.api.arn
        dns_name         = aws_lb.api.dns_name
        zone_id          = aws_lb.api.zone_id
        public           = var.endpoint_public
        addresses        = local.balancer_addresses
      }
    }
    masters = local.masters_out
    workers = local.workers_out
  }
}

output "masters" {
  description = "Masters: name, instance id, private address, zone, etcd's volume."
  value       = local.masters_out
}

output "workers" {
  description = "Workers: name, instance id, private address, zone."
  value       = local.workers_out
}

output "balancer_dns_name" {
  description = "The balancer's own name. For a record of yours to point to, never for certificates and kubeconfigs."
  value       = aws_lb.api.dns_name
}

output "balancer_zone_id" {
  description = "Route 53 zone of the balancer's own name, for an alias record."
  value       = aws_lb.api.zone_id
}

output "balancer_addresses" {
  description = "Fixed addresses of the balancer by zone, where they were asked for."
  value       = local.balancer_addresses
}

output "target_group_arn" {
  description = "Target group that masters are registered in."
  value       = aws_lb_target_group.api.arn
}

output "security_group_ids" {
  description = "The module's security groups: balancer, master, worker, node. A worker that was made elsewhere needs `worker` and `node`."
  value       = local.groups
}

output "private_zone_id" {
  description = "The new private zone, with `dns = \"private_zone\"`."
  value       = one(aws_route53_zone.private[*].zone_id)
}
