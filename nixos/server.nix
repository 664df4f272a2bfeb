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
  inVarLib = lib.hasPrefix "/var/lib/" cfg.dataDir;
  embedded = cfg.embeddedRelay.enable;
  embeddedPort = own.portOf cfg.embeddedRelay.listen;
  listens = cfg.listen != null && cfg.listen != "none";
  listenPort = if listens then own.portOf cfg.listen else null;

  # Secrets are read as root and handed over (LoadCredential=). There, a file may
  # show the permissions of its access list as those of a group, which the program
  # takes for a secret that others can read: the service makes itself copies.
  copies = "drv-thru-server";
  copyOf = name: "/run/${copies}/${name}";
  # A key in the state directory is the service's own, and made there.
  keyElsewhere = cfg.secretKeyFile != null && !lib.hasPrefix (cfg.dataDir + "/") cfg.secretKeyFile;
  tokenRelays = builtins.attrNames cfg.relayTokenFiles;
  tokens = builtins.listToAttrs (builtins.genList
    (n: { name = builtins.elemAt tokenRelays n; value = "relay-token-${toString n}"; })
    (builtins.length tokenRelays));
  secrets = lib.optionalAttrs keyElsewhere { "secret.key" = cfg.secretKeyFile; }
    // builtins.listToAttrs (map (url: { name = tokens.${url}; value = cfg.relayTokenFiles.${url}; }) tokenRelays);

  # What a running builder takes over when it is reloaded (reloadable in
  # cmd/drv-thru/serve_reload.go): a change of the rest restarts it.
  reloadable = [
    "max_concurrent_builds"
    "recent_builds_limit"
    "trusted_clients"
    "relays"
    "relay_token_files"
    "keep_outputs"
    "reattach_grace"
    "drain_timeout"
    "max_output_bytes"
    "max_log_bytes"
    "min_free"
    "cores"
    "max_silent_time"
    "policies"
  ];
  configFile = "drv-thru/serve.json";
  configText = builtins.toJSON cfg.settings;

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
    priority = mkOption {
      type = types.ints.between (-100) 100;
      default = 0;
      example = 10;
      description = "Whose waiting builds go first: the higher number. Tickets have 0.";
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
      type = types.nullOr own.file;
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
    secret_key_file = if keyElsewhere then copyOf "secret.key" else cfg.secretKeyFile;
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
        priority = client.priority;
      })
      cfg.trustedClients;
    relays = cfg.relays;
    relay_token_files = if tokens == { } then null else builtins.mapAttrs (_: copyOf) tokens;
    embedded_relay = if embedded then cfg.embeddedRelay.listen else null;
    embedded_relay_urls = if embedded then cfg.embeddedRelay.urls else null;
    listen = cfg.listen;
    announce = if cfg.announce == [ ] then null else cfg.announce;
    stun = if cfg.stun == [ ] then null else cfg.stun;
    keep_outputs = cfg.keepOutputs;
    reattach_grace = cfg.reattachGrace;
    drain_timeout = cfg.drainTimeout;
    metrics = cfg.metrics.listen;
    metrics_public = if cfg.metrics.public then true else null;
    max_output_bytes = cfg.maxOutputBytes;
    max_index_bytes = cfg.maxIndexBytes;
    max_log_bytes = cfg.maxLogBytes;
    min_free = if cfg.minFree == null then "unlimited" else cfg.minFree;
    cores = cfg.cores;
    max_silent_time = cfg.maxSilentTime;
    systems = if cfg.systems == [ ] then null else cfg.systems;
    policies = if cfg.policies == { } then null else
    lib.mapAttrs
      (_: policy: lib.filterAttrs (_: value: value != null && value != { }) {
        module = policy.module;
        settings = policy.settings;
        mode = policy.mode;
      })
      cfg.policies;
  };

  ports = lib.optional embedded embeddedPort ++ lib.optional listens listenPort;

  # The trusted clients by key, where a key has more than one.
  twins = lib.filterAttrs (_: names: builtins.length names > 1)
    (builtins.groupBy (name: cfg.trustedClients.${name}.publicKey) (builtins.attrNames cfg.trustedClients));

  strayTokens = lib.filter (url: !builtins.elem url cfg.relays) tokenRelays;
  badPolicyNames = lib.filter (name: builtins.match "[A-Za-z0-9_-]{1,64}" name == null) (builtins.attrNames cfg.policies);
  unknownPolicies = lib.filter (name: name != null && name != "limits" && !(cfg.policies ? ${name}))
    (lib.unique (map (client: client.policy) (builtins.attrValues cfg.trustedClients)));

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
        Where the builder keeps its keys, its state and what its builds need.
      '';
    };
    secretKeyFile = mkOption {
      type = types.nullOr own.secretFile;
      default = null;
      example = "/run/secrets/drv-thru.key";
      description = ''
        The file with the builder's secret key, which makes its endpoint ID. It is read as
        root, so only root needs to be able to. With null, a key is made in
        {option}`services.drv-thru.server.dataDir`; so is one that is named there.
      '';
    };
    adminGroup = mkOption {
      type = types.str;
      default = "wheel";
      example = "drv-thru-admins";
      description = ''
        The group whose members may make and revoke tickets, see the builder's status and
        pause it, beside root.
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
      description = "How many ended builds `drv-thru status` shows, and the builder remembers beyond {option}`services.drv-thru.server.keepOutputs`.";
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
      description = "The relays at which clients find this builder. Tickets name the first 8.";
    };
    relayTokenFiles = mkOption {
      type = types.attrsOf own.secretFile;
      default = { };
      example = { "https://relay.example.org" = "/run/secrets/relay-token"; };
      description = ''
        Files with the tokens that relays ask for, by the URLs in
        {option}`services.drv-thru.server.relays`. They are read at the start, as root.
      '';
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
      type = types.nullOr own.directAddress;
      default = null;
      example = ":7412";
      description = ''
        Where the builder takes clients that come without a relay, by UDP and TCP; null for
        any free port, `none` for nowhere. With a port of its own, and that port open, more
        clients find a direct path.
      '';
    };
    announce = mkOption {
      type = types.listOf own.ipAddress;
      default = [ ];
      example = [ "203.0.113.7:7412" ];
      description = "Further addresses that lead to {option}`services.drv-thru.server.listen`, such as a router's that forwards the port. Without any, the router is asked to forward it.";
    };
    stun = mkOption {
      type = types.listOf own.hostPort;
      default = [ ];
      example = [ "stun.example.org:3478" ];
      description = "STUN servers. Without any, the relays are asked.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of {option}`services.drv-thru.server.listen` and of the relay inside. A builder at another relay needs no open port.";
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
    drainTimeout = mkOption {
      type = types.nullOr own.duration;
      default = null;
      example = "10m";
      description = "How long running builds have to end when the service is stopped. With null, they are handed back at once.";
    };
    metrics = {
      listen = mkOption {
        type = types.nullOr own.metricsAddress;
        default = null;
        example = "127.0.0.1:9412";
        description = "Where the builder serves Prometheus metrics. With null, nowhere.";
      };
      public = mkOption {
        type = types.bool;
        default = false;
        description = "Whether other machines may read the metrics.";
      };
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
      description = "How long a derivation may build without a line of output. With null, it is {option}`nix.settings.max-silent-time`.";
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
        assertion = cfg.openFirewall -> embedded || listens;
        message = "services.drv-thru.server.openFirewall opens the ports of listen and of the relay inside, and there is neither. "
          + "Set listen, or leave openFirewall out: a builder at another relay needs no open port.";
      }
      {
        assertion = embedded -> embeddedPort >= 1024;
        message = "services.drv-thru.server.embeddedRelay.listen: the builder may not listen on ports below 1024. "
          + "Take another, or run services.drv-thru.relay on this one.";
      }
      {
        assertion = listens -> listenPort >= 1024;
        message = "services.drv-thru.server.listen: the builder may not listen on ports below 1024. Take another.";
      }
      {
        assertion = listens && embedded -> listenPort != embeddedPort;
        message = "services.drv-thru.server: listen and embeddedRelay.listen both have port ${toString listenPort}. Change one of them.";
      }
      {
        assertion = listens && relay.enable -> listenPort != own.portOf relay.listen;
        message = "services.drv-thru: server.listen and relay.listen both have port ${toString listenPort}. Change one of them.";
      }
      {
        assertion = cfg.announce == [ ] || listens;
        message = "services.drv-thru.server.announce names addresses that lead to listen, which has no port of its own. Set listen.";
      }
      {
        assertion = cfg.metrics.listen != null && !cfg.metrics.public -> own.loopback cfg.metrics.listen;
        message = "services.drv-thru.server.metrics: other machines would reach ${toString cfg.metrics.listen}. "
          + "Listen on 127.0.0.1, or set metrics.public = true.";
      }
      {
        assertion = strayTokens == [ ];
        message = "services.drv-thru.server.relayTokenFiles: ${lib.concatStringsSep " and " strayTokens} is none of relays.";
      }
      {
        assertion = unknownPolicies == [ ];
        message = "services.drv-thru.server.trustedClients: there is no policy called ${lib.concatStringsSep " and " unknownPolicies}. "
          + "Add it to policies, or take it out of policy.";
      }
      {
        assertion = badPolicyNames == [ ];
        message = "services.drv-thru.server.policies: a name is letters, digits, - and _, which ${lib.concatStringsSep " and " badPolicyNames} is not.";
      }
      {
        assertion = !(embedded && relay.enable && embeddedPort == own.portOf relay.listen);
        message = "services.drv-thru: the relay inside the server and services.drv-thru.relay both have port ${toString embeddedPort}. "
          + "Name the relay in server.relays and leave embeddedRelay off, or change one of the two listen options.";
      }
    ];
    # core/ticket's MaxRelays
    warnings = lib.optional (builtins.length cfg.relays + (if embedded then builtins.length cfg.embeddedRelay.urls else 0) > 8)
      "services.drv-thru.server: a ticket has room for 8 relays, and does not name what relays and embeddedRelay.urls have beyond them.";

    users.users.${user} = {
      isSystemUser = true;
      group = user;
      home = cfg.dataDir;
      description = "drv-thru's builder";
    };
    users.groups.${user} = { };
    users.groups.${cfg.adminGroup} = { };

    environment.systemPackages = [ package ];
    environment.etc.${configFile}.text = configText;

    # The relay inside answers STUN at its port, which is UDP.
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall ports;
    networking.firewall.allowedUDPPorts = lib.mkIf cfg.openFirewall ports;

    # systemd makes directories in /var/lib only.
    systemd.tmpfiles.rules = lib.mkIf (!inVarLib) [ "d ${cfg.dataDir} 0750 ${user} ${user} -" ];

    # Made by systemd, so that it is there before the builder is and while it restarts.
    systemd.sockets.drv-thru-admin = {
      description = "drv-thru's admin socket";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        # systemAdminSocket in cmd/drv-thru/ticket.go
        ListenStream = "/run/drv-thru-admin.socket";
        SocketGroup = cfg.adminGroup;
        SocketMode = "0660";
        Service = "drv-thru.service";
        RemoveOnStop = true;
      };
    };

    systemd.services.drv-thru = {
      description = "drv-thru's builder";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" "nix-daemon.socket" ];
      requires = [ "drv-thru-admin.socket" ];
      after = [ "network-online.target" "nix-daemon.socket" "drv-thru-admin.socket" ];
      path = [ config.nix.package ];
      environment.HOME = cfg.dataDir;
      # Builds that run go on where a reload does.
      reloadTriggers = [ configText ];
      restartTriggers = [ (builtins.toJSON (removeAttrs cfg.settings reloadable)) ]
        ++ lib.optional (secrets != { }) (builtins.toJSON secrets);
      serviceConfig = removeAttrs (import ./hardening.nix { }) [
        # Policies are compiled to machine code; interpreted, they would be out of time.
        "MemoryDenyWriteExecute"
      ] // {
        # It is ready once it is registered at a relay. SIGHUP reloads it.
        Type = "notify-reload";
        WatchdogSec = 120;
        User = user;
        Group = user;
        ExecStart = "${package}/bin/drv-thru serve --config /etc/${configFile}";
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
      }) // lib.optionalAttrs (secrets != { }) {
        LoadCredential = lib.mapAttrsToList (name: file: "${name}:${file}") secrets;
        RuntimeDirectory = copies;
        RuntimeDirectoryMode = "0700";
        ExecStartPre = map (name: "${pkgs.coreutils}/bin/install -m 0400 %d/${name} ${copyOf name}") (builtins.attrNames secrets);
      };
    };
  };
}
