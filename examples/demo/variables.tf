variable "phase" {
  description = "dual_write, dual_read, cut_over or target_only; one step at a time."
  type        = string
  default     = "dual_write"
}

variable "instances" {
  description = "The appliances by name: the agent's URL, and where applications connect to."
  type = map(object({
    admin_endpoint = string
    address        = string
    port           = number
  }))
}

variable "admin_ca_file" {
  description = "Certificate of the authority that signs the agents' certificates."
  type        = string
}

variable "admin_token_file" {
  description = "File with the token that the agents want."
  type        = string
}

variable "origin" {
  description = "The cluster that the application moves from."
  type = object({
    contact_points = list(string)
    port           = number
    username       = string
  })
}

variable "origin_password" {
  type      = string
  sensitive = true
  ephemeral = true
}

variable "target" {
  description = "The cluster that the application moves to."
  type = object({
    contact_points = list(string)
    port           = number
    username       = string
  })
}

variable "target_password" {
  type      = string
  sensitive = true
  ephemeral = true
}
