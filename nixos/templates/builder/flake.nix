{
  description = "A builder: lets others build on this machine";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    drv-thru.url = "github:drv-thru/drv-thru";
    drv-thru.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = { nixpkgs, drv-thru, ... }: {
    nixosConfigurations.builder = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [
        drv-thru.nixosModules.default
        ./drv-thru.nix
        # What this machine is besides: /etc/nixos/configuration.nix, copied beside this file.
        ./configuration.nix
      ];
    };
  };
}
