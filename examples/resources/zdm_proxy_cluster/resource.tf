variable "origin_password" {
  type      = string
  ephemeral = true
}

variable "target_password" {
  type      = string
  ephemeral = true
}

resource "zdm_proxy_cluster" "orders" {
  instances = {
    a = {
      admin_endpoint = "https://10.0.0.11:8443"
      listen_address = "10.0.0.11"
      listen_port    = 9042
    }
    b = {
      admin_endpoint = "https://10.0.0.12:8443"
      listen_address = "10.0.0.12"
      listen_port    = 9042
    }
  }

  origin = {
    contact_points      = ["10.1.0.1", "10.1.0.2"]
    local_datacenter    = "dc1"
    username            = "zdm"
    password_wo         = var.origin_password # goes to the agents, never into the state
    password_wo_version = 1                   # change it with the password
  }

  target = {
    contact_points      = ["10.2.0.1", "10.2.0.2"]
    username            = "zdm"
    password_wo         = var.target_password
    password_wo_version = 1
  }

  # The application logs in with the name and password that Target knows.
  client_credentials = "target"

  settings = {
    proxy_request_timeout_ms     = 5000
    proxy_max_client_connections = 4000
    log_level                    = "INFO"
  }

  # One instance after the other, with time for drivers to come back.
  rollout = {
    ready_timeout_seconds = 120
    pause_seconds         = 1
  }

  # A new image, so new machines' processes: replace them in turn.
  restart_triggers = {
    image = "zdm-appliance-1"
  }
}
