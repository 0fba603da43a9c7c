module github.com/zdmproject/terraform-provider-zdm

go 1.26
