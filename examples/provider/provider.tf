terraform {
  required_version = ">= 1.11" # write-only attributes; OpenTofu 1.11 has them too
  required_providers {
    zdm = {
      source = "zdmproject/zdm"
    }
  }
}

# How the agents of the appliances are reached. The token may come from the
# environment instead: ZDM_ADMIN_TOKEN, or ZDM_ADMIN_TOKEN_FILE.
provider "zdm" {
  ca_file    = "/etc/zdm/ca.pem"
  token_file = "/etc/zdm/token"
}
