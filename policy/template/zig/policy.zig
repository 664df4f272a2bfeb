//! A policy for tickets of drv-thru: it allows builds by the names of their
//! derivations, and can shorten them. Its settings:
//!
//!     {"allow": ["hello-*", "stdenv"], "max_build_seconds": 900}
//!
//! What a policy is asked and may answer is told by "drv-thru policy schema
//! request" and "drv-thru policy schema decision".

const std = @import("std");

/// The part of the request that this policy looks at.
const Request = struct {
    ticket: struct {
        limits: struct { max_build_seconds: u64 = 0 }, // 0: no limit
    },
    request: struct {
        roots: []const Named,
        roots_truncated: bool,
        to_build: []const Named,
        to_build_truncated: bool,
    },
    settings: struct {
        allow: []const []const u8 = &.{},
        max_build_seconds: u64 = 0,
    } = .{},
};

const Named = struct { name: []const u8 };

/// The answer: see "drv-thru policy schema decision".
const Answer = struct {
    text: [16 << 10]u8 = undefined,
    len: usize = 0,

    fn add(a: *Answer, s: []const u8) void {
        @memcpy(a.text[a.len..][0..s.len], s);
        a.len += s.len;
    }

    fn number(a: *Answer, n: u64) void {
        if (n > 9) a.number(n / 10);
        a.add(&.{'0' + @as(u8, @intCast(n % 10))});
    }

    /// The inside of a string.
    fn quoted(a: *Answer, s: []const u8) void {
        for (s) |c| switch (c) {
            '"', '\\' => a.add(&.{ '\\', c }),
            0...0x1f => a.add(" "),
            else => a.add(&.{c}),
        };
    }

    fn all(a: *const Answer) []const u8 {
        return a.text[0..a.len];
    }
};

fn deny(name: []const u8, reason: []const u8) Answer {
    var a: Answer = .{};
    a.add("{\"abi\":\"ticket-policy/1\",\"decision\":\"deny\",\"reason\":\"");
    a.quoted(name);
    a.add(reason);
    a.add("\"}");
    return a;
}

fn decide(r: Request) Answer {
    if (r.settings.allow.len == 0) return deny("", "the policy has no list of what to allow");
    if (r.request.roots_truncated or r.request.to_build_truncated)
        return deny("", "the list of derivations is too long to check");
    for ([_][]const Named{ r.request.roots, r.request.to_build }) |list| {
        for (list) |d| if (!allowed(d.name, r.settings.allow)) return deny(d.name, " is not allowed");
    }
    const most = r.settings.max_build_seconds;
    const now = r.ticket.limits.max_build_seconds;
    var a: Answer = .{};
    a.add("{\"abi\":\"ticket-policy/1\",\"decision\":");
    if (most > 0 and (now == 0 or most < now)) {
        a.add("\"narrow\",\"limits\":{\"max_build_seconds\":");
        a.number(most);
        a.add("}}");
    } else a.add("\"allow\"}");
    return a;
}

fn allowed(name: []const u8, patterns: []const []const u8) bool {
    for (patterns) |p| if (matches(p, name)) return true;
    return false;
}

/// Compares a name with a pattern in which * is any text and ? any character.
fn matches(pattern: []const u8, name: []const u8) bool {
    var p: usize = 0;
    var n: usize = 0;
    var star: ?usize = null;
    var from: usize = 0;
    while (n < name.len) {
        if (p < pattern.len and pattern[p] == '*') {
            star = p;
            from = n;
            p += 1;
        } else if (p < pattern.len and (pattern[p] == '?' or pattern[p] == name[n])) {
            p += 1;
            n += 1;
        } else if (star) |at| {
            from += 1;
            p = at + 1;
            n = from;
        } else return false;
    }
    while (p < pattern.len) : (p += 1) if (pattern[p] != '*') return false;
    return true;
}

fn parse(memory: std.mem.Allocator, text: []const u8) !Request {
    return std.json.parseFromSliceLeaky(Request, memory, text, .{ .ignore_unknown_fields = true });
}

var input: [1 << 20]u8 = undefined;
var heap: [4 << 20]u8 = undefined;

pub fn main() void {
    var len: usize = 0;
    while (true) {
        var n: usize = 0;
        const into = [_]std.os.wasi.iovec_t{.{ .base = input[len..].ptr, .len = input.len - len }};
        if (std.os.wasi.fd_read(0, &into, 1, &n) != .SUCCESS or n == 0) break;
        len += n;
    }
    var memory = std.heap.FixedBufferAllocator.init(&heap);
    const request = parse(memory.allocator(), input[0..len]) catch std.os.wasi.proc_exit(1); // denies
    const answer = decide(request);
    var n: usize = 0;
    const out = [_]std.os.wasi.ciovec_t{.{ .base = &answer.text, .len = answer.len }};
    _ = std.os.wasi.fd_write(1, &out, 1, &n);
}

fn expectDecision(settings: []const u8, name: []const u8, want: []const u8) !void {
    var arena = std.heap.ArenaAllocator.init(std.testing.allocator);
    defer arena.deinit();
    const text = try std.mem.concat(arena.allocator(), u8, &.{
        "{\"ticket\":{\"limits\":{}},\"request\":{\"roots\":[{\"name\":\"", name,
        "\"}],\"roots_truncated\":false,\"to_build\":[],\"to_build_truncated\":false},\"settings\":", settings, "}",
    });
    const answer = decide(try parse(arena.allocator(), text));
    try std.testing.expect(std.mem.indexOf(u8, answer.all(), want) != null);
}

test "decides" {
    try expectDecision("{\"allow\":[\"hello-*\"]}", "hello-2.12", "\"allow\"");
    try expectDecision("{\"allow\":[\"x\",\"h?llo*2\"]}", "hello-2.12", "\"allow\"");
    try expectDecision("{\"allow\":[\"hello-*\"]}", "firefox", "firefox is not allowed");
    try expectDecision("{}", "hello", "no list");
    try expectDecision("{\"allow\":[\"*\"],\"max_build_seconds\":60}", "hello", "\"max_build_seconds\":60");
}
