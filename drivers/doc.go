// Package drivers tests the proxy with the drivers that applications use: one
// small program for each, in a folder of its own, which is run against a
// cluster directly and through proxies. README.md tells what the programs do
// and how they are spoken to.
//
// For tests only. Goroutines: one reads the output of a program; who starts the
// program awaits both.
package drivers
