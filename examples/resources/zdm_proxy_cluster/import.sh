# By the name and the admin endpoint of every instance. Passwords are not read;
# the next apply sends them.
terraform import zdm_proxy_cluster.orders "a=https://10.0.0.11:8443,b=https://10.0.0.12:8443"
