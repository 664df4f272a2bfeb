# services.drv-thru.relay: where builders and clients meet.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;
  inherit (own) flag quote;

  cfg = config.services.drv-thru.relay;
  package = config.services.drv-thru.package;
  port = own.portOf cfg.listen;
  stunPort =
    if cfg.stunListen == "off" || (cfg.stunListen == null && cfg.trustedProxies != [ ]) then null
    else if cfg.stunListen == null then port
    else own.portOf cfg.stunListen;
  lowPort = lib.any (p: p != null && p < 1024) [ port stunPort ];
  tls = cfg.tlsCert != null && cfg.tlsKey != null;
  # The relay's name, and nobody else who has a certificate for it.
  alone = cfg.domain != null && cfg.tlsCert == null && cfg.trustedProxies == [ ];

  acme = cfg.acmeDomains != [ ];
  # Credentials by their names.
  tokens = builtins.listToAttrs (builtins.genList
    (n: { name = "tokens-${toString n}"; value = builtins.elemAt cfg.tokenFiles n; })
    (builtins.length cfg.tokenFiles));
  credentials = lib.optionals tls [ "cert.pem:${cfg.tlsCert}" "key.pem:${cfg.tlsKey}" ]
    ++ lib.mapAttrsToList (name: file: "${name}:${file}") tokens;

  flags = lib.concatLists [
    (flag "listen" cfg.listen)
    (lib.optionals tls [ "--tls-cert=%d/cert.pem" "--tls-key=%d/key.pem" ])
    (flag "stun-listen" cfg.stunListen)
    (flag "metrics" cfg.metrics)
    (lib.concatMap (flag "acme-domain") cfg.acmeDomains)
    (flag "acme-email" cfg.acmeEmail)
    (flag "acme-directory" cfg.acmeDirectory)
    (lib.optional acme "--acme-dir=%S/drv-thru-relay")
    (lib.concatMap (flag "hostname") cfg.hostNames)
    (lib.concatMap (flag "trusted-proxies") cfg.trustedProxies)
    (flag "access" cfg.access)
    (lib.optional (cfg.access == "allowlist")
      (quote "--allowlist=${pkgs.writeText "drv-thru-relay-allowlist" (builtins.concatStringsSep "\n" cfg.allowedBuilders)}"))
    (map (n: "--token-file=%d/${n}") (builtins.attrNames tokens))
    (flag "log-level" cfg.logLevel)
    (lib.optional cfg.logAddresses "--log-addresses")
    (flag "drain-timeout" cfg.drainTimeout)
    (flag "max-registrations" cfg.maxRegistrations)
    (flag "max-registrations-per-address" cfg.maxRegistrationsPerAddress)
    (flag "max-circuits" cfg.maxCircuits)
    (flag "max-circuits-per-builder" cfg.maxCircuitsPerBuilder)
    (flag "max-circuits-per-address" cfg.maxCircuitsPerAddress)
    (flag "max-half-open-per-builder" cfg.maxHalfOpenPerBuilder)
    (flag "max-connections" cfg.maxConnections)
    (flag "max-connections-per-address" cfg.maxConnectionsPerAddress)
    (flag "max-bytes-per-second" cfg.maxBytesPerSecond)
    (flag "max-circuit-bytes-per-second" cfg.maxCircuitBytesPerSecond)
    (flag "handshake-rate" cfg.handshakeRate)
    (flag "handshake-burst" cfg.handshakeBurst)
    (flag "stun-rate" cfg.stunRate)
    (flag "half-open-timeout" cfg.halfOpenTimeout)
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

    domain = mkOption {
      type = types.nullOr own.hostName;
      default = null;
      example = "relay.example.org";
      description = ''
        The relay's name, which is all that a relay of its own needs: it then listens on port 443 and
        gets itself a certificate. With {option}`services.drv-thru.relay.tlsCert` or
        {option}`services.drv-thru.relay.trustedProxies`, it is only the name by which
        builders know it.
      '';
    };
    listen = mkOption {
      type = own.listenAddress;
      default = if alone then ":443" else ":7411";
      defaultText = lib.literalExpression "\":443\" with a domain and neither tlsCert nor trustedProxies, else \":7411\"";
      example = ":443";
      description = "Where the relay listens.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the relay's port, for TCP and for STUN.";
    };
    stunListen = mkOption {
      type = types.nullOr own.stunAddress;
      default = null;
      example = ":3478";
      description = ''
        Where the relay answers STUN (UDP), or "off". With null, at the same address and port
        as `listen`, and not at all behind `trustedProxies`.
      '';
    };
    metrics = mkOption {
      type = types.nullOr own.listenAddress;
      default = null;
      example = "127.0.0.1:9411";
      description = "Where the relay serves Prometheus metrics. With null, nowhere.";
    };
    acmeDomains = mkOption {
      type = types.listOf own.hostName;
      default = lib.optional alone cfg.domain;
      defaultText = lib.literalExpression "domain, unless there are tlsCert or trustedProxies";
      example = [ "relay.example.org" ];
      description = ''
        The names for which the relay gets certificates itself, by ACME: they have to lead to
        port 443 of this machine, or of a router that leads it to `listen`.
      '';
    };
    acmeEmail = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "admin@example.org";
      description = "Where the certificate authority may write to.";
    };
    acmeDirectory = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "https://acme-staging-v02.api.letsencrypt.org/directory";
      description = "The certificate authority's directory. With null, that of Let's Encrypt.";
    };
    trustedProxies = mkOption {
      type = types.listOf own.network;
      default = [ ];
      example = [ "127.0.0.1" "10.0.0.0/8" ];
      description = "The proxies whose X-Forwarded-For is believed.";
    };
    access = mkOption {
      type = types.enum [ "open" "allowlist" "token" ];
      default = "open";
      description = "Who may register builders: everybody, `allowedBuilders`, or whoever has a token of `tokenFiles`.";
    };
    allowedBuilders = mkOption {
      type = types.listOf own.endpointId;
      default = [ ];
      example = [ "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq" ];
      description = "The endpoint IDs of the builders that may register.";
    };
    tokenFiles = mkOption {
      type = types.listOf own.secretFile;
      default = [ ];
      example = [ "/run/secrets/relay-tokens" ];
      description = "Files with the tokens of builders that may register, one a line. They are read at the start, as root.";
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
      default = lib.optional (cfg.domain != null && !alone) cfg.domain;
      defaultText = lib.literalExpression "domain, where it has no certificate by ACME";
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
      type = own.duration;
      default = "5s";
      example = "1m";
      description = "How long open circuits may go on when the relay is stopped.";
    };
    maxRegistrations = count 20000 "builders there may be at once";
    maxRegistrationsPerAddress = count 1000 "builders there may be at once from one address";
    maxCircuits = count 8192 "circuits there may be at once; a client uses one, and up to eight more while it moves bulk";
    maxCircuitsPerBuilder = count 1024 "circuits there may be at once to one builder";
    maxCircuitsPerAddress = count 256 "circuits there may be at once from one address";
    maxHalfOpenPerBuilder = count 64 "circuits there may be at once that one builder has not come for yet";
    maxConnections = count 4096 "connections there may be at once that have asked for nothing yet";
    maxConnectionsPerAddress = count 256 "connections there may be at once that have asked for nothing yet, from one address";
    maxBytesPerSecond = mkOption {
      type = own.speed;
      default = "unlimited";
      example = "100M";
      description = "What all circuits together may carry in a second.";
    };
    maxCircuitBytesPerSecond = mkOption {
      type = own.speed;
      default = "unlimited";
      example = "20M";
      description = "What one circuit, and so one large transfer, may carry in a second.";
    };
    handshakeRate = count 50 "new connections one address may make in a second";
    handshakeBurst = count 500 "new connections one address may make at once";
    stunRate = count 20 "STUN answers one address may get in a second";
    halfOpenTimeout = mkOption {
      type = own.duration;
      default = "10s";
      description = "How long a builder has to come for a circuit.";
    };
    idleTimeout = mkOption {
      type = own.duration;
      default = "2m";
      description = "How long a circuit may carry nothing, or take over a piece of a message.";
    };
    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--log-level=debug" ];
      description = "More flags of `drv-thru-relay`, behind those of the options.";
    };
  };

  config = lib.mkIf cfg.enable {
    # A router may translate the port.
    warnings = lib.optional (acme && port != 443)
      "services.drv-thru.relay: certificates by ACME are fetched through port 443, and listen has ${toString port}: that port has to be led here.";
    assertions = [
      {
        assertion = (cfg.tlsCert == null) == (cfg.tlsKey == null);
        message = "services.drv-thru.relay: tlsCert and tlsKey go together. Set both, or neither for plain HTTP behind a proxy.";
      }
      {
        assertion = !(acme && tls);
        message = "services.drv-thru.relay: certificates come from tlsCert and tlsKey or by ACME. Drop them, or acmeDomains.";
      }
      {
        assertion = !lib.any (name: builtins.match ".*:.*" name != null) cfg.acmeDomains;
        message = "services.drv-thru.relay: certificates by ACME are for names without a port, unlike ${lib.concatStringsSep " and " cfg.acmeDomains}. "
          + "Leave the port out and set listen.";
      }
      {
        assertion = (cfg.access == "allowlist") == (cfg.allowedBuilders != [ ]);
        message = "services.drv-thru.relay: access = \"allowlist\" and allowedBuilders go together.";
      }
      {
        assertion = (cfg.access == "token") == (cfg.tokenFiles != [ ]);
        message = "services.drv-thru.relay: access = \"token\" and tokenFiles go together.";
      }
    ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ port ];
    networking.firewall.allowedUDPPorts = lib.mkIf (cfg.openFirewall && stunPort != null) [ stunPort ];

    systemd.services.drv-thru-relay = {
      description = "drv-thru's relay";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      serviceConfig = import ./hardening.nix { inherit lowPort; } // {
        # SIGHUP reloads it.
        Type = "notify-reload";
        WatchdogSec = 120;
        DynamicUser = true;
        ExecStart = lib.concatStringsSep " " ([ "${package}/bin/drv-thru-relay" ] ++ flags);
        Restart = "on-failure";
        RestartSec = 5;
        RestartPreventExitStatus = 2;
        TimeoutStopSec = own.seconds cfg.drainTimeout + 10;
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
      } // lib.optionalAttrs (credentials != [ ]) {
        LoadCredential = credentials;
      } // lib.optionalAttrs acme {
        StateDirectory = "drv-thru-relay";
        StateDirectoryMode = "0700";
      };
    };
  };
}
