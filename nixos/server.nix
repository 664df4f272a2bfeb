# services.drv-thru.server: lets others build on this machine.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;

  cfg = config.services.drv-thru.server;
  relay = config.services.drv-thru.relay;
  package = config.services.drv-thru.package;
  nix = config.nix.settings;

  user = "drv-thru";
  # A file of LoadCredential= may show the permissions of its access list as those
  # of a group, which the program takes for a key that others can read. The service
  # makes itself a copy.
  keyCopy = "/run/drv-thru/secret.key";
  inVarLib = lib.hasPrefix "/var/lib/" cfg.dataDir;
  embedded = cfg.embeddedRelay.enable;
  embeddedPort = own.portOf cfg.embeddedRelay.listen;

  clientOptions.options = {
    publicKey = mkOption {
      type = own.endpointId;
      example = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
      description = "The client's ID, as `drv-thru key show` prints it there.";
    };
    maxBuildTime = mkOption {
      type = own.duration;
      default = "30m";
      example = "2h";
      description = "How long one build of this client may take.";
    };
    maxUploadBytes = mkOption {
      type = own.size;
      default = "20G";
      example = "unlimited";
      description = "How many bytes of sources one build of this client may send.";
    };
    cache = mkOption {
      type = types.enum [ "builds" "store" ];
      default = "builds";
      description = ''
        What this client may fetch: the closures of its own builds (`builds`), or every
        path of this machine's store (`store`).
      '';
    };
    policy = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "nightly";
      description = "The policy that decides on its builds, by its name in {option}`services.drv-thru.server.policies`.";
    };
  };

  policyOptions.options = {
    module = mkOption {
      type = types.nullOr own.secretFile;
      default = null;
      example = "/etc/drv-thru/nightly.wasm";
      description = "The WebAssembly module. With null, it is the built-in one.";
    };
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = { ticket.builds_hour = 3; };
      description = "What the module is told; what it makes of it is its own.";
    };
    mode = mkOption {
      type = types.enum [ "enforce" "monitor" ];
      default = "enforce";
      description = "Whether its decisions hold, or are recorded only.";
    };
  };

  # The keys of cmd/drv-thru's configuration file.
  settings = lib.filterAttrs (_: value: value != null) {
    data_dir = cfg.dataDir;
    secret_key_file = if cfg.secretKeyFile == null then null else keyCopy;
    max_concurrent_builds = cfg.maxConcurrentBuilds;
    output_cache_max_parallel_fills = cfg.outputCacheMaxParallelFills;
    recent_builds_limit = cfg.recentBuildsLimit;
    trusted_clients = lib.mapAttrs
      (_: client: lib.filterAttrs (_: value: value != null) {
        public_key = client.publicKey;
        max_build_time = client.maxBuildTime;
        max_upload_bytes = client.maxUploadBytes;
        cache = client.cache;
        policy = client.policy;
      })
      cfg.trustedClients;
    relays = cfg.relays;
    embedded_relay = if embedded then cfg.embeddedRelay.listen else null;
    embedded_relay_urls = if embedded then cfg.embeddedRelay.urls else null;
    listen = cfg.listen;
    announce = if cfg.announce == [ ] then null else cfg.announce;
    stun = if cfg.stun == [ ] then null else cfg.stun;
    keep_outputs = cfg.keepOutputs;
    reattach_grace = cfg.reattachGrace;
    max_output_bytes = cfg.maxOutputBytes;
    max_index_bytes = cfg.maxIndexBytes;
    max_log_bytes = cfg.maxLogBytes;
    min_free = if cfg.minFree == null then "unlimited" else cfg.minFree;
    cores = cfg.cores;
    max_silent_time = cfg.maxSilentTime;
    systems = if cfg.systems == [ ] then null else cfg.systems;
    policies = if cfg.policies == { } then null else lib.mapAttrs
      (_: policy: lib.filterAttrs (_: value: value != null && value != { }) {
        module = policy.module;
        settings = policy.settings;
        mode = policy.mode;
      })
      cfg.policies;
  };

  # The trusted clients by key, where a key has more than one.
  twins = lib.filterAttrs (_: names: builtins.length names > 1)
    (builtins.groupBy (name: cfg.trustedClients.${name}.publicKey) (builtins.attrNames cfg.trustedClients));

  # How nix.conf may speak of the service's user.
  names =
    let
      member = name: group: name == user || builtins.elem user (group.members or [ ]);
      groups = builtins.attrNames (lib.filterAttrs member config.users.groups) ++ config.users.users.${user}.extraGroups;
    in
    [ "*" user ] ++ map (group: "@" + group) groups;
  listed = setting: lib.filter (name: builtins.elem name names)
    (own.words (nix.${setting} or [ ]) ++ own.words (nix."extra-${setting}" or [ ]));
