// Package config is every setting of the proxy: name, default, validation and
// redaction, for the environment, YAML, the agent and Terraform alike.
//
// Floor 1. It opens no file and dials nothing. A Config is immutable after
// Parse and may be read from any goroutine.
package config
