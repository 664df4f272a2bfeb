{
  description = "Build Nix derivations on someone else's machine, with a ticket";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      forEachSystem = f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ]
          (system: f nixpkgs.legacyPackages.${system});

      # The date of the commit: "2026-01-31".
      date = lib.concatStringsSep "-"
        (builtins.match "(....)(..)(..).*" (self.lastModifiedDate or "19700101000000"));
    in
    {
      packages = forEachSystem (pkgs: rec {
        drv-thru = pkgs.buildGoModule {
          pname = "drv-thru";
          version = "0-unstable-${date}";

          # Neither the tests on real Nix nor the module, whose changes rebuild
          # nothing; but what the module makes, for the programs' tests.
          src = lib.fileset.toSource {
            root = ./.;
            fileset = lib.fileset.union ./nixos/tests/configs.json
              (lib.fileset.difference ./. (lib.fileset.unions [ ./e2e ./.ci ./nixos ./flake.nix ]));
          };

          # e2e/test computes this one and says when it has changed.
          vendorHash = "sha256-aVG//1hdoIOfbmNvbgnpf+DUEyte1Y86D203IqOTcN8=";

          subPackages = [ "cmd/drv-thru" "cmd/drv-thru-relay" ];
          env.CGO_ENABLED = 0;
          ldflags = [ "-s" "-w" ];

          meta = {
            description = "Build Nix derivations on someone else's machine, with a ticket";
            license = lib.licenses.mit;
            mainProgram = "drv-thru";
          };
        };
        default = drv-thru;
      });

      apps = forEachSystem (pkgs:
        let
          package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          app = name: {
            type = "app";
            program = "${package}/bin/${name}";
            meta.description = package.meta.description;
          };
        in
        rec {
          drv-thru = app "drv-thru";
          drv-thru-relay = app "drv-thru-relay";
          default = drv-thru;
        });

      nixosModules = rec {
        drv-thru = { lib, pkgs, ... }: {
          imports = [ ./nixos/module.nix ];
          services.drv-thru.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
        default = drv-thru;
      };

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.go pkgs.gopls pkgs.just pkgs.nodejs pkgs.shellcheck ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixpkgs-fmt);
    };
}
