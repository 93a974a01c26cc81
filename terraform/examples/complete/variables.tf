variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "zones" {
  description = "Three availability zones of the region. By name and not looked up: a zone that AWS adds must not move anybody."
  type        = list(string)
  default     = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "demo"
}

variable "key_name" {
  description = "EC2 key pair that you get in with."
  type        = string
  default     = null
}

variable "operator_cidrs" {
  description = "Networks that you come from, as the machines see them: a VPN, a bastion's subnet, a peered network."
  type        = map(string)
  default     = {}
}

variable "protection" {
  description = "Termination protection of masters and deletion protection of the balancer. Apply with `false` once before `terraform destroy`."
  type        = bool
  default     = true
}
