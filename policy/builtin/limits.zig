//! The policy of tickets that name none: caps on what was used, and limits.
//!
//! Settings, all of them optional:
//!
//!     {
//!       "ticket": {"builds": 7, "builds_hour": 3, "builds_day": 20, "active": 2,
//!                  "upload_bytes": 1000000000, "output_bytes": 1000000000, "build_seconds": 3600},
//!       "name":   {…},   of all tickets of this name together
//!       "client": {…},   of this client, whatever ticket it shows
//!       "limits": {"max_build_seconds": 600, "max_upload_bytes": 1000000,
//!                  "max_output_bytes": 1000000, "systems": ["x86_64-linux"], "no_fixed_output": true}
//!     }
//!
//! A build is denied when a cap is used up. What is left of upload_bytes,
//! output_bytes and build_seconds becomes the build's own limit, and so does what
//! is tighter in limits.

const std = @import("std");

const Usage = struct {
    builds: u64,
    builds_hour: u64,
    builds_day: u64,
    active: u64,
    upload_bytes: u64,
    output_bytes: u64,
    build_seconds: u64,
};

const Limits = struct {
    max_build_seconds: ?u64 = null,
    max_upload_bytes: ?u64 = null,
    max_output_bytes: ?u64 = null,
    systems: ?[]const []const u8 = null,
    no_fixed_output: ?bool = null,
};

const Caps = struct {
    builds: ?u64 = null,
    builds_hour: ?u64 = null,
    builds_day: ?u64 = null,
    active: ?u64 = null,
    upload_bytes: ?u64 = null,
    output_bytes: ?u64 = null,
    build_seconds: ?u64 = null,
};

const Settings = struct {
    ticket: Caps = .{},
    name: Caps = .{},
    client: Caps = .{},
    limits: Limits = .{},
};

const Request = struct {
    abi: []const u8,
    event: []const u8,
    usage: Usage,
    ticket: struct { limits: Limits, name_usage: Usage },
    client: struct { usage: Usage },
    settings: std.json.Value = .null,
};

/// What goes wrong ends in a trap, which denies.
pub const panic = std.debug.no_panic;

var answer: [16 << 10]u8 = undefined;

/// An answer that is being written.
const Writer = struct {
    len: usize = 0,

    fn text(w: *Writer, s: []const u8) void {
        if (w.len + s.len > answer.len) @trap();
        @memcpy(answer[w.len..][0..s.len], s);
        w.len += s.len;
    }

    fn number(w: *Writer, n: u64) void {
        var digits: [20]u8 = undefined;
        var i = digits.len;
        var rest = n;
        while (true) {
            i -= 1;
            digits[i] = '0' + @as(u8, @intCast(rest % 10));
            rest /= 10;
            if (rest == 0) break;
        }
        w.text(digits[i..]);
    }

    /// A string of JSON.
    fn quoted(w: *Writer, s: []const u8) void {
        w.text("\"");
        for (s) |c| switch (c) {
            '"', '\\' => w.text(&.{ '\\', c }),
            0...0x1f => w.text(" "),
            else => w.text(&.{c}),
        };
        w.text("\"");
    }

    fn head(w: *Writer, decision: []const u8) void {
        w.text("{\"abi\":\"ticket-policy/1\",\"decision\":\"");
        w.text(decision);
        w.text("\"");
    }
};

fn deny(reason: []const u8) Writer {
    var w: Writer = .{};
    w.head("deny");
    w.text(",\"reason\":");
    w.quoted(reason);
    w.text("}");
    return w;
}

const Scope = struct { whose: []const u8, usage: Usage, caps: Caps };

/// Denies when a cap is used up.
fn used(s: Scope) ?Writer {
    inline for (.{
        .{ "builds", "builds" },
        .{ "builds_hour", "builds in the last hour" },
        .{ "builds_day", "builds in the last day" },
        .{ "active", "builds under way" },
        .{ "upload_bytes", "bytes sent" },
        .{ "output_bytes", "bytes of outputs" },
        .{ "build_seconds", "seconds of building" },
    }) |c| {
        const was = @field(s.usage, c[0]);
        if (@field(s.caps, c[0])) |cap| if (was >= cap) {
            var w: Writer = .{};
            w.head("deny");
            w.text(",\"reason\":\"");
            w.text(s.whose);
            w.text(" has ");
            w.number(was);
            w.text(" " ++ c[1] ++ ", ");
            w.number(cap);
            w.text(" are allowed\"}");
            return w;
        };
    }
    return null;
}

