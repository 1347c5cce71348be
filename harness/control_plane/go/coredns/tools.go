//go:build tools

// Package tools names the program that is built from the module of go.mod.
package tools

import _ "github.com/coredns/coredns"
