// Package buildertest has what tests of the builder service stand on: a Nix
// store in memory whose builds the test decides, records in memory, and closures
// of derivations that make sense.
package buildertest
