# services.drv-thru: the builder, the relay and the client.
{ lib, ... }:
{
  imports = [ ./server.nix ./relay.nix ./client.nix ];

  options.services.drv-thru.package = lib.mkOption {
    type = lib.types.package;
    defaultText = lib.literalExpression "drv-thru.packages.\${system}.default";
    example = lib.literalExpression "pkgs.drv-thru";
    description = ''
      The package with `drv-thru` and `drv-thru-relay`. The flake's module sets it to
      the flake's own.
    '';
  };
}
