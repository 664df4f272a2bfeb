# What the flake has, evaluated without nixpkgs: its outputs, what its templates
# come to, and the machines of the VM test. e2e/flake_test.go evaluates it with real
# Nix; as for nixos/tests, --arg lib 'import <nixpkgs/lib>' takes nixpkgs' own lib.
{ lib ? import ./harness.nix }:
let
  system = "x86_64-linux";
  derivation = args: args // { type = "derivation"; name = args.pname; outPath = "/${args.pname}"; };
  pkgs = {
    inherit lib;
    stdenv.buildPlatform.canExecute = host: host.isLinux;
    installShellFiles = derivation { pname = "install-shell-files"; };
    stdenv.hostPlatform = { inherit system; isLinux = true; };
    buildGoModule = derivation;
    mkShell = shell: derivation (shell // { pname = "shell"; });
    runCommand = name: _: script: derivation { pname = name; inherit script; };
    emptyFile = derivation { pname = "empty-file"; };
    testers.runNixOSTest = test: derivation { pname = "vm"; inherit test; };
    nixpkgs-fmt = derivation { pname = "nixpkgs-fmt"; };
    coreutils = "/coreutils";
    util-linux = "/util-linux";
    writeText = name: text: builtins.seq text "/${name}";
  };
  # What the flake itself uses beyond the module; where lib has it, lib's is taken.
  nixpkgsLib = {
    genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
    fileset = {
      toSource = { root, fileset }: builtins.seq fileset root;
      union = a: b: [ a b ];
      unions = sets: sets;
      difference = a: b: [ a b ];
    };
    licenses.mit = "MIT";
    optionalString = condition: text: if condition then text else "";
    importJSON = file: builtins.fromJSON (builtins.readFile file);
    inherit (builtins) attrValues length;
  } // lib;

  self = (import ../../flake.nix).outputs {
    inherit self;
    nixpkgs = { lib = nixpkgsLib; legacyPackages = nixpkgsLib.genAttrs [ system "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ] (_: pkgs); };
  };

  # What a machine comes to that has these modules.
  machine = modules:
    let
      inherit (lib.evalModules { modules = [ ./nixos.nix ] ++ modules; specialArgs = { inherit pkgs; }; }) config;
    in
    {
      failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
      services = builtins.deepSeq config.systemd (builtins.attrNames config.systemd.services);
      packages = map toString config.environment.systemPackages;
    };
  template = name: { path, ... }:
    let
      outputs = (import (path + "/flake.nix")).outputs {
        nixpkgs.lib.nixosSystem = x: x;
        drv-thru = self;
      };
    in
    machine (map (module: if builtins.isPath module then import module else module) outputs.nixosConfigurations.${name}.modules);
  vm = self.checks.${system}.vm.test { inherit lib pkgs; };
in
{
  outputs = builtins.mapAttrs
    (name: output: builtins.attrNames (output.${system} or output))
    (removeAttrs self [ "formatter" ]);
  module = self.checks.${system}.module.name;
  program = self.apps.${system}.default.program;
  overlay = (self.overlays.default pkgs { }).drv-thru.name;
  inherit (self.packages.${system}.default) version postInstall;
  templates = builtins.mapAttrs template self.templates;
  vm = builtins.mapAttrs (_: node: machine [ node ]) vm.nodes;
  inherit (vm) testScript;
}
