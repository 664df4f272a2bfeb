# services.drv-thru.client: builds on other machines.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;
  inherit (own) flag quote;

  cfg = config.services.drv-thru.client;
  package = config.services.drv-thru.package;
  helper = cfg.ticketHelper;
  # Whom Nix trusts, the helper may as well.
  helperKeys = lib.unique (helper.trustedBuilderPublicKeys ++ keys);
  helperKeyFile = pkgs.writeText "drv-thru-import-helper.keys"
    (lib.concatStringsSep "" (map (key: key + "\n") helperKeys));

  mounts = lib.mapAttrsToList (name: mount: mount // { inherit name; }) cfg.mounts;
  # An assertion about each mount, which names those that it is not true of.
  ofMounts = test: message:
    let bad = map (mount: mount.name) (lib.filter (mount: !test mount) mounts); in
    {
      assertion = bad == [ ];
      message = "services.drv-thru.client.mounts: " + message (lib.concatStringsSep " and " bad);
    };
  ways = mount: lib.filter (way: way != null) [ mount.ticketFile mount.endpointId mount.builder ];

  # builders.json: what builders has, and those of trustedBuilders that say where they are.
  entry = builder: lib.filterAttrs (_: value: value != null && value != [ ]) {
    endpoint_id = builder.endpointId;
    endpoint_id_file = builder.endpointIdFile or null;
    relay_url = builder.relayUrl;
    relay_urls = builder.relayUrls or null;
    public_key = builder.publicKey;
  };
  builders = builtins.mapAttrs (_: entry)
    (lib.filterAttrs (_: builder: builder.endpointId != null) cfg.trustedBuilders // cfg.builders);
  # An assertion about each of builders.
  ofBuilders = test: message:
    let bad = lib.filter (name: !test name cfg.builders.${name}) (builtins.attrNames cfg.builders); in
    {
      assertion = bad == [ ];
      message = "services.drv-thru.client.builders: " + message (lib.concatStringsSep " and " bad);
    };
  badNames = lib.filter (name: !own.name name) (builtins.attrNames builders ++ builtins.attrNames cfg.mounts);

  # What these services cannot do without a mount namespace of their own, they are
  # kept from otherwise: what they mount is for all, or they make one themselves.
  hardening = builtins.removeAttrs (import ./hardening.nix { }) [
    "AmbientCapabilities"
    "MemoryDenyWriteExecute"
    "PrivateDevices"
    "PrivateUsers"
    "ProcSubset"
    "ProtectProc"
  ] // {
    CapabilityBoundingSet = "CAP_SYS_ADMIN";
    DeviceAllow = "/dev/fuse rw";
    RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" "AF_NETLINK" ];
    SystemCallFilter = [ "@system-service" "@mount" ];
  };
  withoutNamespace = builtins.removeAttrs hardening [
    "PrivateMounts"
    "PrivateTmp"
    "ProtectClock"
    "ProtectControlGroups"
    "ProtectHome"
    "ProtectHostname"
    "ProtectKernelLogs"
    "ProtectKernelModules"
    "ProtectKernelTunables"
    "ProtectSystem"
    "RemoveIPC"
  ] // { UMask = "0022"; };

  mountService = mount: {
    description = "drv-thru's mount of ${mount.name}";
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-online.target" ];
    # And so stopped before the network goes.
    after = [ "network-online.target" ];
    serviceConfig = withoutNamespace // {
      Type = "notify";
      ExecStart = lib.concatStringsSep " " (lib.concatLists [
        [ "${package}/bin/drv-thru mount --allow-other" ]
        (flag "ticket-file" mount.ticketFile)
        (flag "server" mount.endpointId)
        (flag "builder" mount.builder)
        (lib.concatMap (flag "relay-url") mount.relayUrls)
        (flag "key-file" mount.secretKeyFile)
        [ (quote mount.where) ]
      ]);
      # A process that is killed takes its FUSE connection along, so nobody hangs in
      # it; what is left is an empty mount point.
      TimeoutStopSec = 5;
      ExecStopPost = "-${pkgs.util-linux}/bin/umount -lq ${quote mount.where}";
      CacheDirectory = "drv-thru-mount";
      CacheDirectoryMode = "0700";
      Environment = "XDG_CACHE_HOME=%C/drv-thru-mount";
      Restart = "on-failure";
      RestartSec = 5;
      RestartPreventExitStatus = "2 3";
    };
  };
  keys = lib.filter (key: key != null)
    (map (builder: builder.publicKey) (builtins.attrValues cfg.trustedBuilders ++ builtins.attrValues cfg.builders));

  # Nix looks keys up by their names, and heeds one key of a name only.
  nameOf = key: builtins.head (builtins.match "([^:]*):.*" key);
  trusted = lib.concatMap (setting: own.words (config.nix.settings.${setting} or [ ])) [
    "trusted-public-keys"
    "extra-trusted-public-keys"
  ];
  rivals = name: lib.unique (lib.filter (key: lib.hasPrefix (name + ":") key) trusted);
  contested = lib.filter (name: builtins.length (rivals name) > 1) (lib.unique (map nameOf keys));
