# The one attribute that moves the application: dual_write, dual_read, cut_over,
# target_only, one step for each apply.
resource "zdm_migration_phase" "orders" {
  cluster_id = zdm_proxy_cluster.orders.id
  instances  = zdm_proxy_cluster.orders.admin_endpoints
  phase      = "dual_write"

  # What must be shown before a step forward is begun.
  gates = {
    schema_settled       = true
    writes_clean_minutes = 60
    reads_clean_minutes  = 60
    max_clock_skew_ms    = 100
    backfill_done        = true
  }
}
