# What neither service needs. Both have sockets, and neither has a capability
# unless it listens below port 1024.
{ lowPort ? false }:
{
  CapabilityBoundingSet = if lowPort then "CAP_NET_BIND_SERVICE" else "";
  AmbientCapabilities = if lowPort then "CAP_NET_BIND_SERVICE" else "";
  # In a user namespace of its own, that capability would not count.
  PrivateUsers = !lowPort;

  DevicePolicy = "closed";
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateMounts = true;
  PrivateTmp = true;
  ProcSubset = "pid";
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  RemoveIPC = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [ "@system-service" "~@privileged" "~@resources" ];
  UMask = "0077";
}
