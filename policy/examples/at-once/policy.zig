//! No more than so many builds at once from one client, and half the limits for
//! clients that are not among friends. Its settings:
//!
//!     {"at_once": 2, "friends": ["<endpoint ID>"]}
//!
//! A client's ID is what "drv-thru key show" prints there. Without friends nobody
//! is a stranger. Who holds a ticket that is not bound to a client can have a new
//! ID for each build, so all builds of a ticket count as those of one client, too.

const std = @import("std");

const Request = struct {
    event: []const u8,
    usage: struct { active: u64 },
    ticket: struct {
        limits: struct { max_build_seconds: u64 = 0, max_upload_bytes: u64 = 0 }, // 0: no limit
    },
    client: struct { id: []const u8, usage: struct { active: u64 } },
    settings: struct {
        at_once: u64,
        friends: ?[]const []const u8 = null,
    },
};

var text: [2 << 10]u8 = undefined;

fn answer(comptime format: []const u8, args: anytype) []const u8 {
    return std.fmt.bufPrint(&text, "{{\"abi\":\"ticket-policy/1\"," ++ format ++ "}}", args) catch @trap();
}

fn stranger(r: Request) bool {
    const friends = r.settings.friends orelse return false;
    for (friends) |id| if (std.mem.eql(u8, id, r.client.id)) return false;
    return true;
}

fn decide(r: Request) []const u8 {
    if (!std.mem.eql(u8, r.event, "build")) return answer("\"decision\":\"allow\"", .{});
    const active = @max(r.client.usage.active, r.usage.active);
    if (active >= r.settings.at_once)
        return answer("\"decision\":\"deny\",\"reason\":\"you have {d} builds under way, {d} at once are allowed\"", .{ active, r.settings.at_once });
    const limits = r.ticket.limits;
    if (stranger(r) and (limits.max_build_seconds > 1 or limits.max_upload_bytes > 1)) {
        if (limits.max_upload_bytes <= 1)
            return answer("\"decision\":\"narrow\",\"limits\":{{\"max_build_seconds\":{d}}}", .{limits.max_build_seconds / 2});
        if (limits.max_build_seconds <= 1)
            return answer("\"decision\":\"narrow\",\"limits\":{{\"max_upload_bytes\":{d}}}", .{limits.max_upload_bytes / 2});
        return answer("\"decision\":\"narrow\",\"limits\":{{\"max_build_seconds\":{d},\"max_upload_bytes\":{d}}}", .{ limits.max_build_seconds / 2, limits.max_upload_bytes / 2 });
    }
    return answer("\"decision\":\"allow\"", .{});
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
    const request = std.json.parseFromSliceLeaky(Request, memory.allocator(), input[0..len], .{ .ignore_unknown_fields = true }) catch
        std.os.wasi.proc_exit(1); // denies
    const said = decide(request);
    var n: usize = 0;
    const out = [_]std.os.wasi.ciovec_t{.{ .base = said.ptr, .len = said.len }};
    _ = std.os.wasi.fd_write(1, &out, 1, &n);
}
