# services.drv-thru.client: builds on other machines.
{ config, lib, options, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;

  cfg = config.services.drv-thru.client;
  keys = lib.mapAttrsToList (_: builder: builder.publicKey) cfg.trustedBuilders;

  # Nix looks keys up by their names, and heeds one key of a name only.
  nameOf = key: builtins.head (builtins.match "([^:]*):.*" key);
  trusted = lib.concatMap (setting: own.words (config.nix.settings.${setting} or [ ])) [
    "trusted-public-keys"
    "extra-trusted-public-keys"
  ];
  rivals = name: lib.unique (lib.filter (key: lib.hasPrefix (name + ":") key) trusted);
  contested = lib.filter (name: builtins.length (rivals name) > 1) (lib.unique (map nameOf keys));
in
{
  options.services.drv-thru.client = {
    enable = lib.mkEnableOption "drv-thru, which builds on other machines";

    trustedBuilders = mkOption {
      type = types.attrsOf (types.submodule {
        options.publicKey = mkOption {
          type = own.nixPublicKey;
          example = "drv-thru-is4ephmkvp-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=";
          description = "The builder's signing key, as `drv-thru serve` prints it there.";
        };
      });
      default = { };
      description = ''
        The builders whose outputs may enter this machine's store, by a name of your
        choice. Their keys are added to {option}`nix.settings.trusted-public-keys`: who
        has such a key is believed about every store path.
      '';
    };
  };

  config = lib.mkIf cfg.enable (lib.mkMerge [
    {
      assertions = [
        {
          assertion = contested == [ ];
          message = "services.drv-thru.client.trustedBuilders: nix.settings.trusted-public-keys has several keys that are called "
            + "${lib.concatStringsSep " and " contested}, and Nix would heed one of them only.";
        }
      ];
      environment.systemPackages = [ config.services.drv-thru.package ];
      nix.settings.trusted-public-keys = keys;
    }
    # Older releases of NixOS always have fusermount3.
    (lib.optionalAttrs (options.programs.fuse ? enable) {
      programs.fuse.enable = true;
    })
  ]);
}
