# Builds on other machines:
#
#     DRV_THRU_TICKET=drvthru… drv-thru build .#hello
{ ... }:
{
  services.drv-thru.client = {
    enable = true;

    # Whose outputs may enter this machine's store: the signing key that
    # "drv-thru serve" prints there (journalctl -u drv-thru).
    #
    #     trustedBuilders.attic.publicKey = "drv-thru-zbslgtcuwy-1:JWtzGCIoGlXYmNW5xeM7YmyolTIV9bqJr8Ij03FNKAk=";

    # Builders that know this user's key, for "drv-thru build --builder attic":
    #
    #     builders.attic = {
    #       endpointId = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
    #       relayUrl = "https://relay.example.org";
    #     };
  };
}