fn tighter(limit: *?u64, candidate: ?u64) void {
    const n = candidate orelse return;
    if (limit.* == null or n < limit.*.?) limit.* = n;
}

fn has(list: []const []const u8, s: []const u8) bool {
    for (list) |x| if (std.mem.eql(u8, x, s)) return true;
    return false;
}

fn decide(memory: std.mem.Allocator, text: []const u8) !Writer {
    const r = try std.json.parseFromSliceLeaky(Request, memory, text, .{ .ignore_unknown_fields = true });
    const settings: Settings = if (r.settings == .null) .{} else std.json.parseFromValueLeaky(Settings, memory, r.settings, .{}) catch
        return deny("the settings of this policy are not what it knows");
    if (!std.mem.eql(u8, r.abi, "ticket-policy/1")) return error.UnknownAbi;
    var w: Writer = .{};
    if (!std.mem.eql(u8, r.event, "build")) {
        w.head("allow");
        w.text("}");
        return w;
    }
    const scopes = [_]Scope{
        .{ .whose = "this ticket", .usage = r.usage, .caps = settings.ticket },
        .{ .whose = "this ticket's name", .usage = r.ticket.name_usage, .caps = settings.name },
        .{ .whose = "this client", .usage = r.client.usage, .caps = settings.client },
    };
    const now = r.ticket.limits;
    var new = now;
    tighter(&new.max_build_seconds, settings.limits.max_build_seconds);
    tighter(&new.max_upload_bytes, settings.limits.max_upload_bytes);
    tighter(&new.max_output_bytes, settings.limits.max_output_bytes);
    for (scopes) |s| {
        if (used(s)) |denial| return denial;
        if (s.caps.build_seconds) |cap| tighter(&new.max_build_seconds, cap - s.usage.build_seconds);
        if (s.caps.upload_bytes) |cap| tighter(&new.max_upload_bytes, cap - s.usage.upload_bytes);
        if (s.caps.output_bytes) |cap| tighter(&new.max_output_bytes, cap - s.usage.output_bytes);
    }
    inline for (.{ "max_build_seconds", "max_upload_bytes", "max_output_bytes" }) |name| {
        if (@field(new, name)) |n| if (n == 0) return deny(name ++ " of this policy is 0");
    }

    w.head("narrow");
    w.text(",\"limits\":{");
    var first = true;
    inline for (.{ "max_build_seconds", "max_upload_bytes", "max_output_bytes" }) |name| {
        const n = @field(new, name);
        if (n != null and (@field(now, name) == null or n.? < @field(now, name).?)) {
            w.text(if (first) "\"" ++ name ++ "\":" else ",\"" ++ name ++ "\":");
            w.number(n.?);
            first = false;
        }
    }
    if (settings.limits.no_fixed_output orelse false) {
        w.text(if (first) "\"no_fixed_output\":true" else ",\"no_fixed_output\":true");
        first = false;
    }
    if (settings.limits.systems) |wanted| {
        w.text(if (first) "\"systems\":[" else ",\"systems\":[");
        first = false;
        var none = true;
        for (wanted) |s| {
            if (now.systems) |allowed| if (!has(allowed, s)) continue;
            if (!none) w.text(",");
            w.quoted(s);
            none = false;
        }
        if (none) return deny("the ticket and this policy allow no system in common");
        w.text("]");
    }
    w.text("}}");
    if (first) {
        w = .{};
        w.head("allow");
        w.text("}");
    }
    return w;
}

/// Reads the request to the end of memory, which grows with it: an instance
/// begins small, and a small one begins sooner.
fn read() []u8 {
    const page = 64 << 10;
    const base = @wasmMemorySize(0) * page;
    var len: usize = 0;
    while (true) {
        if (base + len == @wasmMemorySize(0) * page and @wasmMemoryGrow(0, 1) < 0) @trap();
        var n: usize = 0;
        const into = [_]std.os.wasi.iovec_t{.{ .base = @ptrFromInt(base + len), .len = @wasmMemorySize(0) * page - base - len }};
        if (std.os.wasi.fd_read(0, &into, 1, &n) != .SUCCESS) @trap();
        if (n == 0) break;
        len += n;
    }
    return @as([*]u8, @ptrFromInt(base))[0..len];
}

pub fn main() void {
    const w = decide(std.heap.wasm_allocator, read()) catch @trap();
    var n: usize = 0;
    const out = [_]std.os.wasi.ciovec_t{.{ .base = &answer, .len = w.len }};
    if (std.os.wasi.fd_write(1, &out, 1, &n) != .SUCCESS or n != w.len) @trap();
}
