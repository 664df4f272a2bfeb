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

      package = pkgs: pkgs.buildGoModule rec {
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
        vendorHash = "sha256-Q9pkV742YEdUADW7kbtdgulfs/ctqOx1hSibQkI9AnQ=";

        subPackages = [ "cmd/drv-thru" "cmd/drv-thru-relay" ];
        env.CGO_ENABLED = 0;
        ldflags = [ "-s" "-w" "-X main.release=${version}" ];

        # The programs print their own manual pages and completions.
        nativeBuildInputs = [ pkgs.installShellFiles ];
        postInstall = lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
          for program in drv-thru drv-thru-relay; do
            $out/bin/$program man man
            for shell in bash zsh fish; do
              $out/bin/$program completion $shell >$program.$shell
            done
            installShellCompletion --cmd $program --bash $program.bash --zsh $program.zsh --fish $program.fish
          done
          installManPage man/*.1
        '';

        meta = {
          description = "Build Nix derivations on someone else's machine, with a ticket";
          license = lib.licenses.mit;
          mainProgram = "drv-thru";
        };
      };
    in
    {
      packages = forEachSystem (pkgs: rec {
        drv-thru = package pkgs;
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

      overlays.default = final: _: { drv-thru = package final; };

      nixosModules = rec {
        drv-thru = { lib, pkgs, ... }: {
          imports = [ ./nixos/module.nix ];
          services.drv-thru.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
        default = drv-thru;
      };

      templates = lib.mapAttrs
        (name: description: {
          path = ./nixos/templates + "/${name}";
          inherit description;
        })
        {
          builder = "A NixOS machine that lets others build on it";
          client = "A NixOS machine that builds on others";
          relay = "A NixOS machine where builders and clients meet";
        };

      checks = forEachSystem (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;

        # What configurations come to, and what is refused, as in nixos/tests/configs.json.
        module =
          let tests = import ./nixos/tests { inherit lib; }; in
          assert tests.undocumented ++ tests.unlike ++ tests.untyped ++ tests.taken == [ ];
          assert lib.all (messages: lib.length messages == 1) (lib.attrValues tests.refused);
          assert tests.configs == lib.importJSON ./nixos/tests/configs.json;
          pkgs.emptyFile;

        format = pkgs.runCommand "drv-thru-format" { nativeBuildInputs = [ pkgs.nixpkgs-fmt ]; } ''
          nixpkgs-fmt --check ${./flake.nix} ${./nixos}
          touch $out
        '';
      } // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
        vm = pkgs.testers.runNixOSTest (import ./nixos/tests/vm.nix { module = self.nixosModules.default; });
      });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.go pkgs.gopls pkgs.just pkgs.nodejs pkgs.shellcheck ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixpkgs-fmt);
    };
}
