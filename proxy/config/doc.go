// Package config is every setting of the proxy: name, default, bounds,
// validation and redaction, for the environment, YAML, the agent, Terraform and
// the generated documentation alike. [Settings] is the one table; everything
// else follows from it.
//
// Names and defaults are those of ZDM Proxy (ZDM_ORIGIN_PORT, origin_port in
// YAML) plus a few of ours, which [Setting.ZDM] tells apart.
//
// Floor 1: it knows package phase and the leaves. It opens no file, reads no
// environment by itself, resolves no name and dials nothing. It has no
// goroutines; a [Config] is immutable after [Parse] and may be read from any.
package config
