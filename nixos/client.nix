# services.drv-thru.client: builds on other machines.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix lib;

  cfg = config.services.drv-thru.client;
  package = config.services.drv-thru.package;
  helper = cfg.ticketHelper;
  helperKeys = pkgs.writeText "drv-thru-import-helper.keys"
    (lib.concatStringsSep "" (map (key: key + "\n") helper.trustedBuilderPublicKeys));

  # For ExecStart=, where % and $ have a meaning.
  quote = flag: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON flag);
  flag = name: value: lib.optional (value != null) (quote "--${name}=${value}");

  mounts = lib.mapAttrsToList (name: mount: mount // { inherit name; }) cfg.mounts;
  badMounts = test: lib.concatStringsSep " and " (map (mount: mount.name) (lib.filter test mounts));

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
    after = [ "network-online.target" ];
    serviceConfig = withoutNamespace // {
      Type = "notify";
      ExecStart = lib.concatStringsSep " " (lib.concatLists [
        [ "${package}/bin/drv-thru mount --allow-other" ]
        (flag "ticket-file" mount.ticketFile)
        (flag "server" mount.endpointId)
        (lib.concatMap (flag "relay-url") mount.relayUrls)
        (flag "key-file" mount.secretKeyFile)
        [ (quote mount.where) ]
      ]);
      CacheDirectory = "drv-thru-mount";
      CacheDirectoryMode = "0700";
      Environment = "XDG_CACHE_HOME=%C/drv-thru-mount";
      Restart = "on-failure";
      RestartSec = 5;
      RestartPreventExitStatus = "2 3";
    };
  };
  keys = lib.mapAttrsToList (_: builder: builder.publicKey) cfg.trustedBuilders;

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

    trustedBuilders = mkOption {
      type = types.attrsOf (types.submodule {
        options.publicKey = mkOption {
          type = own.nixPublicKey;
          example = "drv-thru-is4ephmkvp-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=";
          description = "The builder's signing key, as `drv-thru serve` prints it there.";
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

  options.services.drv-thru.client.ticketHelper = {
    enable = lib.mkEnableOption "the import helper, with which users whom Nix does not trust import what builders have signed";
    group = mkOption {
      type = types.str;
      default = "wheel";
      example = "drv-thru-import";
      description = "The group whose members may use it.";
    };
    trustedBuilderPublicKeys = mkOption {
      type = types.listOf own.nixPublicKey;
      default = [ ];
      example = [ "drv-thru-is4ephmkvp-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=" ];
      description = ''
        The signing keys of the builders whose outputs it imports. Nix itself need not
        trust them: only what is imported through the helper is believed to them.
      '';
    };
  };

  options.services.drv-thru.client.mounts = mkOption {
    type = types.attrsOf (types.submodule {
      options = {
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
          description = "The builder's endpoint ID, instead of a ticket, where it trusts this machine's key.";
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
          example = "/run/drv-thru/attic";
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
    });
    default = { };
    description = "Caches of builders that are mounted, by a name of your choice.";
  };

  config = lib.mkIf cfg.enable (lib.mkMerge [
    (lib.mkIf helper.enable {
      assertions = [
        {
          assertion = helper.trustedBuilderPublicKeys != [ ];
          message = "services.drv-thru.client.ticketHelper: nothing can be imported without a key in trustedBuilderPublicKeys.";
        }
      ];
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
          ExecStart = "${package}/bin/drv-thru import-helper serve --trusted-public-key-file ${helperKeys}"
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
        {
          assertion = badMounts (mount: (mount.ticketFile == null) == (mount.endpointId == null)) == "";
          message = "services.drv-thru.client.mounts: set either ticketFile or endpointId of "
            + badMounts (mount: (mount.ticketFile == null) == (mount.endpointId == null)) + ".";
        }
        {
          assertion = badMounts (mount: mount.endpointId != null && (mount.relayUrls == [ ] || mount.secretKeyFile == null)) == "";
          message = "services.drv-thru.client.mounts: endpointId goes with relayUrls and secretKeyFile, which are missing of "
            + badMounts (mount: mount.endpointId != null && (mount.relayUrls == [ ] || mount.secretKeyFile == null)) + ".";
        }
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
      ];
      environment.systemPackages = [ config.services.drv-thru.package ];
      nix.settings.trusted-public-keys = keys;
    }
    # Older releases of NixOS always have fusermount3.
    (lib.optionalAttrs (options.programs.fuse ? enable) {
      programs.fuse.enable = true;
    })
  ]);
}
