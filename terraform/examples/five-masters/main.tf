# Five masters over three zones: two and two and one. Survives the loss of two masters, or of a zone. The balancer has fixed addresses, which
# firewalls elsewhere can name.

# Debian's own images. A newer one is for machines to come: the module never replaces a machine for its image.
data "aws_ami" "debian" {
  most_recent = true
  owners      = ["136693071363"]

  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }
}

module "network" {
  source = "../../modules/network"

  name  = var.name
  cidr  = "10.20.0.0/16"
  zones = var.zones
  nat   = "single"
}

module "control_plane" {
  source = "../../modules/control-plane"

  name       = var.name
  vpc_id     = module.network.vpc_id
  subnet_ids = module.network.private_subnet_ids

  master_count         = 5
  master_instance_type = "m6i.large"
  etcd_volume          = { size = 40, iops = 6000, throughput = 250 }
  ami_id               = data.aws_ami.debian.id
  protection           = var.protection

  endpoint_host        = "api.${var.name}.internal"
  dns                  = "private_zone"
  balancer_private_ips = { for index, zone in var.zones : zone => cidrhost(cidrsubnet("10.20.0.0/16", 4, index), 250) }
}
