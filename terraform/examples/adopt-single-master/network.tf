resource "aws_vpc" "k8s" {
  # checkov:skip=CKV2_AWS_11:It was so; this change adds masters and touches nothing else
  # checkov:skip=CKV2_AWS_12:It was so; this change adds masters and touches nothing else
  cidr_block           = "10.30.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = "k8s" }
}

resource "aws_subnet" "public" {
  # checkov:skip=CKV_AWS_130:It was so; the old machines have their public addresses from here
  vpc_id                  = aws_vpc.k8s.id
  availability_zone       = "${var.region}a"
  cidr_block              = "10.30.1.0/24"
  map_public_ip_on_launch = true

  tags = { Name = "k8s-public" }
}

resource "aws_internet_gateway" "k8s" {
  vpc_id = aws_vpc.k8s.id
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.k8s.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.k8s.id
  }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

# Two zones more, one for each new master. The balancer stands in all three.
resource "aws_subnet" "further" {
  for_each = { b = "10.30.2.0/24", c = "10.30.3.0/24" }

  vpc_id            = aws_vpc.k8s.id
  availability_zone = "${var.region}${each.key}"
  cidr_block        = each.value

  tags = { Name = "k8s-${each.key}" }
}

resource "aws_eip" "nat" {
  # checkov:skip=CKV2_AWS_19:The address is a NAT gateway's, not an instance's
  domain = "vpc"
}

resource "aws_nat_gateway" "k8s" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id

  depends_on = [aws_internet_gateway.k8s]
}

resource "aws_route_table" "further" {
  vpc_id = aws_vpc.k8s.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.k8s.id
  }
}

resource "aws_route_table_association" "further" {
  for_each = aws_subnet.further

  subnet_id      = each.value.id
  route_table_id = aws_route_table.further.id
}
