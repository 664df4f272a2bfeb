# The types of option values that drv-thru reads as text. Each takes nothing that
# the program refuses, and its description says how to write a value: NixOS prints
# it behind the name of the option.
lib:
let
  text = name: description: check: lib.mkOptionType {
    inherit name description;
    check = x: builtins.isString x && check x;
    merge = lib.mergeEqualOption;
  };
  matches = pattern: x: builtins.match pattern x != null;
  isNull = matches "[a-zA-Z0]*";

  # Absolute, without . and .., and without what systemd would expand.
  absolute = x: matches "(/[A-Za-z0-9._+@=,-]+)+" x && !matches ".*/\\.\\.?(/.*)?" x;
  below = dir: x: x == dir || lib.hasPrefix (dir + "/") x;

  port = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  ipv4 = "${octet}(\\.${octet}){3}";
  # RFC 4291 §2.2: eight parts, of which :: stands for those that are left out, and
  # the last two of which may be written as IPv4.
  part = "[0-9A-Fa-f]{1,4}";
  ipv6 = "((${part}:){7}${part}|(${part}:){6}${ipv4}"
    + "|::|:(:${part}){1,7}|(${part}:){1,7}:"
    + "|:(:${part}){0,5}:${ipv4}|(${part}:){1,5}:${ipv4}"
    + lib.concatStringsSep "" (map
    (n: "|(${part}:){1,${toString n}}(:${part}){1,${toString (7 - n)}}") [ 1 2 3 4 5 6 ])
    + lib.concatStringsSep "" (map
    (n: "|(${part}:){1,${toString n}}(:${part}){1,${toString (5 - n)}}:${ipv4}") [ 1 2 3 4 ])
    + ")";
  ip = "(${ipv4}|\\[${ipv6}])";
  address = "([A-Za-z0-9.-]*|\\[${ipv6}])";
in
rec {
  # The digits are bounded so that no sum overflows.
  duration = text "duration" "duration, such as \"90s\", \"30m\", \"1h30m\" or \"7d\", above 0"
    (x: matches "([0-9]{1,4}d)?([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?" x && !isNull x);

  size = text "size" "size, such as \"500M\", \"20G\" or \"1T\", or \"unlimited\""
    (x: x == "unlimited" || matches "[0-9]{1,6}T|[0-9]{1,9}G|[0-9]{1,12}M|[0-9]{1,15}K|[0-9]{1,18}" x && !isNull x);

  reserve = text "reserve" "size, such as \"500M\" or \"20G\", or null for none"
    (x: x != "unlimited" && size.check x);

  # 32 bytes are 51 characters of base32 and one bit.
  endpointId = text "endpointId" "endpoint ID (52 characters a-z and 2-7, as \"drv-thru key show\" prints it)"
    (x: matches "[a-z2-7]{51}[aq]" x && !matches "a*" x);

  nixPublicKey = text "nixPublicKey" "Nix public key (\"name:\" and 44 characters of base64, as \"drv-thru serve\" prints it)"
    (matches "[^:[:space:]]+:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=");

  relayUrl = text "relayUrl" "relay URL (https:// or http:// with a host; no user, query or fragment)"
    (x: builtins.stringLength x <= 255
      && matches "https?://([A-Za-z0-9._-]+|\\[${ipv6}])(:${port})?(/[A-Za-z0-9._~/-]*)?" x);

  listenAddress = text "listenAddress" "address to listen on, such as \":7411\", \"192.0.2.1:443\" or \"[::1]:7411\""
    (matches "${address}:${port}");

  # What serve takes for --listen: no name, because it is not looked up.
  directAddress = text "directAddress" "address to listen on, such as \":7412\", \"192.0.2.1:7412\" or \"[::1]:7412\", or \"none\""
    (x: x == "none" || matches "(${ip})?:${port}" x);

  ipAddress = text "ipAddress" "address with a port, such as \"203.0.113.7:7412\" or \"[2001:db8::1]:7412\""
    (matches "${ip}:${port}");

  hostPort = text "hostPort" "host with a port, such as \"stun.example.org:3478\""
    (matches "([A-Za-z0-9.-]+|\\[${ipv6}]):${port}");

  metricsAddress = text "metricsAddress" "address to listen on, such as \"127.0.0.1:9412\" or \":9412\""
    (matches "(${ip}|localhost)?:${port}");

  stunAddress = text "stunAddress" "address to listen on, such as \":3478\", or \"off\""
    (x: x == "off" || listenAddress.check x);

  network = text "network" "address or network, such as \"127.0.0.1\" or \"10.0.0.0/8\""
    (matches "${ipv4}(/(3[0-2]|[12]?[0-9]))?|${ipv6}(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?");

  speed = text "speed" "size in a second of at least \"16K\", such as \"100M\", or \"unlimited\""
    (x: x == "unlimited" || matches "[0-9]{1,6}T|[0-9]{1,9}G|[0-9]{1,12}M|(1[6-9]|[2-9][0-9]|[1-9][0-9]{2,14})K" x && !isNull x);

  hostName = text "hostName" "host name, with or without a port"
    (x: x != "" && matches "${address}(:${port})?" x && !matches ":.*" x);

  # The directory becomes the service's own, whatever else is in it.
  dataDir = text "dataDir" "absolute path of a directory of its own, as a string, outside /nix, /etc, /boot, /usr, /home, /root, /run and /tmp"
    (x: absolute x && !builtins.elem x [ "/var" "/var/lib" "/var/cache" "/var/log" "/srv" "/mnt" "/opt" ]
      && !lib.any (dir: below dir x)
      [ "/nix" "/etc" "/boot" "/bin" "/usr" "/home" "/root" "/run" "/tmp" "/var/tmp" "/dev" "/proc" "/sys" ]);

  # A path of Nix itself would be copied into the store.
  file = text "file" "absolute path, as a string" absolute;

  secretFile = text "secretFile" "absolute path, as a string, outside the Nix store (which everyone can read)"
    (x: absolute x && !below "/nix/store" x);

  # A name that becomes part of a unit's or of an option of the program.
  name = matches "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";

  # A list in nix.conf, which NixOS takes as one text too where it does not know it.
  words = x: if builtins.isList x then x else
  lib.filter (word: builtins.isString word && word != "") (builtins.split "[[:space:]]+" x);

  # For ExecStart=, where % and $ have a meaning.
  quote = text: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON text);
  flag = name: value: lib.optional (value != null) (quote "--${name}=${toString value}");

  # "[::1]:443" -> 443
  portOf = x: builtins.fromJSON (builtins.head (builtins.match ".*:([0-9]+)" x));

  loopback = matches "(127\\.[0-9.]*|\\[::1]|localhost)?:.*";

  # "1d1h30m" -> 91800
  seconds = x:
    let
      parts = builtins.match "(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?" x;
      part = i: decimal (builtins.elemAt parts i);
      # A number in JSON has no leading zeros.
      decimal = digits: if digits == null then 0 else
      builtins.fromJSON (builtins.head (builtins.match "0*([0-9]+)" digits));
    in
    86400 * part 1 + 3600 * part 3 + 60 * part 5 + part 7;
}
