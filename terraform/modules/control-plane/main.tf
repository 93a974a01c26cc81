# A kubeadm control plane on EC2: masters spread over zones behind a Network Load Balancer, and optional workers. Terraform makes machines
# and what connects them; it installs nothing, and it registers no target. What it made is said in one output, `quorate_cluster`.
#
# Start here for who is called what and stands where; then compute.tf, loadbalancer.tf, security.tf.

locals {
  zones = sort(keys(var.subnet_ids))

  master_names = length(var.masters) > 0 ? keys(var.masters) : [for number in range(1, var.master_count + 1) : "cp-${number}"]
  worker_names = [for number in range(1, var.worker_count + 1) : "w-${number}"]

  # The number at the end of a name: cp-3 is 3. Placing by it, and not by the place in a list, moves nobody when another one goes.
  numbers = { for name in concat(local.master_names, local.worker_names) : name => try(tonumber(regex("[0-9]+$", name)), null) }

  # Null for a name without a number: refused in compute.tf unless it says its zone.
  zone_by_number = { for name, number in local.numbers : name => number == null ? null : local.zones[(number + length(local.zones) - 1) % length(local.zones)] }

  masters = {
    for name in local.master_names : name => {
      zone          = try(var.masters[name].zone, null) != null ? var.masters[name].zone : local.zone_by_number[name]
      adopted       = try(var.masters[name].adopted, null)
      leaving       = try(var.masters[name].leaving, false)
      instance_type = try(coalesce(var.masters[name].adopted.instance_type), coalesce(var.masters[name].instance_type), var.master_instance_type)
    }
  }
  staying = { for name, master in local.masters : name => master if !master.leaving }

  # Masters of each zone. An adopted one counts where it is said to be.
  masters_of_zone = { for name, master in local.staying : coalesce(master.zone, "unknown") => name... }
  largest_zone    = max([for names in values(local.masters_of_zone) : length(names)]...)

  tags = merge(var.tags, { "quorate/cluster" = var.name })
}

check "zones" {
  assert {
    condition     = length(local.staying) < 3 || 2 * local.largest_zone < length(local.staying)
    error_message = "The loss of a zone would take the majority of etcd with it: ${join("; ", [for zone, names in local.masters_of_zone : "${zone}: ${join(", ", names)}"])}. Spread the masters over three zones."
  }
}
