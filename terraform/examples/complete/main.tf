# Everything new: a VPC over three zones, three masters, two workers, an internal balancer, and the endpoint's name in a private zone.

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
  cidr  = "10.0.0.0/16"
  zones = var.zones
}

module "control_plane" {
  source = "../../modules/control-plane"

  name       = var.name
  vpc_id     = module.network.vpc_id
  subnet_ids = module.network.private_subnet_ids

  master_count = 3
  worker_count = 2
  ami_id       = data.aws_ami.debian.id
  key_name     = var.key_name
  protection   = var.protection

  endpoint_host = "api.${var.name}.internal"
  dns           = "private_zone"

  ssh_cidrs = var.operator_cidrs
  api_cidrs = var.operator_cidrs
}
