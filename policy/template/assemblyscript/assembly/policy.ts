// A policy for tickets of drv-thru: it allows builds by the names of their
// derivations, and can shorten them. Its settings:
//
//     {"allow": ["hello-*", "stdenv"], "max_build_seconds": 900}
//
// What a policy is asked and may answer is told by "drv-thru policy schema
// request" and "drv-thru policy schema decision".

import { Json, Kind, parse, quote } from "./json";
import { fail, readAll, write } from "./wasi";

function deny(reason: string): string {
  return '{"abi":"ticket-policy/1","decision":"deny","reason":' + quote(reason) + "}";
}

function decide(r: Json): string {
  const settings = r.get("settings");
  const build = r.get("request");
  const allow = settings.get("allow").items;
  if (allow.length == 0) return deny("the policy has no list of what to allow");
  if (build.get("roots_truncated").truth || build.get("to_build_truncated").truth) {
    return deny("the list of derivations is too long to check");
  }
  const all = build.get("roots").items.concat(build.get("to_build").items);
  for (let i = 0; i < all.length; i++) {
    const name = all[i].get("name").text;
    if (!allowed(name, allow)) return deny(name + " is not allowed");
  }
  const limit = settings.get("max_build_seconds");
  if (limit.kind != Kind.Null && !limit.whole) return deny("max_build_seconds of the policy is no whole number");
  const most = limit.number;
  const now = r.get("ticket").get("limits").get("max_build_seconds").number; // 0: no limit
  if (most > 0 && (now == 0 || most < now)) {
    return '{"abi":"ticket-policy/1","decision":"narrow","limits":{"max_build_seconds":' + most.toString() + "}}";
  }
  return '{"abi":"ticket-policy/1","decision":"allow"}';
}

function allowed(name: string, patterns: Json[]): bool {
  for (let i = 0; i < patterns.length; i++) if (matches(patterns[i].text, name)) return true;
  return false;
}

/** Compares a name with a pattern in which * is any text and ? any character. */
function matches(pattern: string, name: string): bool {
  let p = 0, n = 0, star = -1, from = 0;
  while (n < name.length) {
    const c = p < pattern.length ? pattern.charCodeAt(p) : -1;
    if (c == 0x2a) {
      star = p++;
      from = n;
    } else if (c == 0x3f || c == name.charCodeAt(n)) {
      p++;
      n++;
    } else if (star >= 0) {
      p = star + 1;
      n = ++from;
    } else return false;
  }
  while (p < pattern.length && pattern.charCodeAt(p) == 0x2a) p++;
  return p == pattern.length;
}

/** Called where something is wrong, such as a request that is not JSON. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  fail(message ? message : "failed");
}

write(1, decide(parse(readAll())));
