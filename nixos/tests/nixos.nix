# The options of NixOS that the module reads or sets, with what NixOS itself
# defines there.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption {
    inherit type default;
    description = "One of NixOS.";
  };
  list = option (types.listOf types.str);
in
{
  options = {
    assertions = option (types.listOf types.anything) [ ];
    warnings = list [ ];
    nix.enable = option types.bool true;
    nix.package = option types.anything "/nix-package";
    nix.settings = {
      trusted-public-keys = list [ ];
      extra-trusted-public-keys = option types.anything [ ];
      substituters = list [ ];
      trusted-users = list [ ];
      extra-trusted-users = option types.anything [ ];
      allowed-users = list [ "*" ];
      sandbox = option types.anything true;
    };
    environment.systemPackages = option (types.listOf types.package) [ ];
    environment.etc = option (types.attrsOf (types.submodule { options = { text = option types.str ""; mode = option types.str "symlink"; }; })) { };
    environment.sessionVariables = option (types.attrsOf types.str) { };
    networking.firewall.allowedTCPPorts = option (types.listOf types.anything) [ ];
    networking.firewall.allowedUDPPorts = option (types.listOf types.anything) [ ];
    programs.fuse.enable = option types.bool false;
    systemd.services = option (types.attrsOf types.anything) { };
    systemd.sockets = option (types.attrsOf types.anything) { };
    systemd.tmpfiles.rules = list [ ];
    systemd.tmpfiles.settings = option (types.attrsOf types.anything) { };
    users.groups = option
      (types.attrsOf (types.submodule {
        options.members = list [ ];
      }))
      { };
    users.users = option
      (types.attrsOf (types.submodule {
        options = {
          isNormalUser = option types.bool false;
          isSystemUser = option types.bool false;
          group = option types.str "";
          extraGroups = list [ ];
          home = option types.str "/var/empty";
          description = option types.str "";
        };
      }))
      { };
  };

  config.nix.settings = {
    trusted-public-keys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
    trusted-users = [ "root" ];
  };
}