in
{
  options.services.drv-thru.server = {
    enable = lib.mkEnableOption "drv-thru's builder, which lets ticket holders build on this machine";

    dataDir = mkOption {
      type = own.dataDir;
      default = "/var/lib/drv-thru";
      description = ''
        Where the builder keeps its keys, its state and what its builds need. Members of
        the group `drv-thru` may reach the admin socket in it, and so make tickets.
      '';
    };
    secretKeyFile = mkOption {
      type = types.nullOr own.secretFile;
      default = null;
      example = "/run/secrets/drv-thru.key";
      description = ''
        The file with the builder's secret key, which makes its endpoint ID. It is read as
        root, so only root needs to be able to. With null, a key is made in
        {option}`services.drv-thru.server.dataDir`.
      '';
    };
    maxConcurrentBuilds = mkOption {
      type = types.ints.positive;
      default = 1;
      example = 4;
      description = "How many builds run at once; others wait in a queue.";
    };
    outputCacheMaxParallelFills = mkOption {
      type = types.nullOr (types.ints.between 1 16);
      default = null;
      example = 4;
      description = "How many store paths are read from disk at once for clients. With null, it depends on the CPUs.";
    };
    recentBuildsLimit = mkOption {
      type = types.ints.positive;
      default = 20;
      description = "How many ended builds `drv-thru status` shows.";
    };
    trustedClients = mkOption {
      type = types.attrsOf (types.submodule clientOptions);
      default = { };
      example = lib.literalExpression ''
        {
          laptop = {
            publicKey = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
            maxBuildTime = "2h";
          };
        }
      '';
      description = "Clients that need no ticket, by a name of your choice.";
    };
    policies = mkOption {
      type = types.attrsOf (types.submodule policyOptions);
      default = { };
      example = lib.literalExpression ''
        {
          nightly.module = "/etc/drv-thru/nightly.wasm";
          few.settings.ticket.builds_hour = 3;
        }
      '';
      description = "Programs that decide what a ticket may build, for `drv-thru ticket create --policy`.";
    };
    relays = mkOption {
      type = types.listOf own.relayUrl;
      default = [ ];
      example = [ "https://relay.example.org" ];
      description = "The relays at which clients find this builder; at most 8.";
    };
    embeddedRelay = {
      enable = mkOption {
        type = types.bool;
        default = cfg.relays == [ ];
        defaultText = lib.literalExpression "config.services.drv-thru.server.relays == [ ]";
        description = "Whether the builder has a relay inside, for clients that can reach this machine themselves.";
      };
      listen = mkOption {
        type = own.listenAddress;
        default = ":7411";
        example = "192.0.2.1:7411";
        description = "Where the relay inside listens.";
      };
      urls = mkOption {
        type = types.listOf own.relayUrl;
        default = [ ];
        example = [ "http://builder.example.org:7411" ];
        description = "How clients reach the relay inside. Without any, tickets name this machine's addresses.";
      };
    };
    listen = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = ":7412";
      description = ''
        Where the builder takes clients that come without a relay, by UDP and TCP; null for
        any free port, `none` for nowhere.
      '';
    };
    announce = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "203.0.113.7:7412" ];
      description = "Further addresses that lead to {option}`services.drv-thru.server.listen`, such as a router's that forwards the port.";
    };
    stun = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "stun.example.org:3478" ];
      description = "STUN servers. Without any, the relays are asked.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the port of the relay inside. A builder at another relay needs no open port.";
    };
    keepOutputs = mkOption {
      type = own.duration;
      default = "24h";
      example = "7d";
      description = "How long a build's inputs and outputs are kept from garbage collection, and can be fetched.";
    };
    reattachGrace = mkOption {
      type = own.duration;
      default = "2m";
      example = "10m";
      description = "How long a build waits for a client that has vanished.";
    };
    maxOutputBytes = mkOption {
      type = own.size;
      default = "unlimited";
      example = "50G";
      description = "How many bytes the outputs of one build may have, whoever asked for it.";
    };
    maxIndexBytes = mkOption {
      type = own.size;
      default = "1G";
      example = "5G";
      description = "How many bytes may be kept of what is known about NARs, so that serving one again takes no reading it first.";
    };
    maxLogBytes = mkOption {
      type = own.size;
      default = "4G";
      example = "500M";
      description = "How many bytes the logs of ended builds may take. The oldest go first.";
    };
    minFree = mkOption {
      type = types.nullOr own.reserve;
      default = "5G";
      example = "50G";
      description = "Builds are refused or cancelled when the store's disk has less free than this. With null, they never are.";
    };
    cores = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 8;
      description = "How many cores one derivation may use. With null, it is {option}`nix.settings.cores`.";
    };
    maxSilentTime = mkOption {
      type = types.nullOr own.duration;
      default = null;
      example = "1h";
      description = "How long a derivation may build without a line of output. With null, for as long as it likes.";
    };
    systems = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "x86_64-linux" ];
      description = "The only systems that are built for. Without any, all that this machine's Nix builds for.";
    };

    settings = mkOption {
      type = types.anything;
      internal = true;
      readOnly = true;
      default = settings;
      description = "The configuration that `drv-thru serve` is given.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = twins == { };
        message = "services.drv-thru.server.trustedClients: " + lib.concatStringsSep "; "
          (map (same: "${lib.concatStringsSep " and " same} have the same publicKey") (builtins.attrValues twins))
        + ". Give each client its own, or leave one of them out.";
      }
      {
        assertion = listed "trusted-users" == [ ];
        message = "services.drv-thru.server: nix.settings.trusted-users has ${lib.concatStringsSep " and " (listed "trusted-users")}, "
          + "which makes the service's user (${user}) a trusted user of Nix. It must not be one: "
          + "take it out, or name the users that you mean.";
      }
      {
        assertion = listed "allowed-users" != [ ];
        message = "services.drv-thru.server: nix.settings.allowed-users does not let the service's user talk to Nix. Add \"${user}\".";
      }
      {
        assertion = nix.sandbox or true == true;
        message = "services.drv-thru.server: builds of others must be sandboxed. Set nix.settings.sandbox = true.";
      }
      {
        assertion = config.nix.enable;
        message = "services.drv-thru.server builds with this machine's Nix. Set nix.enable = true.";
      }
      {
        assertion = embedded || cfg.relays != [ ];
        message = "services.drv-thru.server: nobody could find the builder. Name a relay in relays, or set embeddedRelay.enable = true.";
      }
      {
        assertion = cfg.openFirewall -> embedded;
        message = "services.drv-thru.server.openFirewall opens the port of the relay inside, which is off. "
          + "Set embeddedRelay.enable = true, or leave openFirewall out: a builder at another relay needs no open port.";
      }
      {
        assertion = embedded -> embeddedPort >= 1024;
        message = "services.drv-thru.server.embeddedRelay.listen: the builder may not listen on ports below 1024. "
          + "Take another, or run services.drv-thru.relay on this one.";
      }
      {
        assertion = !(embedded && relay.enable && embeddedPort == own.portOf relay.listen);
        message = "services.drv-thru: the relay inside the server and services.drv-thru.relay both have port ${toString embeddedPort}. "
          + "Name the relay in server.relays and leave embeddedRelay off, or change one of the two listen options.";
      }
      {
        # core/ticket's MaxRelays
        assertion = builtins.length cfg.relays + (if embedded then builtins.length cfg.embeddedRelay.urls else 0) <= 8;
        message = "services.drv-thru.server: a ticket has room for 8 relays, and relays and embeddedRelay.urls have more.";
      }
    ];

    users.users.${user} = {
      isSystemUser = true;
      group = user;
      home = cfg.dataDir;
      description = "drv-thru's builder";
    };
    users.groups.${user} = { };

    environment.systemPackages = [ package ];
    environment.variables.DRV_THRU_ADMIN_SOCKET = "${cfg.dataDir}/admin.sock";

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ embeddedPort ];

    # systemd makes directories in /var/lib only.
    systemd.tmpfiles.rules = lib.mkIf (!inVarLib) [ "d ${cfg.dataDir} 0750 ${user} ${user} -" ];

    systemd.services.drv-thru = {
      description = "drv-thru's builder";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" "nix-daemon.socket" ];
      after = [ "network-online.target" "nix-daemon.socket" ];
      path = [ config.nix.package ];
      environment.HOME = cfg.dataDir;
      serviceConfig = import ./hardening.nix { } // {
        Type = "exec";
        User = user;
        Group = user;
        ExecStart = "${package}/bin/drv-thru serve --config ${pkgs.writeText "drv-thru.json" (builtins.toJSON cfg.settings)}";
        Restart = "on-failure";
        RestartSec = 5;
        # Wrong usage, which the next start would find as well.
        RestartPreventExitStatus = 2;
        # Nix's socket; the network; the list of this machine's addresses.
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" ];
      } // (if inVarLib then {
        StateDirectory = lib.removePrefix "/var/lib/" cfg.dataDir;
        StateDirectoryMode = "0750";
      } else {
        ReadWritePaths = [ cfg.dataDir ];
      }) // lib.optionalAttrs (cfg.secretKeyFile != null) {
        LoadCredential = [ "secret.key:${cfg.secretKeyFile}" ];
        RuntimeDirectory = "drv-thru";
        RuntimeDirectoryMode = "0700";
        ExecStartPre = "${pkgs.coreutils}/bin/install -m 0400 %d/secret.key ${keyCopy}";
      };
    };
  };
}
