//! A budget that all tickets of one name share. Its settings, both optional:
//!
//!     {"builds_day": 20, "build_seconds": 36000}
//!
//! builds_day counts the builds of the last 24 hours, build_seconds all that were
//! ever run. The time that is left is the limit of the next build. A build that is
//! under way has used nothing yet; builds at once can use more than is left, by
//! what each was given.

const std = @import("std");

const Request = struct {
    event: []const u8,
    ticket: struct {
        name: []const u8,
        limits: struct { max_build_seconds: u64 = 0 }, // 0: no limit
        name_usage: struct { builds_day: u64, build_seconds: u64 },
    },
    settings: struct {
        builds_day: ?u64 = null,
        build_seconds: ?u64 = null,
    } = .{},
};

var text: [2 << 10]u8 = undefined;

fn answer(comptime format: []const u8, args: anytype) []const u8 {
    return std.fmt.bufPrint(&text, "{{\"abi\":\"ticket-policy/1\"," ++ format ++ "}}", args) catch @trap();
}

fn decide(r: Request) []const u8 {
    const used = r.ticket.name_usage;
    if (!std.mem.eql(u8, r.event, "build")) return answer("\"decision\":\"allow\"", .{});
    if (r.settings.builds_day) |most| if (used.builds_day >= most)
        return answer("\"decision\":\"deny\",\"reason\":\"tickets of this name had {d} builds in the last day, {d} are allowed\"", .{ used.builds_day, most });
    if (r.settings.build_seconds) |most| {
        if (used.build_seconds >= most)
            return answer("\"decision\":\"deny\",\"reason\":\"tickets of this name have built for {d} seconds, {d} are allowed\"", .{ used.build_seconds, most });
        const left = most - used.build_seconds;
        const now = r.ticket.limits.max_build_seconds;
        if (now == 0 or left < now) return answer("\"decision\":\"narrow\",\"limits\":{{\"max_build_seconds\":{d}}}", .{left});
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
