# By the name and the admin endpoint of every instance.
terraform import zdm_migration_phase.orders "a=https://10.0.0.11:8443,b=https://10.0.0.12:8443"
