# Configurations, and what is to become of them.
{ lib }:
let
  laptop = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq";
  desktop = "2rzv4orglylo5yb7lfyyxg25amazyb6yw3cr7eg2hjtg53atvm2q";
  key = "arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=";
  otherKey = "AV9+a8Wur0g3JAieklLME7UJUaa2lBJSJ2XP9NeAMG4=";

  server = set: { services.drv-thru.server = { enable = true; } // set; };
  relay = set: { services.drv-thru.relay = { enable = true; } // set; };
  client = set: { services.drv-thru.client = { enable = true; } // set; };
  trust = publicKey: server { trustedClients.laptop = { inherit publicKey; }; };
  believe = publicKey: client { trustedBuilders.attic = { inherit publicKey; }; };
in
{
  configs = {
    off = { };

    serverDefaults = server { };
    serverFull = server {
      dataDir = "/srv/drv-thru";
      secretKeyFile = "/run/secrets/drv-thru.key";
      maxConcurrentBuilds = 4;
      outputCacheMaxParallelFills = 8;
      recentBuildsLimit = 100;
      trustedClients = {
        laptop = { publicKey = laptop; };
        desktop = {
          publicKey = desktop;
          maxBuildTime = "1d2h3m4s";
          maxUploadBytes = "unlimited";
          cache = "store";
          policy = "few";
          priority = -100;
        };
      };
      drainTimeout = "10m";
      metrics = { listen = "192.0.2.1:9412"; public = true; };
      policies = {
        nightly = { module = "/nix/store/5cq3pjyl7xvpgabq2k9b4gz5yws0hlvv-nightly.wasm"; mode = "monitor"; };
        few.settings.ticket.builds_hour = 3;
      };
      relays = [ "https://relay.example.org" "http://[2001:db8::1]:7411/path" ];
      relayTokenFiles."https://relay.example.org" = "/run/secrets/relay-token";
      adminGroup = "builders";
      embeddedRelay = {
        enable = true;
        listen = "[::]:7412";
        urls = [ "http://builder.example.org:7412" ];
      };
      openFirewall = true;
      listen = ":7413";
      announce = [ "203.0.113.7:7413" ];
      stun = [ "stun.example.org:3478" ];
      keepOutputs = "7d";
      reattachGrace = "10m";
      maxOutputBytes = "50G";
      maxIndexBytes = "2G";
      maxLogBytes = "unlimited";
      minFree = "500M";
      cores = 8;
      maxSilentTime = "1h30m";
      systems = [ "x86_64-linux" "i686-linux" ];
    };
    # The largest values there are.
    serverLimits = server {
      keepOutputs = "9999d999999h9999999m999999999s";
      maxOutputBytes = "999999T";
      minFree = "999999999G";
      trustedClients = {
        a = { publicKey = laptop; maxUploadBytes = "999999999999M"; maxBuildTime = "0d0h0m1s"; };
        b = { publicKey = desktop; maxUploadBytes = "999999999999999999"; };
      };
      outputCacheMaxParallelFills = 16;
      embeddedRelay.listen = "127.0.0.1:65535";
    };
    serverAtRelay = server { relays = [ "https://relay.example.org" ]; minFree = null; };

    # Tickets name eight of them.
    serverNineRelays = server { relays = builtins.genList (n: "https://relay${toString n}.example.org") 9; minFree = null; };

    # A key in the state directory is made there.
    serverOwnKey = server {
      secretKeyFile = "/var/lib/drv-thru/secret.key";
      relays = [ "https://relay.example.org" ];
      listen = "192.0.2.1:7412";
      openFirewall = true;
    };

    relayDefaults = relay { };
    relayDomain = relay { domain = "relay.example.org"; openFirewall = true; };
    relayDomainBehindProxy = relay { domain = "relay.example.org"; trustedProxies = [ "::1" ]; };
    relayForwarded = relay { listen = ":8443"; acmeDomains = [ "relay.example.org" ]; };
    relayFull = relay {
      listen = "192.0.2.1:443";
      openFirewall = true;
      tlsCert = "/var/lib/acme/relay.example.org/fullchain.pem";
      tlsKey = "/var/lib/acme/relay.example.org/key.pem";
      hostNames = [ "relay.example.org" "192.0.2.1:443" ];
      logLevel = "warn";
      logAddresses = true;
      drainTimeout = "2d1h09m08s";
      maxRegistrations = 1;
      maxRegistrationsPerAddress = 2;
      maxCircuits = 3;
      maxCircuitsPerBuilder = 4;
      maxCircuitsPerAddress = 5;
      handshakeRate = 6;
      handshakeBurst = 7;
      idleTimeout = "7d";
      extraFlags = [ "--log-level=debug" ];
    };
    relayStrangers = relay {
      listen = ":443";
      openFirewall = true;
      stunListen = ":3478";
      metrics = "127.0.0.1:9411";
      acmeDomains = [ "relay.example.org" "relay.example.net" ];
      acmeEmail = "admin@example.org";
      acmeDirectory = "https://acme.example.org/directory";
      access = "token";
      tokenFiles = [ "/run/secrets/tokens" "/run/secrets/more-tokens" ];
      maxHalfOpenPerBuilder = 1;
      maxConnections = 2;
      maxConnectionsPerAddress = 3;
      maxBytesPerSecond = "1G";
      maxCircuitBytesPerSecond = "16K";
      stunRate = 4;
      halfOpenTimeout = "5s";
    };
    relayBehindProxy = relay {
      listen = "127.0.0.1:7411";
      openFirewall = true;
      hostNames = [ "relay.example.org" ];
      trustedProxies = [ "127.0.0.1" "10.0.0.0/8" "2001:db8::/32" ];
      access = "allowlist";
      allowedBuilders = [ laptop desktop ];
    };
    relayQuoted = relay { extraFlags = [ "--hostname=%n $HOME \"q\" \\" ]; };

    clientDefaults = client { };
    clientMerged = {
      imports = [
        (believe "attic-1:${key}")
        (client { trustedBuilders.cellar.publicKey = "cellar-1:${otherKey}"; })
        { nix.settings.trusted-public-keys = [ "mine-1:${otherKey}" ]; }
      ];
    };

    clientHelper = client {
      ticketHelper = {
        enable = true;
        group = "users";
        trustedBuilderPublicKeys = [ "attic-1:${key}" "cellar-1:${otherKey}" ];
      };
    };
    clientHelperOff = client { ticketHelper = { enable = false; trustedBuilderPublicKeys = [ "attic-1:${key}" ]; }; };
    clientBuilders = client {
      narFetches = 12;
      builders = {
        attic = { endpointId = laptop; relayUrl = "https://relay.example.org"; publicKey = "attic-1:${key}"; };
        cellar = {
          endpointIdFile = "/etc/drv-thru/cellar.id";
          relayUrls = [ "https://relay.example.org" "https://relay.example.net" ];
        };
      };
      mounts.attic = { builder = "attic"; secretKeyFile = "/run/secrets/drv-thru.key"; };
    };
    # As the reference of the original has it.
    original = {
      services.drv-thru = {
        package = { type = "derivation"; name = "drv-thru"; outPath = "/other"; };
        server = {
          enable = true;
          dataDir = "/var/lib/drv-thru";
          secretKeyFile = "/var/lib/drv-thru/secret.key";
          maxConcurrentBuilds = 1;
          outputCacheMaxParallelFills = null;
          recentBuildsLimit = 20;
          trustedClients.alex = { publicKey = laptop; maxBuildTime = "30m"; maxUploadBytes = "20G"; };
        };
        client = {
          enable = true;
          narFetches = null;
          builders.leviathan = {
            endpointId = null;
            endpointIdFile = "/run/secrets/drv-thru-leviathan-endpoint-id";
            relayUrl = null;
            publicKey = "drv-thru:${key}";
          };
          trustedBuilders.other.publicKey = "other:${otherKey}";
          ticketHelper = {
            enable = true;
            group = "wheel";
            trustedBuilderPublicKeys = [ "ticket-only:${otherKey}" ];
          };
        };
      };
    };
    # As an older one had it.
    originalAddresses = client {
      trustedBuilders.leviathan = { endpointId = desktop; publicKey = "drv-thru:${key}"; relayUrl = null; };
      ticketHelper.group = "drv-thru";
    };
    clientMounts = {
      imports = [
        (believe "attic-1:${key}")
        (client {
          mounts = {
            attic = {
              ticketFile = "/run/secrets/attic.ticket";
              where = "/run/drv-thru/attic";
            };
            cellar = {
              endpointId = laptop;
              relayUrls = [ "https://relay.example.org" "http://[2001:db8::1]:7411/path" ];
              secretKeyFile = "/run/secrets/drv-thru.key";
              where = "/srv/cellar";
              substituter = false;
            };
          };
        })
      ];
    };

    # All three on one machine.
    together = {
      imports = [
        (server { relays = [ "http://127.0.0.1:7411" ]; })
        (relay { openFirewall = true; })
        (believe "attic-1:${key}")
      ];
    };
    conditional = {
      services.drv-thru.server.enable = lib.mkDefault true;
      services.drv-thru.server.maxConcurrentBuilds = lib.mkMerge [ (lib.mkIf true 2) (lib.mkIf false 3) ];
      nix.settings.trusted-users = lib.mkForce [ "root" "@wheel" ];
    };
  };

  # Each fails exactly one assertion.
  refused = {
    oneKeyTwice = server {
      trustedClients = {
        laptop.publicKey = laptop;
        old-laptop.publicKey = laptop;
        desktop.publicKey = desktop;
      };
    };
    trustedUser = { imports = [ (server { }) { nix.settings.trusted-users = [ "drv-thru" ]; } ]; };
    trustedEverybody = { imports = [ (server { }) { nix.settings.trusted-users = [ "*" ]; } ]; };
    trustedExtra = { imports = [ (server { }) { nix.settings.extra-trusted-users = "alice @drv-thru"; } ]; };
    trustedGroup = {
      imports = [ (server { }) { nix.settings.trusted-users = [ "@wheel" ]; users.users.drv-thru.extraGroups = [ "wheel" ]; } ];
    };
    trustedMember = {
      imports = [ (server { }) { nix.settings.trusted-users = [ "@admins" ]; users.groups.admins.members = [ "drv-thru" ]; } ];
    };
    notAllowed = { imports = [ (server { }) { nix.settings.allowed-users = [ "@wheel" ]; } ]; };
    notSandboxed = { imports = [ (server { }) { nix.settings.sandbox = false; } ]; };
    halfSandboxed = { imports = [ (server { }) { nix.settings.sandbox = "relaxed"; } ]; };
    noNix = { imports = [ (server { }) { nix.enable = false; } ]; };
    nowhere = server { embeddedRelay.enable = false; };
    openForNothing = server { relays = [ "https://relay.example.org" ]; openFirewall = true; };
    lowListen = server { listen = ":443"; };
    listenAtRelayInside = server { listen = ":7411"; };
    listenAtRelay = { imports = [ (server { relays = [ "http://127.0.0.1:7411" ]; listen = ":7411"; }) (relay { }) ]; };
    announceNothing = server { announce = [ "203.0.113.7:7412" ]; };
    metricsForAll = server { metrics.listen = "0.0.0.0:9412"; };
    strayToken = server { relayTokenFiles."https://relay.example.org" = "/run/secrets/relay-token"; };
    unknownPolicy = server { trustedClients.laptop = { publicKey = laptop; policy = "nightly"; }; };
    policyName = server { policies."every night" = { }; };
    lowPort = server { embeddedRelay.listen = ":443"; };
    twoOnOnePort = { imports = [ (server { }) (relay { listen = "[::1]:7411"; }) ]; };
    certWithoutKey = relay { tlsCert = "/var/lib/acme/relay.example.org/fullchain.pem"; };
    keyWithoutCert = relay { tlsKey = "/var/lib/acme/relay.example.org/key.pem"; };
    acmeAndCert = relay {
      acmeDomains = [ "relay.example.org" ];
      tlsCert = "/var/lib/acme/relay.example.org/fullchain.pem";
      tlsKey = "/var/lib/acme/relay.example.org/key.pem";
    };
    acmeWithPort = relay { domain = "relay.example.org:8443"; };
    allowlistOfNobody = relay { access = "allowlist"; };
    tokensUnused = relay { tokenFiles = [ "/run/secrets/tokens" ]; };
    oneNameTwoKeys = client {
      trustedBuilders = {
        attic.publicKey = "attic-1:${key}";
        cellar.publicKey = "attic-1:${otherKey}";
      };
    };
    helperWithoutKeys = client { ticketHelper.enable = true; };
    builderOfNobody = client { builders.attic.relayUrl = "https://relay.example.org"; };
    builderTwoWays = client {
      builders.attic = { endpointId = laptop; relayUrl = "https://relay.example.org"; relayUrls = [ "https://relay.example.net" ]; };
    };
    builderOfNineRelays = client {
      builders.attic = { endpointId = laptop; relayUrls = builtins.genList (n: "https://relay${toString n}.example.org") 9; };
    };
    builderTwice = client {
      builders.attic = { endpointId = laptop; relayUrl = "https://relay.example.org"; };
      trustedBuilders.attic = { endpointId = desktop; publicKey = "attic-1:${key}"; };
    };
    builderName = client { builders."my attic" = { endpointId = laptop; relayUrl = "https://relay.example.org"; }; };
    mountOfUnknown = client { mounts.attic = { builder = "attic"; secretKeyFile = "/run/secrets/key"; }; };
    mountOfNobody = client { mounts.attic.where = "/run/attic"; };
    mountOfTwo = client {
      mounts.attic = {
        where = "/run/attic";
        ticketFile = "/run/secrets/ticket";
        endpointId = laptop;
        relayUrls = [ "https://relay.example.org" ];
        secretKeyFile = "/run/secrets/key";
      };
    };
    mountWithoutRelay = client {
      mounts.attic = {
        where = "/run/attic";
        endpointId = laptop;
        secretKeyFile = "/run/secrets/key";
      };
    };
    mountWithoutKey = client {
      mounts.attic = {
        where = "/run/attic";
        endpointId = laptop;
        relayUrls = [ "https://relay.example.org" ];
      };
    };
    mountsInOnePlace = client {
      mounts.attic = { where = "/run/attic"; ticketFile = "/run/secrets/attic"; };
      mounts.cellar = { where = "/run/attic"; ticketFile = "/run/secrets/cellar"; };
    };
    nameOfAnother = believe "cache.nixos.org-1:${key}";
    nameOfExtra = {
      imports = [ (believe "attic-1:${key}") { nix.settings.extra-trusted-public-keys = "attic-1:${otherKey}"; } ];
    };
  };

  # Each has a value that its option does not take.
  wrong = {
    "server.dataDir relative" = server { dataDir = "drv-thru"; };
    "server.dataDir home" = server { dataDir = "/home/me/drv-thru"; };
    "server.dataDir dots" = server { dataDir = "/var/lib/../../home"; };
    "server.dataDir shared" = server { dataDir = "/var/lib"; };
    "server.dataDir etc" = server { dataDir = "/etc/drv-thru"; };
    "server.dataDir specifier" = server { dataDir = "/var/lib/%n"; };
    "server.secretKeyFile path" = server { secretKeyFile = ./cases.nix; };
    "server.secretKeyFile store" = server { secretKeyFile = "/nix/store/5cq3pjyl7xvpgabq2k9b4gz5yws0hlvv-key"; };
    "server.maxConcurrentBuilds 0" = server { maxConcurrentBuilds = 0; };
    "server.outputCacheMaxParallelFills 17" = server { outputCacheMaxParallelFills = 17; };
    "server.recentBuildsLimit text" = server { recentBuildsLimit = "20"; };
    "server.trustedClients.laptop.publicKey short" = trust "nodle477gt";
    "server.trustedClients.laptop.publicKey upper" = trust "NODLE477GT6ODHLLQBHP6WR7K5D23JHKUIXR2SOADZJN3N4HLNFQ";
    "server.trustedClients.laptop.publicKey bits" = trust "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfr";
    "server.trustedClients.laptop.publicKey zero" = trust "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    "server.trustedClients.laptop.publicKey missing" = server { trustedClients.laptop = { }; };
    "server.trustedClients.laptop.maxBuildTime unit" = server { trustedClients.laptop = { publicKey = laptop; maxBuildTime = "2w"; }; };
    "server.trustedClients.laptop.maxUploadBytes unit" = server { trustedClients.laptop = { publicKey = laptop; maxUploadBytes = "20GB"; }; };
    "server.trustedClients.laptop.cache word" = server { trustedClients.laptop = { publicKey = laptop; cache = "all"; }; };
    "server.trustedClients.laptop.maxBuild unknown" = server { trustedClients.laptop = { publicKey = laptop; maxBuild = "2h"; }; };
    "server.relays scheme" = server { relays = [ "relay.example.org" ]; };
    "server.relays user" = server { relays = [ "https://me@relay.example.org" ]; };
    "server.relays query" = server { relays = [ "https://relay.example.org?x=1" ]; };
    "server.relays parts" = server { relays = [ "https://[2001:db8]" ]; };
    "server.relays text" = server { relays = "https://relay.example.org"; };
    "server.embeddedRelay.listen bare" = server { embeddedRelay.listen = "7411"; };
    "server.embeddedRelay.listen high" = server { embeddedRelay.listen = ":65536"; };
    "server.embeddedRelay.urls scheme" = server { embeddedRelay.urls = [ "ftp://builder.example.org" ]; };
    "server.listen name" = server { listen = "builder.example.org:7412"; };
    "server.listen colons" = server { listen = "[::::]:7412"; };
    "server.listen bare" = server { listen = "7412"; };
    "server.announce name" = server { listen = ":7412"; announce = [ "router.example.org:7412" ]; };
    "server.announce octet" = server { listen = ":7412"; announce = [ "203.0.113.300:7412" ]; };
    "server.stun url" = server { stun = [ "stun:stun.example.org:3478" ]; };
    "server.relayTokenFiles store" = server {
      relays = [ "https://relay.example.org" ];
      relayTokenFiles."https://relay.example.org" = "/nix/store/5cq3pjyl7xvpgabq2k9b4gz5yws0hlvv-token";
    };
    "server.metrics.listen name" = server { metrics.listen = "builder.example.org:9412"; };
    "server.drainTimeout unit" = server { drainTimeout = "1w"; };
    "server.trustedClients.laptop.priority 101" = server { trustedClients.laptop = { publicKey = laptop; priority = 101; }; };
    "server.adminGroup list" = server { adminGroup = [ "wheel" ]; };
    "server.policies.nightly.module path" = server { policies.nightly.module = ./cases.nix; };
    "server.policies.nightly.mode word" = server { policies.nightly.mode = "warn"; };
    "server.openFirewall text" = server { openFirewall = "yes"; };
    "server.keepOutputs zero" = server { keepOutputs = "0s"; };
    "server.keepOutputs empty" = server { keepOutputs = ""; };
    "server.reattachGrace order" = server { reattachGrace = "5s2m"; };
    "server.maxOutputBytes zero" = server { maxOutputBytes = "0G"; };
    "server.maxIndexBytes zero" = server { maxIndexBytes = "0"; };
    "server.maxLogBytes unit" = server { maxLogBytes = "4GB"; };
    "server.minFree unlimited" = server { minFree = "unlimited"; };
    "server.minFree number" = server { minFree = 5; };
    "server.cores negative" = server { cores = -1; };
    "server.maxSilentTime fraction" = server { maxSilentTime = "1.5h"; };
    "server.systems text" = server { systems = "x86_64-linux"; };
    "server.settings set" = server { settings = { data_dir = "/"; }; };
    "server.policies unknown" = server { policies = [ ]; };
    "relay.domain url" = relay { domain = "https://relay.example.org"; };
    "relay.listen name" = relay { listen = "relay.example.org"; };
    "relay.tlsCert path" = relay { tlsCert = ./cases.nix; };
    "relay.tlsKey relative" = relay { tlsKey = "key.pem"; };
    "relay.hostNames url" = relay { hostNames = [ "https://relay.example.org" ]; };
    "relay.logLevel word" = relay { logLevel = "trace"; };
    "relay.drainTimeout unit" = relay { drainTimeout = "1w"; };
    "relay.idleTimeout number" = relay { idleTimeout = 120; };
    "relay.stunListen bare" = relay { stunListen = "3478"; };
    "relay.trustedProxies name" = relay { trustedProxies = [ "proxy.example.org" ]; };
    "relay.trustedProxies bits" = relay { trustedProxies = [ "10.0.0.0/33" ]; };
    "relay.trustedProxies colons" = relay { trustedProxies = [ "2001::db8::/32" ]; };
    "relay.trustedProxies octet" = relay { trustedProxies = [ "10.0.0.256" ]; };
    "relay.hostNames empty" = relay { hostNames = [ "" ]; };
    "relay.access word" = relay { access = "closed"; };
    "relay.tokenFiles store" = relay { access = "token"; tokenFiles = [ "/nix/store/5cq3pjyl7xvpgabq2k9b4gz5yws0hlvv-tokens" ]; };
    "relay.maxBytesPerSecond small" = relay { maxBytesPerSecond = "15K"; };
    "relay.maxCircuits 0" = relay { maxCircuits = 0; };
    "client.trustedBuilders.attic.publicKey id" = believe laptop;
    "client.trustedBuilders.attic.publicKey signature" = believe "attic-1:${otherKey}${key}";
    "client.trustedBuilders.attic.publicKey two" = believe "attic-1:${key} cellar-1:${key}";
    "client.ticketHelper.trustedBuilderPublicKeys id" = client { ticketHelper = { enable = true; trustedBuilderPublicKeys = [ laptop ]; }; };
    "client.ticketHelper.group list" = client { ticketHelper = { enable = true; group = [ "wheel" ]; }; };
    "client.mounts.attic.where relative" = client { mounts.attic = { where = "attic"; ticketFile = "/run/ticket"; }; };
    "client.mounts.attic.where specifier" = client { mounts.attic = { where = "/run/%n"; ticketFile = "/run/ticket"; }; };
    "client.mounts.attic.ticketFile store" = client { mounts.attic = { where = "/run/attic"; ticketFile = "/nix/store/ticket"; }; };
    "client.mounts.attic.endpointId key" = client { mounts.attic = { where = "/run/attic"; endpointId = "attic-1:${key}"; }; };
    "client.mounts.attic.server unknown" = client { mounts.attic = { where = "/run/attic"; server = "attic"; }; };
    "client.mounts.attic.secretKeyFile path" = client { mounts.attic = { ticketFile = "/run/ticket"; secretKeyFile = ./cases.nix; }; };
    "client.narFetches 0" = client { narFetches = 0; };
    "client.narFetches 129" = client { narFetches = 129; };
    "client.builders.attic.endpointId short" = client { builders.attic.endpointId = "attic"; };
    "client.builders.attic.relayUrl scheme" = client { builders.attic = { endpointId = laptop; relayUrl = "relay.example.org"; }; };
    "client.builders.attic.publicKey id" = client { builders.attic = { endpointId = laptop; relayUrl = "https://relay.example.org"; publicKey = laptop; }; };
    "client.trustedBuilders.attic.endpointId key" = client { trustedBuilders.attic = { endpointId = key; publicKey = "attic-1:${key}"; }; };
    "client.mount unknown" = client { mount = { }; };
  };
}
