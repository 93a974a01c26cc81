resource "aws_vpc" "k8s" {
  cidr_block           = "10.30.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = "k8s" }
}

resource "aws_subnet" "public" {
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
