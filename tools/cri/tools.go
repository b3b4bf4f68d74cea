//go:build tools

// Package tools names the programs that the tests build, so that `go mod tidy` keeps what they
// need in go.sum. Nothing imports this package and nothing here is ever compiled by itself:
// build.sh builds the named commands.
package tools

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
