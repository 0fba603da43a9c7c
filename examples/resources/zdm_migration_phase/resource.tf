# The one attribute that moves the application: dual_write, dual_read, cut_over,
# target_only, one step for each apply.
resource "zdm_migration_phase" "orders" {
  cluster_id = zdm_proxy_cluster.orders.id
  instances  = zdm_proxy_cluster.orders.admin_endpoints
  phase      = "dual_write"
}
