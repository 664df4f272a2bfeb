# A relay, a builder and two clients as virtual machines, for nixpkgs' test driver:
#
#     nix build .#checks.x86_64-linux.vm
#
# One client imports for a user whom Nix does not trust; the other is trusted by the
# builder and mounts its cache.
{ module }:
{ lib, ... }:
let
  # Made for this test, and of use for nothing else.
  builderKey = "drvthru-secret-key-1:u3sxeia2oqpysqf3snuwapeoyix52of5qd6xzf33agozaoz5d2fa";
  builderId = "jrvxw64tvomjxebddeurjdgobgnhxywntmmdch3p2lpznaxnyzoa";
  clientKey = "drvthru-secret-key-1:mrgjvcvycusixo2hzwtaml5wayhergkixo7getfddmkyyl3my3hq";
  clientId = "lqapbs2gem6uty5r623w4l34olvradczx2it6a7ooaerurgpso2a";
  signingSecret = "drv-thru-test-1:zRuwLr0O7/o7o7hBturXBCmkYJQLXYE5qVE2f/4BckqHcyhNyRxPOzvQlbLNLnFgC37WHEHZGL6eKzxCUj+YMQ==";
  signingKey = "drv-thru-test-1:h3MoTckcTzs70JWyzS5xYAt+1hxB2Ri+nis8QlI/mDE=";

  secret = text: { inherit text; mode = "0400"; };
  common = {
    imports = [ module ];
    # There is no network but the test's.
    nix.settings.substituters = lib.mkForce [ ];
    # /bin/sh is what Nix's sandbox has by itself.
    environment.etc."drvs.nix".text = ''
      builtins.listToAttrs (map
        (name: {
          inherit name;
          value = derivation {
            inherit name;
            system = builtins.currentSystem;
            builder = "/bin/sh";
            args = [ "-c" "echo built ''${name} > $out" ];
          };
        })
        [ "first" "second" "third" "fourth" ])
    '';
  };
in
{
  name = "drv-thru";

  nodes = {
    relay = {
      imports = [ common ];
      services.drv-thru.relay = {
        enable = true;
        hostNames = [ "relay:7411" ];
        openFirewall = true;
        access = "allowlist";
        allowedBuilders = [ builderId ];
      };
    };

    builder = {
      imports = [ common ];
      environment.etc."drv-thru-test.key" = secret builderKey;
      systemd.tmpfiles.settings.drv-thru-test = {
        "/var/lib/drv-thru".d = { user = "drv-thru"; group = "drv-thru"; mode = "0750"; };
        "/var/lib/drv-thru/signing-secret.key"."f+" = {
          user = "drv-thru";
          group = "drv-thru";
          mode = "0600";
          argument = signingSecret;
        };
      };
      services.drv-thru.server = {
        enable = true;
        relays = [ "http://relay:7411" ];
        secretKeyFile = "/etc/drv-thru-test.key";
        listen = ":7412";
        openFirewall = true;
        minFree = null;
        trustedClients.second = { publicKey = clientId; cache = "store"; };
        policies.once.settings.ticket.builds_hour = 1;
      };
    };

    first = {
      imports = [ common ];
      users.users.bob = { isNormalUser = true; extraGroups = [ "importers" ]; };
      users.users.eve.isNormalUser = true;
      services.drv-thru.client = {
        enable = true;
        ticketHelper = {
          group = "importers";
          trustedBuilderPublicKeys = [ signingKey ];
        };
      };
    };

    second = {
      imports = [ common ];
      environment.etc."drv-thru-test.key" = secret clientKey;
      nix.settings.substituters = lib.mkForce [ "file:///run/drv-thru/attic" ];
      services.drv-thru.client = {
        enable = true;
        trustedBuilders.attic = {
          endpointId = builderId;
          publicKey = signingKey;
          relayUrl = "http://relay:7411";
        };
        mounts.attic = { builder = "attic"; secretKeyFile = "/etc/drv-thru-test.key"; };
      };
    };
  };

  testScript = ''
    import shlex


    def build(machine, user, ticket, name):
        command = f"DRV_THRU_TICKET={ticket} drv-thru build --no-nom --no-link --print-out-paths -f /etc/drvs.nix {name}"
        return machine.execute(f"su - {user} -c {shlex.quote(command)} 2>&1")


    start_all()
    relay.wait_for_unit("drv-thru-relay.service")
    # Ready is registered.
    builder.wait_for_unit("drv-thru.service")

    with subtest("units are as tight as they are said to be"):
        relay.succeed("systemd-analyze security --threshold=20 drv-thru-relay.service")
        builder.succeed("systemd-analyze security --threshold=20 drv-thru.service")
        builder.fail("su drv-thru -s /bin/sh -c 'cat /etc/drv-thru-test.key'")

    with subtest("a user whom Nix does not trust builds with a ticket"):
        ticket = builder.succeed("drv-thru ticket create").strip()
        status, output = build(first, "bob", ticket, "first")
        assert status == 0, output
        path = output.strip().splitlines()[-1]
        assert first.succeed(f"cat {path}") == "built first\n"
        first.succeed(f"nix-store --verify-path {path}")

    with subtest("a spent ticket is refused"):
        status, output = build(first, "bob", ticket, "second")
        assert status == 3 and "no uses remaining" in output, output

    with subtest("a user outside the helper's group imports nothing"):
        ticket = builder.succeed("drv-thru ticket create").strip()
        status, output = build(first, "eve", ticket, "third")
        assert status != 0, output

    with subtest("a policy decides"):
        ticket = builder.succeed("drv-thru ticket create --uses unlimited --policy once").strip()
        status, output = build(first, "bob", ticket, "second")
        assert status == 0, output
        status, output = build(first, "bob", ticket, "third")
        assert status == 3 and "denied by policy" in output, output

    with subtest("the builder's cache is a substituter of another client"):
        second.wait_for_unit("drv-thru-mount-attic.service")
        second.succeed(f"nix-store --realise {path}")
        assert second.succeed(f"cat {path}") == "built first\n"

    with subtest("a mount survives a restart of the relay"):
        relay.succeed("systemctl restart drv-thru-relay.service")
        relay.wait_for_unit("drv-thru-relay.service")
        second.succeed("systemctl is-active drv-thru-mount-attic.service")
        builder.wait_until_succeeds("drv-thru status --json | grep -q '\"registered\": *true'")
        second.wait_until_succeeds(f"test -e /run/drv-thru/attic/$(basename {path} | cut -c1-32).narinfo")

    with subtest("a change of what can be reloaded restarts nothing"):
        before = builder.succeed("systemctl show -P MainPID drv-thru.service")
        builder.succeed("systemctl reload drv-thru.service")
        assert builder.succeed("systemctl show -P MainPID drv-thru.service") == before

    with subtest("a mount stops in time, also without its builder"):
        builder.crash()
        second.succeed("timeout 10 systemctl stop drv-thru-mount-attic.service")
        second.fail("mountpoint -q /run/drv-thru/attic")
        second.shutdown()
  '';
}
