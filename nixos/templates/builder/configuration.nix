# Put this machine's own configuration here: /etc/nixos/configuration.nix and
# hardware-configuration.nix have it.
{ ... }:
{
  imports = [ ];
}
