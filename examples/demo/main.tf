# The whole of a migration as Terraform sees it: the proxies, and the phase that
# they are in. "make demo" applies it once for each phase:
#
#   terraform apply -var phase=dual_read

terraform {
  required_version = ">= 1.11" # write-only attributes
  required_providers {
    zdm = {
      source = "zdmproject/zdm"
    }
  }
}

# The agents' certificates are signed by this authority, and they want a token.
provider "zdm" {
  ca_file    = var.admin_ca_file
  token_file = var.admin_token_file
}

# The proxies and the two clusters behind them. This does not change while one
# migrates.
resource "zdm_proxy_cluster" "demo" {
  instances = {
    for name, instance in var.instances : name => {
      admin_endpoint  = instance.admin_endpoint
      listen_address  = instance.address
      listen_port     = instance.port
      metrics_address = instance.address
    }
  }

  origin = {
    contact_points      = var.origin.contact_points
    port                = var.origin.port
    username            = var.origin.username
    password_wo         = var.origin_password # goes to the agents, never into the state
    password_wo_version = 1
  }

  target = {
    contact_points      = var.target.contact_points
    port                = var.target.port
    username            = var.target.username
    password_wo         = var.target_password
    password_wo_version = 1
  }

  # The application logs in with the name and password that Target knows.
  client_credentials = "target"

  # The demo takes the machines away with the application still connected.
  allow_destroy_with_clients = true
}

# The one attribute that moves the application.
resource "zdm_migration_phase" "demo" {
  cluster_id = zdm_proxy_cluster.demo.id
  instances  = zdm_proxy_cluster.demo.admin_endpoints
  phase      = var.phase
}
