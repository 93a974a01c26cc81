variable "region" {
  description = "AWS region of the VPC."
  type        = string
  default     = "eu-central-1"
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "prod"
}

variable "vpc_id" {
  description = "Your VPC."
  type        = string
}

variable "private_subnet_ids" {
  description = "Your private subnet of each zone."
  type        = map(string)
}

variable "public_subnet_ids" {
  description = "Your public subnet of each zone."
  type        = map(string)
}

variable "nat_addresses" {
  description = "Public addresses of your NAT gateways, by a name of your own."
  type        = map(string)
}

variable "endpoint_host" {
  description = "The API's name. You point it to the output balancer_dns_name."
  type        = string
}

variable "api_cidrs" {
  description = "Networks that may reach the API, by a name of your own."
  type        = map(string)
}

variable "protection" {
  description = "Termination protection of masters and deletion protection of the balancer. Apply with `false` once before `terraform destroy`."
  type        = bool
  default     = true
}
