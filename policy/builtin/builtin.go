// Package builtin holds the policy of tickets that name none. It is a module of
// the same interface as any other, built from limits.zig by e2e/policies, which
// also compares the bytes.
package builtin

import _ "embed"

// Name is what the policy is called where a policy's name stands.
const Name = "limits"

// Limits is the module. Its settings are described in limits.zig.
//
//go:embed limits.wasm
var Limits []byte
