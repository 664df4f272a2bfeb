// Package nixstore is the Nix store of this machine, as package builder needs
// it: questions, imports and builds go to the Nix daemon, files are read
// directly.
package nixstore
