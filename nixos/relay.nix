# services.drv-thru.relay: where builders and clients meet.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;

  cfg = config.services.drv-thru.relay;
  package = config.services.drv-thru.package;
  port = own.portOf cfg.listen;
  tls = cfg.tlsCert != null && cfg.tlsKey != null;

  # For ExecStart=, where % and $ have a meaning.
  quote = flag: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON flag);

  flag = name: value: lib.optional (value != null) (quote "--${name}=${toString value}");
  flags = lib.concatLists [
    (flag "listen" cfg.listen)
    (lib.optionals tls [ "--tls-cert=%d/cert.pem" "--tls-key=%d/key.pem" ])
    (lib.concatMap (flag "hostname") cfg.hostNames)
    (flag "log-level" cfg.logLevel)
    (lib.optional cfg.logAddresses "--log-addresses")
    (flag "drain-timeout" cfg.drainTimeout)
    (flag "max-registrations" cfg.maxRegistrations)
    (flag "max-registrations-per-address" cfg.maxRegistrationsPerAddress)
    (flag "max-circuits" cfg.maxCircuits)
    (flag "max-circuits-per-builder" cfg.maxCircuitsPerBuilder)
    (flag "max-circuits-per-address" cfg.maxCircuitsPerAddress)
    (flag "handshake-rate" cfg.handshakeRate)
    (flag "handshake-burst" cfg.handshakeBurst)
    (flag "idle-timeout" cfg.idleTimeout)
    (map quote cfg.extraFlags)
  ];

  count = default: what: mkOption {
    type = types.ints.positive;
    inherit default;
    description = "How many ${what}.";
  };
in
{
  options.services.drv-thru.relay = {
    enable = lib.mkEnableOption "drv-thru's relay, where builders and clients meet that cannot reach each other";

    listen = mkOption {
      type = own.listenAddress;
      default = ":7411";
      example = ":443";
      description = "Where the relay listens.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the relay's port.";
    };
    tlsCert = mkOption {
      type = types.nullOr own.file;
      default = null;
      example = "/var/lib/acme/relay.example.org/fullchain.pem";
      description = ''
        The file with the certificate chain (PEM). With null, the relay speaks plain HTTP,
        as behind a proxy. It is read at the start, as root: restart the relay after a
        renewal, for instance with `security.acme.certs.<name>.postRun`.
      '';
    };
    tlsKey = mkOption {
      type = types.nullOr own.secretFile;
      default = null;
      example = "/var/lib/acme/relay.example.org/key.pem";
      description = "The file with the certificate's key (PEM). It is read as root.";
    };
    hostNames = mkOption {
      type = types.listOf own.hostName;
      default = [ ];
      example = [ "relay.example.org" ];
      description = "The names by which builders know this relay. Without any, those of the certificate.";
    };
    logLevel = mkOption {
      type = types.enum [ "debug" "info" "warn" "error" ];
      default = "info";
      description = "What is logged at least.";
    };
    logAddresses = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to log the addresses of builders and clients.";
    };
    drainTimeout = mkOption {
      type = own.timeout;
      default = "5s";
      example = "1m";
      description = "How long open circuits may go on when the relay is stopped.";
    };
    maxRegistrations = count 20000 "builders there may be at once";
    maxRegistrationsPerAddress = count 1000 "builders there may be at once from one address";
    maxCircuits = count 8192 "circuits there may be at once; a client uses two";
    maxCircuitsPerBuilder = count 1024 "circuits there may be at once to one builder";
    maxCircuitsPerAddress = count 256 "circuits there may be at once from one address";
    handshakeRate = count 50 "new connections one address may make in a second";
    handshakeBurst = count 500 "new connections one address may make at once";
    idleTimeout = mkOption {
      type = own.timeout;
      default = "2m";
      description = "How long a circuit may carry nothing.";
    };
    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--log-level=debug" ];
      description = "More flags of `drv-thru-relay`, behind those of the options.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.tlsCert == null) == (cfg.tlsKey == null);
        message = "services.drv-thru.relay: tlsCert and tlsKey go together. Set both, or neither for plain HTTP behind a proxy.";
      }
    ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ port ];

    systemd.services.drv-thru-relay = {
      description = "drv-thru's relay";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      serviceConfig = import ./hardening.nix { lowPort = port < 1024; } // {
        Type = "exec";
        DynamicUser = true;
        ExecStart = lib.concatStringsSep " " ([ "${package}/bin/drv-thru-relay" ] ++ flags);
        Restart = "on-failure";
        RestartSec = 5;
        RestartPreventExitStatus = 2;
        TimeoutStopSec = own.seconds cfg.drainTimeout + 10;
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
      } // lib.optionalAttrs tls {
        LoadCredential = [ "cert.pem:${cfg.tlsCert}" "key.pem:${cfg.tlsKey}" ];
      };
    };
  };
}
