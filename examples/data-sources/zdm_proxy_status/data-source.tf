data "zdm_proxy_status" "orders" {
  cluster_id = zdm_proxy_cluster.orders.id
  instances  = zdm_proxy_cluster.orders.admin_endpoints
}

output "ready" {
  value = data.zdm_proxy_status.orders.ready
}

output "clients" {
  value = { for name, status in data.zdm_proxy_status.orders.statuses : name => status.clients }
}
