# The module's tests: what configurations come to (configs), which assertions they
# fail (refused), and which values no option takes (wrong). e2e/nixos_test.go
# evaluates them with real Nix and compares; what configs is to be stands in
# configs.json, which this makes:
#
#     nix-instantiate --eval --strict --json nixos/tests -A configs | jq . > nixos/tests/configs.json
#
# They run on nixpkgs' own lib as well: --arg lib 'import <nixpkgs/lib>'
{ lib ? import ./harness.nix }:
let
  package = {
    type = "derivation";
    name = "drv-thru";
    outPath = "/drv-thru";
  };
  # The flake's module, with a package that nobody builds.
  module = ((import ../../flake.nix).outputs {
    self.packages.x86_64-linux.default = package;
    nixpkgs = { inherit lib; };
  }).nixosModules.default;
  pkgs = {
    stdenv.hostPlatform.system = "x86_64-linux";
    coreutils = "/coreutils";
    util-linux = "/util-linux";
    writeText = name: text: builtins.seq text "/${name}";
  };

  # What a module comes to.
  evaluate = configuration: lib.evalModules {
    modules = [ module ./nixos.nix configuration ];
    specialArgs = { inherit pkgs; };
  };
  failed = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  view = configuration:
    let
      inherit (evaluate configuration) config;
      server = config.services.drv-thru.server;
    in
    {
      failed = failed config;
      etc = builtins.mapAttrs (_: file: file.text) config.environment.etc;
      firewall = {
        tcp = config.networking.firewall.allowedTCPPorts;
        udp = config.networking.firewall.allowedUDPPorts;
      };
      fuse = config.programs.fuse.enable;
      packages = map toString config.environment.systemPackages;
      services = config.systemd.services;
      sockets = config.systemd.sockets;
      substituters = config.nix.settings.substituters;
      settings = if server.enable then server.settings else null;
      tmpfiles = config.systemd.tmpfiles.rules;
      trustedKeys = builtins.sort builtins.lessThan config.nix.settings.trusted-public-keys;
      trustedUsers = config.nix.settings.trusted-users;
      groups = builtins.attrNames config.users.groups;
      users = config.users.users;
      warnings = config.warnings;
      variables = config.environment.sessionVariables;
    };

  cases = import ./cases.nix { inherit lib; };

  # Every option of the module, those of submodules too: [ { path, name, option } ].
  walk = path: tree:
    if lib.isType "option" tree then
      [{ inherit path; name = lib.concatStringsSep "." path; option = tree; }]
      ++ walk (path ++ [ "‹name›" ]) (tree.type.getSubOptions [ ])
    else lib.concatLists (lib.mapAttrsToList (part: walk (path ++ [ part ])) (removeAttrs tree [ "_module" ]));
  options = walk [ "services" "drv-thru" ] (evaluate { }).options.services.drv-thru;

  # Whether an option takes a number that no option can mean.
  takes = o:
    let inherit (evaluate (lib.setAttrByPath o.path 1.5)) config; in
    (builtins.tryEval (builtins.deepSeq (lib.attrByPath o.path null config) true)).success;
in
{
  configs = builtins.mapAttrs (_: view) cases.configs;
  refused = builtins.mapAttrs (_: configuration: failed (evaluate configuration).config) cases.refused;
  # One by one, for each ends the evaluation: -A 'wrong."server.cores negative"'
  wrong = builtins.mapAttrs
    (_: configuration: builtins.deepSeq (view configuration) "this was taken")
    cases.wrong;

  # Those that are taken after all.
  taken = lib.filter
    (name: (builtins.tryEval (builtins.deepSeq (view cases.wrong.${name}) true)).success)
    (builtins.attrNames cases.wrong);

  # Options without a description, and those that do not take their own example.
  undocumented = map (o: o.name) (lib.filter (o: !(o.option ? description)) options);
  unlike = map (o: o.name) (lib.filter
    (o: o.option ? example && !lib.isType "literalExpression" o.option.example && !o.option.type.check o.option.example)
    options);

  # Options that take anything at all.
  untyped = map (o: o.name) (lib.filter takes options);

  options = map (o: o.name) options;
  wrongNames = builtins.attrNames cases.wrong;

  # What a configuration in another file comes to.
  of = file: view (import file);
}
