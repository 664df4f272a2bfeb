# Lets others build on this machine. After the rebuild, root and the group wheel
# make tickets:
#
#     drv-thru ticket create
{ ... }:
{
  services.drv-thru.server = {
    enable = true;

    # Where clients find this machine: a relay of yours. Without any, the builder has
    # one inside, on port 7411, for clients that can reach this machine.
    relays = [ ];

    # The ports of listen and of the relay inside.
    listen = ":7412";
    openFirewall = true;

    maxConcurrentBuilds = 1;

    # Clients that need no ticket, by what "drv-thru key show" prints there:
    #
    #     trustedClients.laptop.publicKey = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
  };
}
