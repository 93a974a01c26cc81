variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "name" {
  description = "Name of the cluster from now on. Not one that makes names of the old security groups: `k8s` would, with k8s-master."
  type        = string
  default     = "prod"
}

variable "old_ami_id" {
  description = "Image of the machines that are there. With another one the worker would be replaced."
  type        = string
}

variable "ami_id" {
  description = "Image of new machines."
  type        = string
}

variable "key_name" {
  description = "EC2 key pair of new machines."
  type        = string
  default     = null
}

variable "endpoint_host" {
  description = "The API's name from now on."
  type        = string
  default     = "api.prod.internal"
}

variable "protection" {
  description = "Termination protection of masters and deletion protection of the balancer. Apply with `false` once before `terraform destroy`."
  type        = bool
  default     = true
}