in
{
  options.services.drv-thru.client = {
    enable = lib.mkEnableOption "drv-thru, which builds on other machines";

    narFetches = mkOption {
      type = types.nullOr (types.ints.between 1 128);
      default = null;
      example = 16;
      description = "How many store paths `drv-thru build` fetches at once (`DRV_THRU_NAR_FETCHES`). With null, it depends on the CPUs.";
    };

    trustedBuilders = mkOption {
      type = types.attrsOf (types.submodule {
        options = {
          publicKey = mkOption {
            type = own.nixPublicKey;
            example = "drv-thru-zbslgtcuwy-1:JWtzGCIoGlXYmNW5xeM7YmyolTIV9bqJr8Ij03FNKAk=";
            description = "The builder's signing key, as `drv-thru serve` prints it there.";
          };
          endpointId = mkOption {
            type = types.nullOr own.endpointId;
            default = null;
            example = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
            description = "The builder's endpoint ID, which makes it one of {option}`services.drv-thru.client.builders` too.";
          };
          relayUrl = mkOption {
            type = types.nullOr own.relayUrl;
            default = null;
            example = "https://relay.example.org";
            description = "The relay at which it is found.";
          };
        };
      });
      default = { };
      description = ''
        The builders whose outputs may enter this machine's store, by a name of your
        choice. Their keys are added to {option}`nix.settings.trusted-public-keys`: who
        has such a key is believed about every store path.
      '';
    };
  };

  options.services.drv-thru.client.builders = mkOption {
    type = types.attrsOf (types.submodule {
      options = {
        endpointId = mkOption {
          type = types.nullOr own.endpointId;
          default = null;
          example = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
          description = "The builder's endpoint ID, as `drv-thru serve` prints it there.";
        };
        endpointIdFile = mkOption {
          type = types.nullOr own.file;
          default = null;
          example = "/run/secrets/attic.id";
          description = "A file with the endpoint ID, instead. Whoever builds has to be able to read it.";
        };
        relayUrl = mkOption {
          type = types.nullOr own.relayUrl;
          default = null;
          example = "https://relay.example.org";
          description = "The relay at which it is found.";
        };
        relayUrls = mkOption {
          type = types.listOf own.relayUrl;
          default = [ ];
          example = [ "https://relay.example.org" "https://relay.example.net" ];
          description = "The relays at which it is found, instead; at most 8.";
        };
        publicKey = mkOption {
          type = types.nullOr own.nixPublicKey;
          default = null;
          example = "drv-thru-zbslgtcuwy-1:JWtzGCIoGlXYmNW5xeM7YmyolTIV9bqJr8Ij03FNKAk=";
          description = ''
            The builder's signing key, which makes Nix trust it as
            {option}`services.drv-thru.client.trustedBuilders` does. A builder that signs with
            another is refused. With null, Nix has to trust it otherwise.
          '';
        };
      };
    });
    default = { };
    example = lib.literalExpression ''
      {
        attic = {
          endpointId = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
          relayUrl = "https://relay.example.org";
        };
      }
    '';
    description = ''
      Builders by names, for everybody's `drv-thru build --builder NAME`
      (`/etc/drv-thru/builders.json`). They have to trust the user's key (`drv-thru key show`).
    '';
  };

  options.services.drv-thru.client.ticketHelper = {
    enable = mkOption {
      type = types.bool;
      default = cfg.enable && helperKeys != [ ];
      defaultText = lib.literalExpression "whether there is a key in trustedBuilderPublicKeys, client.trustedBuilders or client.builders";
      description = ''
        Whether there is the import helper, with which users whom Nix does not trust import
        what builders have signed.
      '';
    };
    group = mkOption {
      type = types.str;
      default = "wheel";
      example = "drv-thru-import";
      description = "The group whose members may use it.";
    };
    trustedBuilderPublicKeys = mkOption {
      type = types.listOf own.nixPublicKey;
      default = [ ];
      example = [ "drv-thru-zbslgtcuwy-1:JWtzGCIoGlXYmNW5xeM7YmyolTIV9bqJr8Ij03FNKAk=" ];
      description = ''
        The signing keys of the builders whose outputs it imports, beside those of
        {option}`services.drv-thru.client.trustedBuilders` and
        {option}`services.drv-thru.client.builders`. Nix itself need not trust them:
        only what is imported through the helper is believed to them.
      '';
    };
  };

  options.services.drv-thru.client.mounts = mkOption {
    type = types.attrsOf (types.submodule ({ name, ... }: {
      options = {
        builder = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "attic";
          description = ''
            The builder, by its name in {option}`services.drv-thru.client.builders` or in
            {option}`services.drv-thru.client.trustedBuilders`, where it trusts this machine's key.
          '';
        };
        ticketFile = mkOption {
          type = types.nullOr own.secretFile;
          default = null;
          example = "/run/secrets/drv-thru.ticket";
          description = "The file with the ticket whose builds are shown. It is read as root.";
        };
        endpointId = mkOption {
          type = types.nullOr own.endpointId;
          default = null;
          example = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
          description = "The builder's endpoint ID, where it has no name here. It has to trust this machine's key.";
        };
        relayUrls = mkOption {
          type = types.listOf own.relayUrl;
          default = [ ];
          example = [ "https://relay.example.org" ];
          description = "The relays at which the builder is found.";
        };
        secretKeyFile = mkOption {
          type = types.nullOr own.secretFile;
          default = null;
          example = "/run/secrets/drv-thru.key";
          description = "The file with this machine's secret key, for a builder that trusts it. It is read as root.";
        };
        where = mkOption {
          type = own.file;
          default = "/run/drv-thru/${name}";
          defaultText = "/run/drv-thru/‹name›";
          example = "/srv/attic";
          description = "The directory to mount on.";
        };
        substituter = mkOption {
          type = types.bool;
          default = true;
          description = ''
            Whether Nix asks it like any binary cache. The builder's key has to be among
            {option}`services.drv-thru.client.trustedBuilders` for that.
          '';
        };
      };
    }));
    default = { };
    description = "Caches of builders that are mounted, by a name of your choice.";
  };

  config = lib.mkIf cfg.enable (lib.mkMerge [
    (lib.mkIf helper.enable {
      assertions = [
        {
          assertion = helperKeys != [ ];
          message = "services.drv-thru.client.ticketHelper: nothing can be imported without a key in trustedBuilderPublicKeys, client.trustedBuilders or client.builders.";
        }
      ];
      users.groups.${helper.group} = { };
      systemd.sockets.drv-thru-import-helper = {
        description = "drv-thru's import helper";
        wantedBy = [ "sockets.target" ];
        socketConfig = {
          ListenStream = "/run/drv-thru-import-helper.socket";
          SocketGroup = helper.group;
          SocketMode = "0660";
        };
      };
      systemd.services.drv-thru-import-helper = {
        description = "drv-thru's import helper";
        requires = [ "drv-thru-import-helper.socket" ];
        after = [ "drv-thru-import-helper.socket" "nix-daemon.socket" ];
        serviceConfig = hardening // {
          Type = "notify";
          ExecStart = "${package}/bin/drv-thru import-helper serve --trusted-public-key-file ${helperKeyFile}"
            + " --nix ${config.nix.package}/bin/nix";
          RestrictNamespaces = "mnt";
          RuntimeDirectory = "drv-thru-import-helper";
          RuntimeDirectoryMode = "0700";
          TasksMax = 1024;
        };
      };
    })
    {
      assertions = [
        (ofMounts (mount: builtins.length (ways mount) == 1)
          (bad: "set one of ticketFile, builder and endpointId of ${bad}."))
        (ofMounts (mount: mount.endpointId == null || mount.relayUrls != [ ])
          (bad: "endpointId goes with relayUrls, which are missing of ${bad}."))
        (ofMounts (mount: mount.builder == null && mount.endpointId == null || mount.secretKeyFile != null)
          (bad: "a builder has to know this machine: set secretKeyFile of ${bad}."))
        (ofMounts (mount: mount.builder == null || builders ? ${mount.builder})
          (bad: "builder names none of client.builders for ${bad}."))
        (ofMounts (mount: lib.all (other: other.name == mount.name || other.where != mount.where) mounts)
          (bad: "${bad} have the same directory in where. Give each its own."))
      ];
      systemd.services = builtins.listToAttrs
        (map (mount: { name = "drv-thru-mount-${mount.name}"; value = mountService mount; }) mounts);
      nix.settings.substituters = map (mount: "file://${mount.where}") (lib.filter (mount: mount.substituter) mounts);
    }
    {
      assertions = [
        {
          assertion = contested == [ ];
          message = "services.drv-thru.client.trustedBuilders: nix.settings.trusted-public-keys has several keys that are called "
            + "${lib.concatStringsSep " and " contested}, and Nix would heed one of them only.";
        }
        (ofBuilders (_: builder: (builder.endpointId == null) != (builder.endpointIdFile == null))
          (bad: "set either endpointId or endpointIdFile of ${bad}."))
        (ofBuilders (_: builder: builder.relayUrl == null || builder.relayUrls == [ ])
          (bad: "set either relayUrl or relayUrls of ${bad}, not both."))
        (ofBuilders (_: builder: builtins.length builder.relayUrls <= 8)
          (bad: "there is room for 8 relayUrls, and ${bad} has more."))
        (ofBuilders (name: _: (cfg.trustedBuilders.${name}.endpointId or null) == null)
          (bad: "${bad} has an endpointId in client.trustedBuilders as well. Leave one of them out."))
        {
          assertion = badNames == [ ];
          message = "services.drv-thru.client: ${lib.concatStringsSep " and " badNames} cannot be the name of a builder or mount. "
            + "Take letters, digits, dots, - and _.";
        }
      ];
      warnings = map
        (name: "services.drv-thru.client.builders: nobody finds ${name} without relayUrl or relayUrls.")
        (builtins.attrNames (lib.filterAttrs (_: builder: !(builder ? relay_url || builder ? relay_urls)) builders));
      environment.systemPackages = [ package ];
      environment.etc = lib.optionalAttrs (builders != { }) {
        "drv-thru/builders.json".text = builtins.toJSON { inherit builders; };
      };
      environment.sessionVariables = lib.optionalAttrs (cfg.narFetches != null) {
        DRV_THRU_NAR_FETCHES = toString cfg.narFetches;
      };
      nix.settings.trusted-public-keys = keys;
    }
    # Older releases of NixOS always have fusermount3.
    (lib.optionalAttrs (options.programs.fuse ? enable) {
      programs.fuse.enable = true;
    })
  ]);
}
