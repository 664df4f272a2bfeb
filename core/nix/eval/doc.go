// Package eval runs the nix command to find out what installables mean: which
// derivations, instantiated in the local store, and which of their outputs.
//
// Nix itself decides, as `nix build` would: all installables go to one
// `nix build --dry-run --json`, hence are evaluated once, with the attribute
// paths, default outputs, lock files and messages of the user's own version.
// Works with Nix 2.8 to 2.34 (verified with 2.8.0, 2.26.3 and 2.34.8), whether
// or not nix.conf enables flakes. Imports from derivations are built or
// substituted as the evaluation needs them; beyond that nothing is built or
// fetched, but the dry run has the daemon ask its substituters about what is not
// in the store. Nix keeps those answers, so asking again later is cheap;
// Request.NoSubstitute avoids them, for imports from derivations as well.
//
// Store paths need no evaluation and no Nix.
//
// Nothing is read from the process's environment: Config has all of it. What it
// holds of drv-thru's own variables (tickets among them) is kept from Nix, where
// an impure expression could read it.
package eval
