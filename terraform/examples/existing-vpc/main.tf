# A VPC and subnets that you have. The balancer faces the internet here, for the networks in `api_cidrs` alone; the machines stay in private
# subnets. Nodes reach an internet-facing balancer from their NAT gateways' addresses, so those are admitted too.

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

  name = var.name
  existing = {
    vpc_id             = var.vpc_id
    private_subnet_ids = var.private_subnet_ids
    public_subnet_ids  = var.public_subnet_ids
  }
}

module "control_plane" {
  source = "../../modules/control-plane"

  name       = var.name
  vpc_id     = module.network.vpc_id
  subnet_ids = module.network.private_subnet_ids

  master_count = 3
  ami_id       = data.aws_ami.debian.id
  protection   = var.protection

  endpoint_host              = var.endpoint_host
  endpoint_public            = true
  balancer_subnet_ids        = module.network.public_subnet_ids
  balancer_static_public_ips = true
  api_cidrs                  = merge(var.api_cidrs, { for name, address in var.nat_addresses : "nat-${name}" => "${address}/32" })
}
