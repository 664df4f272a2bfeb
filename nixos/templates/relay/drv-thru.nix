# Where builders and clients meet that cannot reach each other. Its name has to lead
# to this machine; the certificate comes by itself.
{ ... }:
{
  services.drv-thru.relay = {
    enable = true;
    domain = "relay.example.org";
    openFirewall = true;

    # Who may register builders. With "allowlist", name them in allowedBuilders.
    access = "open";
  };
}
